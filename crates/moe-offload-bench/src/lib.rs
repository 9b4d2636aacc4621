//! Measuring policies against each other, so that every figure says where it comes from.
//!
//! A [`Protocol`] says what to measure. It falls into [`Task`]s, each of which
//! [`measure`](measure()) does, best in a process of its own. [`run`] gives them out in turn and keeps
//! a [`Journal`], which can be resumed. A [`Report`] sums the journal up as Markdown, CSV and
//! pictures, and [`faults`] says which figures are not to be believed.
//!
//! A saving is only shown beside a baseline of the same run. What each figure means is in
//! `docs/benchmarking.md`; `examples/bench` is the program, which also tunes by
//! [`MoeModel::tune`](moe_offload::MoeModel::tune).

#![cfg(feature = "llama")]
#![forbid(unsafe_code)]

mod agreement;
mod builder;
mod checks;
mod compare;
mod energy;
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
mod t_distribution;
mod task;
#[cfg(test)]
mod tests;

pub use self::agreement::{AGREEMENT_DRIFT, AGREEMENT_LEVEL, Agreement, Compared};
pub use self::checks::{Fault, faults};
pub use self::energy::Energy;
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
pub use self::task::Task;
pub use moe_offload::ExpertUse;
pub use moe_offload::tune::{Environment, ModelFacts, Revision, Summary};
