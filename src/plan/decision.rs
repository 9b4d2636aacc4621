//! What `fit` decided beside the places of experts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gguf::GgmlType;

/// Something that `fit` gave up or chose; see [`Fit::fallbacks`](crate::policy::Fit::fallbacks) and
/// [`OpenChoices`](super::OpenChoices).
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
    /// The micro-batch was left open.
    MicroBatch {
        /// Tokens computed at once.
        micro_batch_tokens: u32,
    },
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
        }
    }
}
