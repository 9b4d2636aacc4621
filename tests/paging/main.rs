//! Experts on disk.
#![cfg(all(feature = "llama", target_os = "linux"))]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod experts_on_disk;
mod guesses;
mod least;
mod loading;
mod order;
mod pressure;
mod verify;
