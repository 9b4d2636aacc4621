//! What was measured, as lines of a journal.

use moe_offload::ExpertUse;
use moe_offload::tune::Environment;
use moe_offload::{Device, DeviceMemory};
use serde::{Deserialize, Serialize};

use super::energy::Energy;
use super::process_memory::ProcessMemory;
use super::protocol::{Protocol, Setting};
use super::quality::Quality;
use super::task::Task;

/// The version of [`Record`].
pub const RECORD_VERSION: u32 = 1;

/// One line of a journal. The schema is in `docs/benchmarking.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)] // a handful of them
pub enum Record {
    /// The first line.
    Run {
        /// [`RECORD_VERSION`].
        record_version: u32,
        /// What is measured.
        protocol: Protocol,
    },
    /// Where it is measured.
    Environment(Environment),
    /// One load with its answers.
    Speed(SpeedRecord),
    /// Quality under one policy.
    Quality(QualityRecord),
    /// Which experts were used.
    ExpertUse {
        /// Of what.
        setting: Setting,
        /// The counts.
        counted: ExpertUse,
        /// Seconds of the answers while it was counted.
        counted_seconds: f64,
        /// Seconds of the same answers without counting, in the same task.
        uncounted_seconds: f64,
    },
    /// It did not fit a device; there is nothing to measure.
    DoesNotFit {
        /// What was tried.
        #[serde(flatten)]
        task: Task,
        /// The device.
        device: String,
        /// Bytes that the plan needs there.
        needed_bytes: u64,
        /// Bytes that were free there.
        free_bytes: u64,
    },
    /// It failed; resuming tries again.
    Failed {
        /// What was tried.
        #[serde(flatten)]
        task: Task,
        /// Why.
        reason: String,
    },
}

/// One load of a model and its answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SpeedRecord {
    /// What was measured.
    pub setting: Setting,
    /// The how-manieth time, counted from 0.
    pub repetition: u32,
    /// The policy that the model was loaded by.
    pub policy: String,
    /// Seconds from `load` to a model that can generate.
    pub load_seconds: f64,
    /// The answers, in the protocol's order of prompts.
    pub answers: Vec<Answer>,
    /// Memory by device, by the engine's account and the device's own.
    pub memory: Vec<DeviceMemory>,
    /// The devices that the process saw.
    pub devices: Vec<Device>,
    /// What this policy has to put on each device, computed from the file by whoever gave the task;
    /// `None` where only the engine can tell (`fit`).
    pub expected: Option<Vec<ExpectedWeights>>,
    /// Where the layers are.
    pub placement: Vec<LayerPlace>,
    /// The process's own memory.
    pub process: ProcessMemory,
    /// Energy during the answers, where the machine tells.
    pub energy: Option<Energy>,
    /// Seconds that the whole task took, by the clock of the process that gave it.
    pub task_seconds: f64,
}

/// One answer to one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The prompt's name.
    pub prompt: String,
    /// Tokens of the prompt, by the model's tokenizer.
    pub prompt_tokens: u64,
    /// How many of them were not computed anew; 0 unless something is wrong.
    pub reused_tokens: u64,
    /// Tokens of the answer.
    pub answer_tokens: u64,
    /// Seconds from the call to the first token of the answer.
    pub first_token_seconds: Option<f64>,
    /// Tokens of the prompt computed per second.
    pub prefill_tokens_per_second: Option<f64>,
    /// Tokens per second after the first.
    pub decode_tokens_per_second: Option<f64>,
    /// Seconds from before the call until the answer was over, by the system's wall clock, which is
    /// another than the one that the rates come from.
    pub wall_seconds: f64,
}

impl Answer {
    /// Seconds that the rates stand for: tokens over rate, of prompt and answer.
    pub fn counted_seconds(&self) -> f64 {
        #[allow(clippy::cast_precision_loss)] // token counts are small
        let seconds = |tokens: u64, rate: Option<f64>| {
            rate.filter(|&rate| rate > 0.0).map_or(0.0, |rate| tokens as f64 / rate)
        };
        let computed = self.prompt_tokens.saturating_sub(self.reused_tokens);
        seconds(computed, self.prefill_tokens_per_second)
            + seconds(self.answer_tokens.saturating_sub(1), self.decode_tokens_per_second)
    }
}

/// Weights that a policy has to put on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExpectedWeights {
    /// The device.
    pub device: String,
    /// Bytes of weights with what alignment adds.
    pub weights_bytes: u64,
}

/// Where one layer is. Experts on disk are not among its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerPlace {
    /// The layer.
    pub layer: u32,
    /// The device of what is no expert.
    pub device: String,
    /// Bytes of experts on devices.
    pub expert_bytes_on_devices: u64,
    /// Bytes of experts in CPU memory.
    pub expert_bytes_on_cpu: u64,
}

/// Quality under one policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QualityRecord {
    /// Of what.
    pub setting: Setting,
    /// What was found.
    pub quality: Quality,
    /// The largest mean divergence that placement alone may cause here, in nats; `None` where no
    /// backend of the devices has a known one.
    pub kl_bound_nats: Option<f64>,
}

impl Record {
    /// The task that this is the outcome of; `None` for the first line.
    pub fn task(&self) -> Option<Task> {
        match self {
            Self::Run { .. } => None,
            Self::Environment(_) => Some(Task::Environment),
            Self::Speed(speed) => {
                Some(Task::Speed { setting: speed.setting.clone(), repetition: speed.repetition })
            }
            Self::Quality(quality) => Some(Task::Quality { setting: quality.setting.clone() }),
            Self::ExpertUse { setting, .. } => Some(Task::ExpertUse { setting: setting.clone() }),
            Self::DoesNotFit { task, .. } | Self::Failed { task, .. } => Some(task.clone()),
        }
    }

    /// Whether nothing more is to be done for its task.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Failed { .. })
    }
}

impl SpeedRecord {
    /// All that the engine allocated on devices other than the CPU.
    pub fn device_bytes(&self) -> u64 {
        let devices = self.memory.iter().filter(|memory| memory.name != moe_offload::plan::CPU);
        devices.map(DeviceMemory::total_bytes).sum()
    }
}
