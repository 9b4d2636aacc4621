//! Loading: what a plan places where, for every family, and what is refused.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod alignment;
mod engine;
mod families;
mod measuring;
#[cfg(target_os = "linux")]
mod prints_nothing;
#[cfg(all(feature = "dynamic-backends", target_os = "linux"))]
mod variants;
