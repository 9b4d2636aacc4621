//! How far a prompt is read, for the caller of a generation.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::limits::callback;

/// How far a prompt is read. Of several prompts that are read together it is their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptProgress {
    /// Tokens read so far, with those that need not be computed again.
    pub read_tokens: u64,
    /// Tokens of the whole prompt.
    pub total_tokens: u64,
}

/// What is called while a prompt is read; see
/// [`GenerateOptions::on_prompt_progress`](crate::GenerateOptions::on_prompt_progress). Clones call
/// the same function, one at a time.
#[derive(Clone)]
pub struct PromptCallback(Arc<Mutex<dyn FnMut(PromptProgress) + Send>>);

impl PromptCallback {
    /// Calls this function.
    pub fn new(callback: impl FnMut(PromptProgress) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(callback)))
    }

    fn call(&self, progress: PromptProgress) -> Result<()> {
        // A panic in an earlier call was told then; what it left behind is the function's own.
        let mut function = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        callback::call("prompt progress", || function(progress))
    }
}

impl fmt::Debug for PromptCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PromptCallback")
    }
}

/// Counts the tokens of a prompt while they are read, and tells the caller.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    callback: Option<PromptCallback>,
    read_tokens: u64,
    total_tokens: u64,
}

impl Reading {
    /// Of so many tokens, none of which is read.
    pub(crate) fn of(callback: Option<&PromptCallback>, total_tokens: usize) -> Self {
        Self { callback: callback.cloned(), read_tokens: 0, total_tokens: total_tokens as u64 }
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_watched(&self) -> bool {
        self.callback.is_some()
    }

    /// So many more are read, or need not be.
    pub(crate) fn advance(&mut self, tokens: usize) -> Result<()> {
        self.read_tokens += tokens as u64;
        let (read_tokens, total_tokens) = (self.read_tokens, self.total_tokens);
        self.callback
            .as_ref()
            .map_or(Ok(()), |callback| callback.call(PromptProgress { read_tokens, total_tokens }))
    }
}
