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
#[cfg(feature = "bench")]
mod experts;
mod ffi;
mod form;
mod host_memory;
mod inherited;
mod load_mode;
mod locks;
#[cfg(feature = "bench")]
mod logits;
mod logs;
mod overrides;
#[cfg(target_os = "linux")]
mod paging;
#[cfg(not(target_os = "linux"))]
#[path = "paging_elsewhere.rs"]
mod paging;
mod progress;
#[cfg(feature = "bench")]
mod revision;
mod rpc;
mod sampler;
mod threads;
mod weights;

pub(crate) use self::context::{Context, ContextSettings, Decoded, Step};
pub(crate) use self::device::{check_threads, devices_named, devices_with};
pub use self::device::{connect_rpc, devices, serve_rpc};
pub(crate) use self::dry_run::DryRun;
pub use self::load_mode::LoadMode;
#[cfg(feature = "bench")]
pub use self::revision::Revision;
#[cfg(feature = "bench")]
pub(crate) use self::revision::revision;
pub(crate) use self::sampler::Sampler;
pub(crate) use self::weights::{LoadSettings, Weights};

/// The pinned engine, as `Cargo.toml` has it.
pub(crate) const REVISION: &str = "llama-cpp-sys-2 0.1.161";

/// A token's number in the model's vocabulary.
pub(crate) type Token = ffi::llama_token;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::call::guarded;
    use super::{backend, ffi};
    use crate::gguf::GgmlType;

    #[test]
    fn a_failed_assertion_on_the_calling_thread_is_an_error() {
        backend::init().unwrap();
        // SAFETY: it only fails an assertion.
        let failed = guarded(|message| unsafe { ffi::moe_fail_assertion(false, message) });
        let reason = failed.unwrap_err().reason;
        assert!(reason.contains(r#"GGML_ASSERT(1 == 2 && "planted") failed"#), "{reason}");
    }

    #[test]
    fn the_revision_is_the_pinned_one() {
        let manifest = include_str!("../../Cargo.toml");
        let (name, version) = super::REVISION.split_once(' ').unwrap();
        assert!(manifest.contains(&format!("{name} = {{ version = \"={version}\"")), "{name}");
    }

    /// What is known to end the process, and how: seen from outside, in a process of its own.
    #[test]
    fn a_failed_assertion_on_another_thread_ends_the_process_and_says_so() {
        const CHILD: &str = "MOE_OFFLOAD_TEST_FAILS_AN_ASSERTION";
        if std::env::var_os(CHILD).is_some() {
            backend::init().unwrap();
            // SAFETY: it only fails an assertion.
            let _ = guarded(|message| unsafe { ffi::moe_fail_assertion(true, message) });
            return;
        }
        let this =
            "engine::tests::a_failed_assertion_on_another_thread_ends_the_process_and_says_so";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args([this, "--exact", "--nocapture"]).env(CHILD, "1").output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("moe-offload: the engine ends this process"), "{said}");
        assert!(said.contains("planted"), "{said}");
    }

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
