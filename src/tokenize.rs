//! Text to tokens, however long the text is.

use std::thread;

use crate::engine::{Token, Weights};
use crate::error::{Error, Result};

/// The engine splits text with regular expressions that recurse once for each character of a run,
/// and takes up to 400 bytes of stack for each. Text up to this length is safe on any thread.
const SHORT_BYTES: usize = 2048;
const STACK_BYTES: usize = 1 << 20;
const STACK_BYTES_PER_BYTE: usize = 1024;

/// The text as tokens; special tokens in it are recognised.
pub(crate) fn tokenize(weights: &Weights, text: &str, add_special: bool) -> Result<Vec<Token>> {
    if text.len() <= SHORT_BYTES {
        return weights.tokenize(text, add_special);
    }
    // Only what is used of a stack takes memory.
    let stack = text.len().saturating_mul(STACK_BYTES_PER_BYTE).saturating_add(STACK_BYTES);
    let builder = thread::Builder::new().name("tokenize".into()).stack_size(stack);
    thread::scope(|scope| {
        let thread = builder.spawn_scoped(scope, || weights.tokenize(text, add_special));
        let thread = thread.map_err(|error| Error::Engine {
            operation: "tokenize",
            reason: format!("no thread with a stack of {stack} bytes: {error}"),
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
