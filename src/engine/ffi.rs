//! The shim's bindings, over the engine types of `llama-cpp-sys-2`.

#![allow(non_camel_case_types, non_upper_case_globals, missing_docs, missing_debug_implementations)]
#![allow(clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]
#![allow(unreachable_pub, dead_code, unused_imports)]

pub use llama_cpp_sys_2::*;

include!(concat!(env!("OUT_DIR"), "/shim.rs"));
