//! Which engine this is, and how it was built.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::call::copied;
use super::{backend, ffi};
use crate::error::Result;

/// The engine's version and build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Revision {
    /// The package that carries it, with its version.
    pub package: String,
    /// ggml's own version.
    pub ggml_version: String,
    /// The commit of its sources, where it knows.
    pub ggml_commit: String,
    /// What llama.cpp says of backends and instruction sets.
    pub system_info: String,
}

/// Asks the engine.
pub(crate) fn revision() -> Result<Revision> {
    /// llama.cpp writes its answer to a static string without a lock.
    static ASKING: Mutex<()> = Mutex::new(());
    backend::init()?;
    let _asking = ASKING.lock();
    // SAFETY: plain functions that return strings of static storage; the one that is written anew by
    // each call is copied before another can begin.
    let texts = unsafe {
        [ffi::ggml_version(), ffi::ggml_commit(), ffi::llama_print_system_info()]
            .map(|text| copied(text))
    };
    let [ggml_version, ggml_commit, system_info] = texts;
    let package = super::REVISION.to_owned();
    Ok(Revision { package, ggml_version, ggml_commit, system_info })
}
