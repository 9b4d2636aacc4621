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
mod dry_run;
mod ffi;
mod locks;
mod logs;
mod overrides;
mod rpc;
mod sampler;
mod weights;

pub(crate) use self::context::{Context, ContextSettings, Decoded};
pub(crate) use self::device::{check_threads, devices_with};
pub use self::device::{connect_rpc, devices, serve_rpc};
pub(crate) use self::dry_run::DryRun;
pub(crate) use self::sampler::Sampler;
pub use self::weights::LoadMode;
pub(crate) use self::weights::{LoadSettings, Weights};

/// A token's number in the model's vocabulary.
pub(crate) type Token = ffi::llama_token;

#[cfg(test)]
mod tests {
    use super::ffi;
    use crate::gguf::GgmlType;

    #[test]
    fn tensor_types_have_the_engine_s_sizes() {
        for id in 0..ffi::GGML_TYPE_COUNT {
            // SAFETY: plain look-ups, valid for every type below the count.
            let (elements, bytes) = unsafe { (ffi::ggml_blck_size(id), ffi::ggml_type_size(id)) };
            let ours = GgmlType::from_id(id).map(|t| (t.block_elements(), t.block_bytes()));
            let known = elements > 0 && bytes > 0;
            let theirs = known.then(|| (elements.unsigned_abs(), bytes as u64));
            assert_eq!(ours, theirs, "type {id}");
        }
    }
}
