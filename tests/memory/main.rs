//! Memory of the CPU and of devices: what is told before a load, held by it, and given back. What looks at all of
//! its process has one of its own.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

#[cfg(target_os = "linux")]
mod cpu_memory;
#[cfg(feature = "testing")]
mod device_memory;
#[cfg(target_os = "linux")]
mod host_memory;
#[cfg(target_os = "linux")]
mod soak;
