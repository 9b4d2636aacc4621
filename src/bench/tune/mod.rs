//! Finding the fastest setting for this machine by short measured trials.
//!
//! [`search`] is pure: it asks a function for the figures of a [`Candidate`]. [`Tuner`] gives it one
//! that loads and measures, and keeps what was found in a file.

mod cache;
mod candidate;
mod key;
mod search;
mod shortage;
mod snippet;
#[cfg(test)]
mod tests;
mod trial;
mod tuner;
mod tuning;

pub use self::candidate::{Candidate, Dimension, Space};
pub use self::key::TuneKey;
pub use self::search::{
    Attempt, Check, Figures, Found, Left, Limits, Measured, Outcome, Purpose, Stop, Trial, search,
};
pub use self::shortage::{PassedOver, Shortage};
pub use self::tuner::{TuneProgress, Tuner};
pub use self::tuning::{TUNING_VERSION, Tuning};
