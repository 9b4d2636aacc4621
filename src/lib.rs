#![cfg_attr(feature = "llama", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "llama"),
    doc = "The pure half of `moe-offload`: headers, policies and plans, without the engine."
)]
#![deny(unsafe_code)]

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "llama")]
#[path = "load/mod.rs"]
mod builder;
#[cfg(feature = "llama")]
#[path = "model/prefix_cache.rs"]
mod cached;
#[cfg(feature = "llama")]
#[path = "limits/callback.rs"]
mod callback;
#[cfg(feature = "llama")]
#[path = "limits/cancel.rs"]
mod cancel;
mod chat;
#[cfg(feature = "llama")]
#[path = "model/checkpoints.rs"]
mod checkpoints;
#[cfg(feature = "llama")]
#[path = "load/defaults.rs"]
mod defaults;
#[path = "policy/number_pattern.rs"]
mod digits;
#[cfg(feature = "llama")]
mod engine;
pub mod error;
#[cfg(all(test, feature = "async"))]
#[path = "generate/every_way.rs"]
mod every_way;
#[cfg(feature = "llama")]
#[path = "load/expert_offload.rs"]
mod expert_offload;
pub mod experts;
#[cfg(feature = "llama")]
#[path = "generate/generation.rs"]
mod generate;
pub mod gguf;
#[cfg(feature = "llama")]
#[path = "load/host_weights.rs"]
mod host_weights;
#[path = "plan/kv_cache.rs"]
pub mod kv_cache;
#[cfg(feature = "llama")]
mod limits;
#[cfg(feature = "llama")]
#[path = "generate/log_probabilities.rs"]
mod log_probabilities;
#[path = "device/memory.rs"]
pub mod memory;
#[cfg(feature = "llama")]
mod model;
#[cfg(feature = "llama")]
#[path = "generate/options.rs"]
mod options;
#[cfg(feature = "llama")]
#[path = "generate/overflow.rs"]
mod overflow;
#[cfg(feature = "llama")]
mod paging;
#[cfg(feature = "llama")]
#[path = "load/verify.rs"]
mod placement;
pub mod plan;
pub mod policy;
pub mod preflight;
#[cfg(feature = "llama")]
#[path = "model/progress.rs"]
mod progress;
#[cfg(feature = "llama")]
#[path = "generate/prompt.rs"]
mod prompt;
#[cfg(feature = "llama")]
#[path = "model/reservation.rs"]
mod reservation;
#[cfg(feature = "llama")]
#[path = "engine/rpc/mod.rs"]
mod rpc;
#[cfg(feature = "llama")]
#[path = "sampling/options.rs"]
mod sampling;
#[cfg(feature = "llama")]
#[path = "model/session.rs"]
mod session;
#[cfg(feature = "llama")]
#[path = "model/stats.rs"]
mod stats;
#[cfg(feature = "async")]
#[path = "generate/async_model.rs"]
mod stream;
// Without the engine forms are only checked.
#[cfg_attr(not(feature = "llama"), allow(dead_code))]
#[path = "sampling/structure/mod.rs"]
mod structure;
pub mod synth;
#[cfg(all(test, feature = "bench"))]
#[path = "load/test_device.rs"]
mod test_device;
#[cfg(all(test, feature = "llama"))]
#[path = "gguf/testing.rs"]
mod testing;
#[cfg(feature = "llama")]
#[path = "generate/detokenizer.rs"]
mod text;
#[cfg(feature = "llama")]
#[path = "model/timing.rs"]
mod timing;
#[cfg(feature = "llama")]
#[path = "generate/batch.rs"]
mod together;
#[cfg(feature = "llama")]
#[path = "model/tokenizer.rs"]
mod tokenize;
#[cfg(feature = "llama")]
#[path = "load/trial.rs"]
mod trial;
#[cfg(feature = "llama")]
#[path = "load/warm_up.rs"]
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
