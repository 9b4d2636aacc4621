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
mod expert_use;
mod expert_watch;
mod ffi;
mod form;
mod host_memory;
mod load_mode;
mod locks;
mod logits;
mod logs;
mod offload;
mod overrides;
#[cfg(target_os = "linux")]
mod paging;
#[cfg(not(target_os = "linux"))]
#[path = "paging_elsewhere.rs"]
mod paging;
#[cfg(feature = "testing")]
mod planted;
mod progress;
mod revision;
mod rewind;
#[deny(unsafe_code)]
mod rpc;
mod rpc_servers;
mod sampler;
mod socket_owner;
mod threads;
mod variants;
mod weights;

pub(crate) use self::context::{BatchToken, Context, ContextSettings};
pub(crate) use self::device::{check_threads, devices_named, devices_with};
pub use self::device::{connect_rpc, devices, serve_rpc};
pub(crate) use self::dry_run::DryRun;
pub use self::expert_use::ExpertUse;
pub(crate) use self::host_memory::{pins, registers};
pub use self::load_mode::LoadMode;
#[cfg(feature = "testing")]
pub use self::planted::PlantedDevice;
pub use self::revision::Revision;
pub(crate) use self::revision::revision;
pub(crate) use self::rewind::Rewind;
pub use self::rpc::{RpcTraffic, rpc_traffic};
pub(crate) use self::sampler::Sampler;
pub(crate) use self::weights::{LoadSettings, Weights};

/// The pinned engine, as `Cargo.toml` has it.
pub(crate) const REVISION: &str = "llama-cpp-sys-2 0.1.161";

/// A token's number in the model's vocabulary.
pub(crate) type Token = ffi::llama_token;

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::call::guarded;
    use super::{backend, ffi};
    use crate::gguf::GgmlType;
    use crate::{Error, MoeModel};

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

    /// What an exception leaves behind where several threads compute: they are neither waited for nor given
    /// freed memory, and the rest of the process goes on. In a process of its own, as they never end.
    #[test]
    fn after_an_exception_among_several_threads_all_else_goes_on() {
        const CHILD: &str = "MOE_OFFLOAD_TEST_FAILS_IN_A_GRAPH";
        if std::env::var_os(CHILD).is_some() {
            // With threads that stay, and with such as are made for each graph.
            for keeps_threads in [true, false] {
                let model = model_with_a_failed_graph(keeps_threads);
                let mut others = [model.another().unwrap(), load(1, false)];
                drop(model);
                // Slow where the threads that never end take all cores.
                for other in &mut others {
                    other.context.decode(&[1, 2]).unwrap();
                }
            }
            println!("went on");
            return;
        }
        let this = "engine::tests::after_an_exception_among_several_threads_all_else_goes_on";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([this, "--exact", "--nocapture"]).env(CHILD, "1").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let started = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(300) {
                child.kill().unwrap();
                panic!("it hangs");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("went on"), "{said}");
    }

    fn load(threads: u32, keeps_threads: bool) -> MoeModel {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
        let builder = MoeModel::builder(demo).threads(threads).context_tokens(256);
        builder.watch_experts(keeps_threads).load().unwrap()
    }

    fn model_with_a_failed_graph(keeps_threads: bool) -> MoeModel {
        let mut model = load(2, keeps_threads);
        model.context.fail_in_graph();
        let error = model.context.decode(&[1; 32]).unwrap_err();
        assert!(error.to_string().contains("planted"), "{error}");
        assert!(matches!(model.context.decode(&[1]), Err(Error::ContextLost)));
        model
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
