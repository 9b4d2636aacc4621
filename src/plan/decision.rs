//! What `fit` decided beside the places of experts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gguf::GgmlType;
use crate::units::human_bytes;

/// Something that was given up or chosen where nobody said it, by `fit` (see
/// [`Fit::fallbacks`](crate::policy::Fit::fallbacks) and [`OpenChoices`](super::OpenChoices)) or for prompts that a
/// device computes with experts in CPU memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Decision {
    /// The first layers are computed on the CPU, because not even what is used for every token
    /// fitted.
    FewerLayers {
        /// How many.
        host_layers: u32,
    },
    /// The KV cache is in CPU memory, for the same reason.
    CacheToHost,
    /// The context is smaller than was asked for, for the same reason.
    SmallerContext {
        /// Its tokens.
        context_tokens: u32,
        /// Tokens that were asked for.
        asked_tokens: u32,
    },
    /// The context was left open, and there was room for more.
    LargerContext {
        /// Its tokens.
        context_tokens: u32,
        /// Tokens that it would have had.
        default_tokens: u32,
    },
    /// The cache's type was left open.
    KvType {
        /// What was chosen.
        kv_type: GgmlType,
    },
    /// The micro-batch was left open, or [may grow](super::ContextOptions::micro_batch_grows).
    MicroBatch {
        /// Tokens computed at once.
        micro_batch_tokens: u32,
    },
    /// Weights in CPU memory are read into memory that a device reads directly (`LoadMode::Auto`).
    PinnedWeights {
        /// Their bytes.
        weights_bytes: u64,
    },
    /// They would have been, but CPU memory does not certainly hold them, with a tenth of it to spare: they are
    /// mapped, and a device reads prompts more slowly.
    MappedWeights {
        /// What would have to be in CPU memory.
        needed_bytes: u64,
        /// What is available; `None` if the system does not tell.
        available_bytes: Option<u64>,
    },
    /// Weights in CPU memory are held as asked for, which is memory that no device pins: a device reads prompts more
    /// slowly than with `LoadMode::Pinned`.
    UnpinnedWeights {
        /// How they are held, as `LoadMode` is written.
        load_mode: String,
    },
}

impl Decision {
    /// Whether it is about how weights in CPU memory are held, which is decided anew for each load.
    #[cfg(feature = "llama")]
    pub(super) fn is_of_load(&self) -> bool {
        matches!(
            self,
            Self::PinnedWeights { .. } | Self::MappedWeights { .. } | Self::UnpinnedWeights { .. }
        )
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewerLayers { host_layers: 1 } => {
                f.write_str("gave up: the first layer is computed on the CPU")
            }
            Self::FewerLayers { host_layers } => {
                write!(f, "gave up: the first {host_layers} layers are computed on the CPU")
            }
            Self::CacheToHost => f.write_str("gave up: the KV cache is in CPU memory"),
            Self::SmallerContext { context_tokens, asked_tokens } => {
                write!(f, "gave up: {context_tokens} context tokens instead of {asked_tokens}")
            }
            Self::LargerContext { context_tokens, default_tokens } => {
                write!(f, "chose: {context_tokens} context tokens instead of {default_tokens}")
            }
            Self::KvType { kv_type } => write!(f, "chose: KV cache in {kv_type}"),
            Self::MicroBatch { micro_batch_tokens } => {
                write!(f, "chose: {micro_batch_tokens} tokens computed at once")
            }
            Self::PinnedWeights { weights_bytes } => {
                let weights = human_bytes(*weights_bytes);
                write!(f, "chose: {weights} of weights in pinned CPU memory")
            }
            Self::MappedWeights { needed_bytes, available_bytes } => {
                let needed = human_bytes(*needed_bytes);
                f.write_str(
                    "gave up: weights are mapped, not pinned, as a device would read them faster: ",
                )?;
                match available_bytes {
                    Some(bytes) => {
                        let available = human_bytes(*bytes);
                        write!(
                            f,
                            "{needed} do not go into nine tenths of {available} of CPU memory"
                        )
                    }
                    None => write!(f, "whether CPU memory has {needed} is not known"),
                }
            }
            Self::UnpinnedWeights { load_mode } => write!(
                f,
                "note: weights held as `{load_mode}` are not pinned; prompts are read faster from `pinned`"
            ),
        }
    }
}
