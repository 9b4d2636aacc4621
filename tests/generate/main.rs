//! Generating: samplers, forms, conversations, checkpoints and streams.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod checkpoints;
mod conversation;
mod long_text;
mod sampling;
#[cfg(feature = "async")]
mod stream;
mod structure;
