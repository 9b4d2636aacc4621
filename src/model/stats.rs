//! What was measured of a model and its last generation.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ExpertOffload;
use crate::device::DeviceMemory;
use crate::paging::PagingStats;
use crate::units::human_bytes;

/// What was measured: the load, the last generation, and the memory now in use.
///
/// Token counts are the tokenizer's, times are a monotonic clock's. A rate is `None` until there
/// is something to measure it on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Seconds from [`load`](crate::MoeModelBuilder::load) to a model that can generate.
    pub load_seconds: f64,
    /// Tokens of the last prompt.
    pub prompt_tokens: u64,
    /// How many of them were still in the KV cache and not computed again.
    pub reused_tokens: u64,
    /// Messages that were left out of the last conversation because it was too long; see
    /// [`Overflow`](crate::Overflow).
    #[serde(default)]
    pub dropped_messages: u64,
    /// Whether a format that llama.cpp knows wrote the last prompt, as the model's own template does not work, or not
    /// for that conversation; [`ChatTemplate::render`](crate::ChatTemplate::render) of
    /// [`MoeModel::chat_template`](crate::MoeModel::chat_template) says why.
    #[serde(default)]
    pub used_known_format: bool,
    /// Tokens generated, without the one that ends the text.
    pub generated_tokens: u64,
    /// Seconds from the call of `generate` to the first token.
    pub first_token_seconds: Option<f64>,
    /// Prompt tokens computed per second.
    pub prefill_tokens_per_second: Option<f64>,
    /// Tokens per second after the first.
    pub decode_tokens_per_second: Option<f64>,
    /// Bytes of CPU memory that checkpoints take now, beside those of `devices`; see
    /// [`checkpoint_bytes`](crate::MoeModelBuilder::checkpoint_bytes).
    #[serde(default)]
    pub checkpoint_bytes: u64,
    /// Memory by device.
    pub devices: Vec<DeviceMemory>,
    /// What paging experts from disk did; `None` where none are on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paging: Option<PagingStats>,
    /// Where experts in CPU memory are computed; `None` where no device could compute them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_offload: Option<ExpertOffload>,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |rate: Option<f64>| match rate {
            Some(rate) => format!("{rate:.1} tokens/s"),
            None => "-".to_owned(),
        };
        let first = self.first_token_seconds.map_or("-".to_owned(), |s| format!("{s:.3} s"));
        writeln!(f, "load {:.2} s, first token {first}", self.load_seconds)?;
        writeln!(
            f,
            "prompt {} tokens ({} reused), prefill {}",
            self.prompt_tokens,
            self.reused_tokens,
            rate(self.prefill_tokens_per_second)
        )?;
        if self.dropped_messages > 0 {
            writeln!(f, "({} of the oldest messages were left out)", self.dropped_messages)?;
        }
        if self.used_known_format {
            writeln!(f, "(by a format that llama.cpp knows, not the model's own template)")?;
        }
        let decode = rate(self.decode_tokens_per_second);
        writeln!(f, "answer {} tokens, decode {decode}", self.generated_tokens)?;
        let width =
            self.devices.iter().map(|d| d.name.chars().count()).max().unwrap_or(0).clamp(6, 60);
        write!(f, "{:width$}  {:>11}  {:>11}  {:>11}", "memory", "weights", "context", "compute")?;
        for device in &self.devices {
            write!(
                f,
                "\n{:width$}  {:>11}  {:>11}  {:>11}",
                device.name,
                human_bytes(device.weights_bytes),
                human_bytes(device.context_bytes),
                human_bytes(device.compute_bytes)
            )?;
        }
        if self.checkpoint_bytes > 0 {
            write!(f, "\n({} of CPU memory in checkpoints)", human_bytes(self.checkpoint_bytes))?;
        }
        if let Some(paging) = &self.paging {
            write!(f, "\n{paging}")?;
        }
        if let Some(offload) = &self.expert_offload {
            write!(f, "\n({offload})")?;
        }
        Ok(())
    }
}
