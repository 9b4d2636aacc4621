//! What several test programs need.
#![allow(dead_code, missing_docs, unreachable_pub)] // each program uses a part of it

pub mod alone;
pub mod engine_source;
#[cfg(feature = "llama")]
pub mod generate;
#[cfg(feature = "llama")]
pub mod gpus;
#[cfg(target_os = "linux")]
pub mod group;
#[cfg(feature = "llama")]
pub mod load;
pub mod model_files;
#[cfg(feature = "llama")]
pub mod paging;
#[cfg(feature = "llama")]
pub mod process;
#[cfg(target_os = "linux")]
pub mod sockets;
