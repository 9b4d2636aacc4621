//! How likely the model held the tokens of an answer.

use serde::{Deserialize, Serialize};

use crate::engine::{Context, Token};
use crate::error::Result;

/// A token and how likely the model held it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogProbability {
    /// The token's number in the vocabulary.
    pub token: i32,
    /// Its text, which need not be whole characters.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability, before any sampling.
    pub log_probability: f32,
}

/// What was chosen, and what could have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TokenLogProbabilities {
    /// The token that was taken.
    pub chosen: LogProbability,
    /// The likeliest tokens, the likeliest first, as many as were asked for.
    pub likeliest: Vec<LogProbability>,
}

impl TokenLogProbabilities {
    /// Of the token that was chosen by the result at this index of the last batch, which is there
    /// until more is computed.
    pub(crate) fn of(
        context: &mut Context,
        index: i32,
        token: Token,
        likeliest: usize,
    ) -> Result<Self> {
        let rows = context.log_probabilities(index, token, likeliest)?;
        let weights = context.weights();
        let named = |(token, log_probability): (Token, f32)| {
            let mut bytes = Vec::new();
            weights.token_bytes(token, true, &mut bytes)?;
            Ok(LogProbability { token, bytes, log_probability })
        };
        let (chosen, rest) = rows;
        Ok(Self {
            chosen: named(chosen)?,
            likeliest: rest.into_iter().map(named).collect::<Result<_>>()?,
        })
    }
}
