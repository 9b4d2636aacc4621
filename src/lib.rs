#![cfg_attr(feature = "llama", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "llama"),
    doc = "The pure half of `moe-offload`: headers, policies and plans, without the engine."
)]
#![deny(unsafe_code)]

mod chat;
mod context;
mod device;
#[cfg(feature = "llama")]
mod engine;
pub mod error;
pub mod experts;
#[cfg(feature = "llama")]
mod generate;
pub mod gguf;
#[cfg(feature = "llama")]
mod limits;
#[cfg(feature = "llama")]
mod load;
#[cfg(feature = "llama")]
mod model;
#[cfg(feature = "llama")]
mod paging;
pub mod plan;
pub mod policy;
pub mod preflight;
mod sampling;
#[cfg(feature = "llama")]
pub mod tune;
mod units;

/// Memory by device: what was measured, and how it compares with a plan.
pub mod memory {
    pub use crate::device::{DeviceMemory, HostMemory, allocatable_bytes};
    pub use crate::plan::verify::{FreeFell, Verification, VerifiedRow};
}

/// How large a model's cache is, layer by layer, from its file's own keys.
///
/// Attention keeps a key and a value per token and layer: all heads', one latent vector, or only
/// those of a sliding window; recurrent layers keep a state of fixed size instead. The rules are
/// those of the pinned llama.cpp. An architecture that is not listed is not guessed at.
pub mod kv_cache {
    pub use crate::plan::kv_cache::{KvCache, LayerCache};
}

pub use self::chat::{ChatTemplate, Message, Role, TemplateOptions, ToolCall};
pub use self::context::{ContextOptions, OpenChoices};
pub use self::device::{Device, DeviceKind, DeviceMemory};
#[cfg(feature = "testing")]
#[doc(hidden)]
pub use self::engine::PlantedDevice;
#[cfg(feature = "llama")]
pub use self::engine::{
    ExpertUse, LoadMode, RpcTraffic, connect_rpc, devices, rpc_traffic, serve_rpc,
};
pub use self::error::{Error, Result};
pub use self::experts::ExpertMap;
#[cfg(feature = "async")]
pub use self::generate::{AsyncModel, PieceStream};
#[cfg(feature = "llama")]
pub use self::generate::{
    GenerateOptions, Generation, LogProbability, Overflow, StopReason, Together,
    TokenLogProbabilities,
};
pub use self::gguf::GgufFile;
#[cfg(feature = "llama")]
pub use self::limits::CancelHandle;
#[cfg(feature = "llama")]
pub use self::load::MoeModelBuilder;
#[cfg(feature = "llama")]
pub use self::model::{
    ExpertOffload, Logits, MoeModel, OffloadTimes, PromptCallback, PromptProgress, Stats,
};
#[cfg(feature = "llama")]
pub use self::paging::{PagingOptions, PagingStats};
pub use self::plan::Plan;
pub use self::policy::OffloadPolicy;
pub use self::sampling::Structure;
#[cfg(feature = "llama")]
pub use self::sampling::{Dry, Mirostat, Sampling};
pub use self::units::Token;

/// Compiles the example of docs/conversations.md.
#[cfg(all(doctest, feature = "llama"))]
#[doc = include_str!("../docs/conversations.md")]
struct ConversationsGuide;
