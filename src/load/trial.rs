//! What a load computes to learn something of the machine. The caller forgets it again.

use crate::engine::{Context, Decoded, Token};
use crate::error::{Error, Result};

/// Tokens from all over the vocabulary, which use experts as different as may be.
pub(crate) fn tokens(context: &Context, count: u32) -> Vec<Token> {
    let vocabulary = context.weights().vocabulary_tokens().max(1);
    let token = |i: u32| Token::try_from((i as usize + 1) * 7919 % vocabulary).unwrap_or(0);
    (0..count).map(token).collect()
}

/// Computes these tokens at once, and returns when it is done.
pub(crate) fn compute(context: &mut Context, tokens: &[Token]) -> Result<()> {
    match context.decode(tokens)? {
        Decoded::Done => context.synchronize(),
        Decoded::Cancelled => Err(Error::Cancelled { operation: "loading" }),
        Decoded::NoRoom => {
            let reason = "the context has no room for a micro-batch".to_owned();
            Err(Error::Engine { operation: "compute while loading", reason })
        }
    }
}
