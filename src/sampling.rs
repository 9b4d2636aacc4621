//! How the next token is chosen, as plain values.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the next token is chosen from the model's probabilities. The same seed gives the same text.
///
/// The steps are the engine's own samplers in this order: repetition penalty, top-k, top-p, min-p,
/// temperature, then a draw.
///
/// ```
/// use moe_offload::Sampling;
/// let careful = Sampling::default().temperature(0.2).seed(7);
/// assert_eq!((careful.temperature, careful.seed), (0.2, 7));
/// assert_eq!(Sampling::greedy().temperature, 0.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Sampling {
    /// 0 always takes the likeliest token; higher is more varied. At most 100.
    pub temperature: f32,
    /// Only so many of the likeliest tokens are considered; 0 considers all.
    pub top_k: u32,
    /// Only the likeliest tokens that together have this probability; 1 considers all.
    pub top_p: f32,
    /// Only tokens at least this fraction as likely as the likeliest; 0 considers all.
    pub min_p: f32,
    /// Divides the score of tokens that occurred lately; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many tokens "lately" means.
    pub repeat_last_tokens: u32,
    /// Where the random numbers begin.
    pub seed: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_tokens: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Sets [`temperature`](field@Self::temperature).
    #[must_use]
    pub fn temperature(self, temperature: f32) -> Self {
        Self { temperature, ..self }
    }

    /// Sets [`top_k`](field@Self::top_k).
    #[must_use]
    pub fn top_k(self, top_k: u32) -> Self {
        Self { top_k, ..self }
    }

    /// Sets [`top_p`](field@Self::top_p).
    #[must_use]
    pub fn top_p(self, top_p: f32) -> Self {
        Self { top_p, ..self }
    }

    /// Sets [`min_p`](field@Self::min_p).
    #[must_use]
    pub fn min_p(self, min_p: f32) -> Self {
        Self { min_p, ..self }
    }

    /// Sets [`repeat_penalty`](field@Self::repeat_penalty).
    #[must_use]
    pub fn repeat_penalty(self, repeat_penalty: f32) -> Self {
        Self { repeat_penalty, ..self }
    }

    /// Sets [`seed`](field@Self::seed).
    #[must_use]
    pub fn seed(self, seed: u32) -> Self {
        Self { seed, ..self }
    }

    /// Checks the values, as every generation does at its start.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for the first that cannot be.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            ("temperature", self.temperature, 0.0..=100.0, "from 0 to 100"),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0, at most 1"),
            ("min_p", self.min_p, 0.0..=1.0, "from 0 to 1"),
            ("repeat_penalty", self.repeat_penalty, 0.01..=100.0, "from 0.01 to 100"),
        ];
        for (option, value, allowed, expected) in checks {
            if !allowed.contains(&value) {
                return Err(Error::InvalidOption { option, value: value.to_string(), expected });
            }
        }
        Ok(())
    }
}
