//! Threads that compute for a context and stay between graphs.

use std::ptr::{self, NonNull};

use super::call::guarded;
use super::ffi;
use crate::error::Result;

/// The threads of one context, to be dropped after it.
///
/// By itself the engine starts new threads for each graph. A callback that looks into a graph makes it many
/// small ones, for which that takes longer than computing them.
#[derive(Debug)]
pub(super) struct Threads {
    pool: NonNull<ffi::ggml_threadpool>,
}

// SAFETY: the pool is bound to no thread; only the context that it is attached to uses it.
unsafe impl Send for Threads {}

impl Threads {
    /// For a context that computes with so many threads, the caller's among them.
    pub(super) fn attach(context: NonNull<ffi::llama_context>, threads: u32) -> Result<Self> {
        let mut pool = ptr::null_mut();
        // SAFETY: the context is alive and idle; the pool outlives it, as whoever has both promises.
        guarded(|message| unsafe {
            ffi::moe_threads_attach(context.as_ptr(), threads, &raw mut pool, message)
        })
        .map_err(|failure| failure.into_error("start threads"))?;
        let pool = NonNull::new(pool).ok_or(crate::error::Error::Engine {
            operation: "start threads",
            reason: String::new(),
        })?;
        Ok(Self { pool })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // SAFETY: made by `attach`, and its context was freed before.
        let freed =
            guarded(|message| unsafe { ffi::moe_threads_free(self.pool.as_ptr(), message) });
        if let Err(failure) = freed {
            tracing::error!(target: "llama.cpp", "ending threads failed: {}", failure.reason);
        }
    }
}
