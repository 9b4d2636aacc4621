//! Text to tokens, however long the text is.

use std::sync::Arc;

use crate::engine::{Token, Weights};
use crate::error::Result;
use crate::limits::Limits;

/// The engine splits text with regular expressions that recurse once for each character of a run,
/// and takes up to 400 bytes of stack for each. Text up to this length is safe on any thread.
const SHORT_BYTES: usize = 2048;
const STACK_BYTES: usize = 1 << 20;
const STACK_BYTES_PER_BYTE: usize = 1024;

/// The text as tokens; special tokens in it are recognised. What takes longer than `limits` allow
/// is given up.
pub(crate) fn tokenize(
    weights: &Arc<Weights>,
    text: &str,
    add_special: bool,
    limits: &Limits,
) -> Result<Vec<Token>> {
    if text.len() <= SHORT_BYTES {
        return weights.tokenize(text, add_special);
    }
    // Only what is used of a stack takes memory.
    let stack = text.len().saturating_mul(STACK_BYTES_PER_BYTE).saturating_add(STACK_BYTES);
    let (weights, text) = (Arc::clone(weights), text.to_owned());
    limits.wait_for("tokenize", stack, move || weights.tokenize(&text, add_special))?
}
