//! What can be set, and which settings are tried.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LoadMode, MoeModelBuilder, OffloadPolicy};

/// One way to load a model and compute with it.
///
/// ```
/// use moe_offload::MoeModel;
/// use moe_offload::tune::Candidate;
/// let candidate = Candidate { threads: 2, ..Candidate::defaults() };
/// let builder = candidate.apply(MoeModel::builder("model.gguf"));
/// # let _ = builder;
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// Where the tensors go.
    pub policy: OffloadPolicy,
    /// Threads that compute on the CPU.
    pub threads: u32,
    /// Tokens computed at once while a prompt is read.
    pub micro_batch_tokens: u32,
    /// How weights in CPU memory come from the file.
    pub load_mode: LoadMode,
    /// Large batches of what is in CPU memory are computed on a device.
    pub operation_offload: bool,
}

impl Candidate {
    /// What a model gets that is loaded without saying anything. Where a device computes prompts with experts in CPU
    /// memory, its micro-batch may be larger then, as its plan tells.
    pub fn defaults() -> Self {
        let context = crate::ContextOptions::default();
        Self {
            policy: OffloadPolicy::default(),
            threads: crate::load::defaults::default_threads(),
            micro_batch_tokens: context.micro_batch_tokens,
            load_mode: LoadMode::default(),
            operation_offload: context.operation_offload,
        }
    }

    /// The builder with these settings.
    pub fn apply(&self, builder: MoeModelBuilder) -> MoeModelBuilder {
        builder
            .policy(self.policy.clone())
            .threads(self.threads)
            .micro_batch_tokens(self.micro_batch_tokens)
            .load_mode(self.load_mode)
            .operation_offload(self.operation_offload)
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, threads, micro_batch_tokens, load_mode, operation_offload } = self;
        write!(
            f,
            "{policy}, threads {threads}, micro-batch {micro_batch_tokens}, load {load_mode}"
        )?;
        write!(f, ", operation offload {}", if *operation_offload { "on" } else { "off" })
    }
}

/// One thing that can be set, with the values to try.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dimension {
    /// Placements, in any order.
    Policy(Vec<OffloadPolicy>),
    /// On and off.
    OperationOffload(Vec<bool>),
    /// Numbers of threads, ascending.
    Threads(Vec<u32>),
    /// Sizes of the micro-batch, ascending.
    MicroBatch(Vec<u32>),
    /// Ways to load, in any order.
    LoadMode(Vec<LoadMode>),
}

impl Dimension {
    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Policy(_) => "policy",
            Self::OperationOffload(_) => "operation offload",
            Self::Threads(_) => "threads",
            Self::MicroBatch(_) => "micro-batch",
            Self::LoadMode(_) => "load mode",
        }
    }

    /// The candidate's neighbours along this dimension, nearest first: upwards and downwards where
    /// values have an order, else all others.
    pub(super) fn lines(&self, from: &Candidate) -> Vec<Vec<Candidate>> {
        match self {
            Self::Policy(policies) => {
                let others = policies.iter().filter(|policy| **policy != from.policy);
                let with =
                    |policy: &OffloadPolicy| Candidate { policy: policy.clone(), ..from.clone() };
                vec![others.map(with).collect()]
            }
            Self::OperationOffload(values) => {
                let others = values.iter().filter(|value| **value != from.operation_offload);
                let with = |&value| Candidate { operation_offload: value, ..from.clone() };
                vec![others.map(with).collect()]
            }
            Self::Threads(values) => {
                let with = |threads| Candidate { threads, ..from.clone() };
                up_and_down(values, from.threads, with)
            }
            Self::MicroBatch(values) => {
                let with = |micro_batch_tokens| Candidate { micro_batch_tokens, ..from.clone() };
                up_and_down(values, from.micro_batch_tokens, with)
            }
            Self::LoadMode(values) => {
                let others = values.iter().filter(|value| **value != from.load_mode);
                let with = |&load_mode| Candidate { load_mode, ..from.clone() };
                vec![others.map(with).collect()]
            }
        }
    }
}

fn up_and_down(values: &[u32], from: u32, with: impl Fn(u32) -> Candidate) -> Vec<Vec<Candidate>> {
    let mut values = values.to_vec();
    values.sort_unstable();
    let up = values.iter().filter(|&&value| value > from).map(|&value| with(value));
    let down = values.iter().rev().filter(|&&value| value < from).map(|&value| with(value));
    vec![up.collect(), down.collect()]
}

/// Everything that is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    /// What a setting has to beat: the first of these that loads. The defaults come first.
    pub references: Vec<Candidate>,
    /// What is likely to be faster than any of these, tried before all else.
    pub likely: Vec<Candidate>,
    /// What can be set, in the order in which it is tried: what matters most first.
    pub dimensions: Vec<Dimension>,
}

/// Numbers of threads worth trying on so many cores.
pub(super) fn thread_counts(cores: u32) -> Vec<u32> {
    let cores = cores.max(1);
    let mut counts: Vec<u32> =
        [1, 2, cores / 4, cores / 2, cores / 4 * 3, cores - 1, cores].into_iter().collect();
    counts.retain(|&count| (1..=cores).contains(&count));
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Sizes of the micro-batch that differ for such a prompt.
pub(super) fn micro_batches(prompt_tokens: u32) -> Vec<u32> {
    let longest = prompt_tokens.max(128).checked_next_power_of_two().unwrap_or(u32::MAX);
    [128, 256, 512, 1024, 2048, 4096].into_iter().filter(|&size| size <= longest).collect()
}
