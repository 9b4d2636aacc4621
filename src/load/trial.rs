//! What a load computes to learn something of the machine. The caller forgets it again.

use crate::engine::{Context, Token};
use crate::error::Result;

/// Tokens from all over the vocabulary, which use experts as different as may be.
pub(crate) fn tokens(context: &Context, count: u32) -> Vec<Token> {
    let vocabulary = context.weights().vocabulary_tokens().max(1);
    let token = |i: u32| Token::try_from((i as usize + 1) * 7919 % vocabulary).unwrap_or(0);
    (0..count).map(token).collect()
}

/// Computes these tokens at once, and returns when it is done.
pub(crate) fn compute(context: &mut Context, tokens: &[Token]) -> Result<()> {
    context.decode(tokens)?;
    context.synchronize()
}
