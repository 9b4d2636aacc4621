//! llama.cpp behind safe, owned handles: the one place with `unsafe`.
//!
//! Rules that every block here follows:
//! - the engine is called through the shim, which lets no C++ exception out;
//! - a handle frees what it owns, once, and keeps alive what it depends on;
//! - callbacks into Rust catch panics.

#![allow(unsafe_code)]

mod backend;
mod call;
mod context;
mod device;
mod ffi;
mod logs;
mod overrides;
mod sampler;
mod weights;

pub(crate) use self::context::{Context, ContextSettings, Decoded};
pub(crate) use self::device::devices_with;
pub use self::device::{connect_rpc, devices, serve_rpc};
pub(crate) use self::sampler::Sampler;
pub use self::weights::LoadMode;
pub(crate) use self::weights::{LoadSettings, Weights};

/// A token's number in the model's vocabulary.
pub(crate) type Token = ffi::llama_token;
