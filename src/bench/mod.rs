//! Measuring policies against each other, so that every figure says where it comes from.
//!
//! A [`Protocol`] says what to measure. It falls into [`Task`]s, each of which
//! [`measure`](measure()) does, best in a process of its own. [`run`] gives them out in turn and keeps
//! a [`Journal`], which can be resumed. A [`Report`] sums the journal up as Markdown, CSV and
//! pictures, and [`faults`] says which figures are not to be believed.
//!
//! [`MoeModel::tune`](crate::MoeModel::tune) finds the fastest setting for this machine.
//!
//! A saving is only shown beside a baseline of the same run. What each figure means is in
//! `docs/benchmarking.md`; `examples/bench.rs` is the program.

mod agreement;
mod builder;
mod checks;
mod compare;
mod energy;
mod environment;
mod error;
mod expected;
mod journal;
mod measure;
mod policy_spec;
mod process_memory;
mod protocol;
mod quality;
mod record;
mod report;
mod runner;
mod statistics;
mod t_distribution;
mod task;
#[cfg(test)]
mod tests;
mod tune;

pub use self::agreement::{AGREEMENT_DRIFT, AGREEMENT_LEVEL, Agreement, Compared};
pub use self::checks::{Fault, faults};
pub use self::energy::Energy;
pub use self::environment::{Environment, ModelFacts};
pub use self::error::{BenchError, BenchResult};
pub use self::journal::Journal;
pub use self::measure::measure;
pub use self::policy_spec::PolicyChoice;
pub use self::process_memory::ProcessMemory;
pub use self::protocol::{
    ModelChoice, PROTOCOL_VERSION, Prompt, Protocol, QualityProtocol, Setting, default_prompts,
};
pub use self::quality::{Against, Quality, kl_bound_nats};
pub use self::record::{
    Answer, ExpectedWeights, LayerPlace, QualityRecord, RECORD_VERSION, Record, SpeedRecord,
};
pub use self::report::{Report, Saving};
pub use self::runner::{Progress, run};
pub use self::statistics::Summary;
pub use self::task::Task;
pub use self::tune::{
    Attempt, Candidate, Check, Dimension, Figures, Found, Left, Limits, Measured, Outcome,
    PassedOver, Purpose, Shortage, Space, Stop, TUNING_VERSION, Trial, TuneKey, TuneProgress,
    Tuner, Tuning, search,
};
pub use crate::engine::{ExpertUse, Revision};
