//! The context of a model as far as sizes depend on it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::units::GgmlType;

/// Context tokens when nothing is asked for, or the model's own maximum if that is less.
const DEFAULT_CONTEXT_TOKENS: u32 = 4096;
/// The engine's positions are 32-bit and signed.
pub(crate) const MAX_CONTEXT_TOKENS: u32 = i32::MAX as u32;

/// Sizes of the context that a model is to run with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContextOptions {
    /// Tokens of prompt and answer together that the KV cache holds. `None`: as many as the model
    /// was trained for, at most 4096.
    pub context_tokens: Option<u32>,
    /// Tokens handed to the engine at once while the prompt is read; at least a micro-batch.
    pub batch_tokens: u32,
    /// Tokens computed at once while the prompt is read (llama.cpp's *ubatch*).
    pub micro_batch_tokens: u32,
    /// The micro-batch may be larger, up to 2048 tokens, where experts are in CPU memory and a device computes prompts:
    /// under `fit` as far as the experts that leave the device for it cost less than it gains, by the estimate that
    /// [`OpenChoices`] has; under other policies as far as the device's free memory is known to suffice. Say `false`
    /// where `micro_batch_tokens` is to be kept.
    #[serde(default, skip_serializing_if = "is_false")]
    pub micro_batch_grows: bool,
    /// Element type of keys and values: `f16`, or `q8_0` for half the memory.
    #[serde(default = "default_kv_type")]
    pub kv_type: GgmlType,
    /// The KV cache is in CPU memory, and attention is computed there.
    #[serde(default)]
    pub cache_on_host: bool,
    /// Large batches of what is in CPU memory are computed on a device, which gets a copy for it. See
    /// `MoeModelBuilder::operation_offload`.
    #[serde(default = "yes")]
    pub operation_offload: bool,
    /// Tokens from which experts in CPU memory are computed on a device. `None`: the faster of 1 and the engine's own
    /// number, by a measurement of `MoeModelBuilder::load`. See `MoeModelBuilder::expert_offload_tokens`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_offload_tokens: Option<u32>,
    /// Conversations that may be computed together; they share the context's tokens. See
    /// `MoeModel::generate_together`.
    #[serde(default = "one")]
    pub sequences: u32,
    /// What the policy `fit` may choose instead of the values above.
    #[serde(default, skip_serializing_if = "OpenChoices::is_none")]
    pub open: OpenChoices,
}

/// Sizes that are left open for the policy `fit` to choose, together with where experts go. The
/// other policies take the values that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenChoices {
    /// A larger context than asked for, up to what the model was trained for, in memory that no
    /// expert needs.
    pub context_tokens: bool,
    /// `q8_0` instead of the type that is set, if an answer takes at least a twentieth less time
    /// with it, by a rough estimate: 2048 tokens of prompt and 256 of answer, of which only moving
    /// the weights and the cache counts, at 50 GB/s in CPU memory, 500 GB/s on a device and 20 GB/s
    /// between them.
    pub kv_type: bool,
    /// A micro-batch of 128 to 2048 tokens, whichever takes least time by the same estimate.
    pub micro_batch_tokens: bool,
}

impl OpenChoices {
    /// Everything is left open.
    pub fn all() -> Self {
        Self { context_tokens: true, kv_type: true, micro_batch_tokens: true }
    }

    /// Where nobody chooses.
    pub(crate) fn check_none(self) -> Result<()> {
        let open = [
            ("context_tokens", self.context_tokens),
            ("kv_type", self.kv_type),
            ("micro_batch_tokens", self.micro_batch_tokens),
        ];
        match open.into_iter().find(|(_, is_open)| *is_open) {
            Some((option, _)) => {
                let expected = "given, as only the policy `fit` chooses it";
                Err(Error::InvalidOption { option, value: "left open".to_owned(), expected })
            }
            None => Ok(()),
        }
    }

