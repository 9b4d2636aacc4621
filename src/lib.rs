#![cfg_attr(feature = "llama", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "llama"),
    doc = "The pure half of `moe-offload`: headers, policies and plans, without the engine."
)]
#![deny(unsafe_code)]

#[cfg(feature = "llama")]
mod answer;
#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "llama")]
mod builder;
#[cfg(feature = "llama")]
mod cached;
#[cfg(feature = "llama")]
mod callback;
#[cfg(feature = "llama")]
mod cancel;
mod chat;
#[cfg(feature = "llama")]
mod checkpoints;
#[cfg(feature = "llama")]
mod defaults;
mod digits;
#[cfg(feature = "llama")]
mod engine;
pub mod error;
#[cfg(all(test, feature = "async"))]
mod every_way;
#[cfg(feature = "llama")]
mod expert_offload;
pub mod experts;
#[cfg(feature = "llama")]
mod generate;
pub mod gguf;
#[cfg(feature = "llama")]
mod host_weights;
pub mod kv_cache;
#[cfg(feature = "llama")]
mod limits;
#[cfg(feature = "llama")]
mod log_probabilities;
pub mod memory;
#[cfg(feature = "llama")]
mod model;
#[cfg(feature = "llama")]
mod options;
#[cfg(feature = "llama")]
mod overflow;
#[cfg(feature = "llama")]
mod paging;
#[cfg(feature = "llama")]
mod placement;
pub mod plan;
pub mod policy;
pub mod preflight;
#[cfg(feature = "llama")]
mod progress;
#[cfg(feature = "llama")]
mod prompt;
#[cfg(feature = "llama")]
mod reservation;
#[cfg(feature = "llama")]
mod rpc;
#[cfg(feature = "llama")]
mod sampling;
#[cfg(feature = "llama")]
mod session;
#[cfg(feature = "llama")]
mod stats;
#[cfg(feature = "async")]
mod stream;
// Without the engine forms are only checked.
#[cfg_attr(not(feature = "llama"), allow(dead_code))]
mod structure;
pub mod synth;
#[cfg(all(test, feature = "bench"))]
mod test_device;
#[cfg(all(test, feature = "llama"))]
mod testing;
#[cfg(feature = "llama")]
mod text;
#[cfg(feature = "llama")]
mod timing;
#[cfg(feature = "llama")]
mod together;
#[cfg(feature = "llama")]
mod tokenize;
#[cfg(feature = "llama")]
mod trial;
#[cfg(feature = "llama")]
mod warm_up;

#[cfg(feature = "llama")]
pub use self::builder::MoeModelBuilder;
#[cfg(feature = "llama")]
pub use self::cancel::CancelHandle;
pub use self::chat::{ChatTemplate, Message, Role, TemplateOptions, ToolCall};
#[cfg(feature = "bench")]
#[doc(hidden)]
pub use self::engine::PlantedDevice;
#[cfg(feature = "llama")]
pub use self::engine::{LoadMode, connect_rpc, devices, serve_rpc};
pub use self::error::{Error, Result};
#[cfg(feature = "llama")]
pub use self::expert_offload::{ExpertOffload, OffloadTimes};
pub use self::experts::ExpertMap;
#[cfg(feature = "llama")]
pub use self::generate::Generation;
pub use self::gguf::GgufFile;
#[cfg(feature = "llama")]
pub use self::log_probabilities::{LogProbability, TokenLogProbabilities};
pub use self::memory::DeviceMemory;
#[cfg(feature = "llama")]
pub use self::model::MoeModel;
#[cfg(feature = "llama")]
pub use self::options::{GenerateOptions, StopReason};
#[cfg(feature = "llama")]
pub use self::overflow::Overflow;
#[cfg(feature = "llama")]
pub use self::paging::{PagingOptions, PagingStats};
pub use self::plan::{ContextOptions, Device, DeviceKind, OpenChoices, Plan};
pub use self::policy::OffloadPolicy;
#[cfg(feature = "llama")]
pub use self::progress::{PromptCallback, PromptProgress};
#[cfg(feature = "llama")]
pub use self::rpc::{RpcTraffic, rpc_traffic};
#[cfg(feature = "llama")]
pub use self::sampling::{Dry, Mirostat, Sampling};
#[cfg(feature = "llama")]
pub use self::stats::Stats;
#[cfg(feature = "async")]
pub use self::stream::{AsyncModel, PieceStream};
pub use self::structure::Structure;
#[cfg(feature = "llama")]
pub use self::together::Together;

/// Compiles the example of docs/conversations.md.
#[cfg(all(doctest, feature = "llama"))]
#[doc = include_str!("../docs/conversations.md")]
struct ConversationsGuide;
