//! Tokens as their numbers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A token: a number in the vocabulary of a model, from 0. In another model's it stands for another text.
///
/// As data it is the number, which is also what `Sampling::logit_bias` takes and log-probabilities name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(i32);

impl Token {
    /// The token of this number. Whether a model has it is checked where the token is used.
    pub const fn new(id: i32) -> Self {
        Self(id)
    }

    /// Its number.
    pub const fn id(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
