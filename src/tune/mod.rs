//! Finding the fastest setting for this machine by short measured trials.
//!
//! [`MoeModel::tune`](crate::MoeModel::tune) does it all. An [`Environment`] says what figures hold for, a [`Summary`]
//! what several samples come to.
//!
//! [`search`] is pure: it asks a function for the figures of a [`Candidate`]. [`Tuner`] gives it one
//! that loads and measures, and keeps what was found in a file.

mod cache;
mod candidate;
mod environment;
mod key;
mod search;
mod shortage;
mod snippet;
mod statistics;
#[cfg(test)]
mod tests;
mod trial;
mod tuner;
mod tuning;

pub use self::candidate::{Candidate, Dimension, Space};
pub use self::environment::{Environment, ModelFacts};
pub use self::key::TuneKey;
pub use self::search::{
    Attempt, Check, Figures, Found, Left, Limits, Measured, Outcome, Purpose, Stop, Trial, search,
};
pub use self::shortage::{PassedOver, Shortage};
pub use self::statistics::Summary;
pub use self::tuner::{TuneProgress, Tuner};
pub use self::tuning::{TUNING_VERSION, Tuning};
pub use crate::engine::Revision;
