//! What needs no engine: files, plans, policies, templates, the source's own structure and the build's scripts.
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(unix)]
mod build_progress;
mod floors;
mod full_scale;
mod gguf_hostile;
mod micro_batch;
mod patterns;
mod plan;
mod plan_device;
mod policy;
mod preflight;
mod templates;
