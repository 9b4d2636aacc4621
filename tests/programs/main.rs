//! The examples as programs that a person runs, and what `bench` measures.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod chat;
mod chat_words;
mod examples;
mod options;
mod results;
#[cfg(target_os = "linux")]
mod terminal;
mod verdicts;