    #[allow(clippy::trivially_copy_pass_by_ref)] // serde wants it so
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The types that the engine offers for the KV cache.
const KV_TYPES: [&str; 9] =
    ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"];

/// The engine's own limit (`LLAMA_MAX_SEQ`).
const MAX_SEQUENCES: u32 = 256;

#[allow(clippy::trivially_copy_pass_by_ref)] // serde wants it so
fn is_false(value: &bool) -> bool {
    !value
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn default_kv_type() -> GgmlType {
    GgmlType::F16
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self {
            context_tokens: None,
            batch_tokens: 2048,
            micro_batch_tokens: 512,
            micro_batch_grows: true,
            kv_type: GgmlType::F16,
            cache_on_host: false,
            operation_offload: true,
            expert_offload_tokens: None,
            sequences: 1,
            open: OpenChoices::default(),
        }
    }
}

impl ContextOptions {
    /// A context of so many tokens.
    pub fn with_context_tokens(context_tokens: u32) -> Self {
        Self { context_tokens: Some(context_tokens), ..Self::default() }
    }

    /// Tokens that the engine computes at once at most.
    pub(crate) fn computed_at_once(&self) -> u64 {
        u64::from(self.micro_batch_tokens.min(self.batch_tokens))
    }

    /// The same options for a model that was trained for so many tokens, where that is known, with nothing left open.
    pub(crate) fn resolve(&self, trained: Option<u32>) -> Result<Self> {
        let tokens = self.context_tokens.unwrap_or_else(|| {
            trained.unwrap_or(DEFAULT_CONTEXT_TOKENS).min(DEFAULT_CONTEXT_TOKENS)
        });
        let sizes = [
            ("context_tokens", tokens),
            ("micro_batch_tokens", self.micro_batch_tokens),
            ("batch_tokens", self.batch_tokens),
        ];
        for (option, value) in sizes {
            if value == 0 || value > MAX_CONTEXT_TOKENS {
                let expected = "from 1 to 2147483647";
                return Err(Error::InvalidOption { option, value: value.to_string(), expected });
            }
        }
        if let Some(tokens) = self.expert_offload_tokens {
            self.check_expert_offload(tokens)?;
        }
        if self.sequences == 0 || self.sequences > MAX_SEQUENCES {
            let (option, value) = ("sequences", self.sequences.to_string());
            return Err(Error::InvalidOption { option, value, expected: "from 1 to 256" });
        }
        if !KV_TYPES.contains(&self.kv_type.name()) {
            return Err(Error::InvalidOption {
                option: "kv_type",
                value: self.kv_type.to_string(),
                expected: "f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0 or q5_1",
            });
        }
        let batch_tokens = self.batch_tokens.max(self.micro_batch_tokens);
        // A batch holds one token of each sequence while texts are made together.
        if self.sequences > batch_tokens {
            let (option, value) = ("sequences", self.sequences.to_string());
            return Err(Error::InvalidOption { option, value, expected: "at most `batch_tokens`" });
        }
        let (open, micro_batch_grows) = (OpenChoices::default(), false);
        let context_tokens = Some(tokens);
        Ok(Self { context_tokens, batch_tokens, micro_batch_grows, open, ..self.clone() })
    }

    fn check_expert_offload(&self, tokens: u32) -> Result<()> {
        let expected = match tokens {
            0 => "from 1 to 2147483647",
            _ if tokens > MAX_CONTEXT_TOKENS => "from 1 to 2147483647",
            _ if !self.operation_offload => "nothing where `operation_offload` is off",
            _ => return Ok(()),
        };
        let (option, value) = ("expert_offload_tokens", tokens.to_string());
        Err(Error::InvalidOption { option, value, expected })
    }

    /// Whether a context of these options holds whatever one of `other` does: where windows are kept, a larger
    /// micro-batch makes them longer.
    #[cfg(feature = "llama")]
    pub(crate) fn holds_state_of(&self, other: &Self) -> bool {
        let alike = Self {
            batch_tokens: self.batch_tokens,
            micro_batch_tokens: self.micro_batch_tokens,
            operation_offload: self.operation_offload,
            expert_offload_tokens: self.expert_offload_tokens,
            ..other.clone()
        };
        alike == *self && other.micro_batch_tokens <= self.micro_batch_tokens
    }
}
