//! How the next token is chosen, as plain values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the next token is chosen from the model's probabilities. The same seed gives the same text.
///
/// The steps are the engine's own samplers in this order: logit bias, repetition, frequency and
/// presence penalties, DRY, top-k, typical, top-p, min-p, XTC, temperature, then a draw. With
/// mirostat, that takes the place of everything from top-k to XTC. At temperature 0 the likeliest
/// token is taken after the penalties. What "occurred lately" is looked for in the answer, not in
/// the prompt.
///
/// ```
/// use moe_offload::Sampling;
/// let careful = Sampling::default().temperature(0.2).seed(7);
/// assert_eq!((careful.temperature, careful.seed), (0.2, 7));
/// assert_eq!(Sampling::greedy().temperature, 0.0);
///
/// let mut chatty = Sampling::default().presence_penalty(0.5);
/// chatty.logit_bias.insert(42, -5.0);
/// chatty.validate()?;
/// assert!(Sampling::default().top_p(1.5).validate().is_err());
/// # Ok::<(), moe_offload::Error>(())
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
    /// Only the tokens of the most typical information that together have this probability; 1
    /// considers all.
    pub typical_p: f32,
    /// How often the likeliest of several good choices are left out (XTC); 0 is never.
    pub xtc_probability: f32,
    /// What XTC takes for a good choice; above 0.5 there are never several.
    pub xtc_threshold: f32,
    /// Divides the score of tokens that occurred lately; 1 does nothing.
    pub repeat_penalty: f32,
    /// Taken from the score of a token for each time that it occurred lately; 0 does nothing.
    pub frequency_penalty: f32,
    /// Taken from the score of tokens that occurred lately; 0 does nothing.
    pub presence_penalty: f32,
    /// How many tokens "lately" means, at most [`MOST_LAST_TOKENS`](Self::MOST_LAST_TOKENS).
    pub repeat_last_tokens: u32,
    /// Against repeating whole sequences.
    pub dry: Option<Dry>,
    /// Holds the surprise at a level, instead of cutting off unlikely tokens.
    pub mirostat: Option<Mirostat>,
    /// Added to the score of a token, by its number; minus infinity bans it.
    pub logit_bias: BTreeMap<i32, f32>,
    /// Where the random numbers begin.
    pub seed: u32,
}

/// The DRY penalty: a token that would prolong a repetition of `n` tokens loses
/// `multiplier × base ^ (n − allowed_length)` of its score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Dry {
    /// How strong it is.
    pub multiplier: f32,
    /// How much stronger for each token.
    pub base: f32,
    /// Repetitions up to this many tokens cost nothing; [`u32::MAX`] takes none for a repetition.
    pub allowed_length: u32,
    /// How many tokens are looked at, at most [`Sampling::MOST_LAST_TOKENS`].
    pub last_tokens: u32,
    /// Texts that a repetition does not reach across.
    pub breakers: Vec<String>,
}

impl Default for Dry {
    fn default() -> Self {
        let breakers = ["\n", ":", "\"", "*"].map(str::to_owned).to_vec();
        Self { multiplier: 0.8, base: 1.75, allowed_length: 2, last_tokens: 1024, breakers }
    }
}

/// The mirostat sampler.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Mirostat {
    /// 1 or 2.
    pub version: u8,
    /// The surprise aimed at, in bits.
    pub tau: f32,
    /// How fast it gets there.
    pub eta: f32,
}

impl Default for Mirostat {
    fn default() -> Self {
        Self { version: 2, tau: 5.0, eta: 0.1 }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repeat_last_tokens: 64,
            dry: None,
            mirostat: None,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Most tokens that [`repeat_last_tokens`](field@Self::repeat_last_tokens) and [`Dry::last_tokens`] may
    /// look back: the engine sets memory aside for them at once, 4 and 8 bytes for each.
    pub const MOST_LAST_TOKENS: u32 = 1 << 20;

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

    /// Sets [`typical_p`](field@Self::typical_p).
    #[must_use]
    pub fn typical_p(self, typical_p: f32) -> Self {
        Self { typical_p, ..self }
    }

    /// Sets [`frequency_penalty`](field@Self::frequency_penalty).
    #[must_use]
    pub fn frequency_penalty(self, frequency_penalty: f32) -> Self {
        Self { frequency_penalty, ..self }
    }

    /// Sets [`presence_penalty`](field@Self::presence_penalty).
    #[must_use]
    pub fn presence_penalty(self, presence_penalty: f32) -> Self {
        Self { presence_penalty, ..self }
    }

    /// Sets [`xtc_probability`](field@Self::xtc_probability) and
    /// [`xtc_threshold`](field@Self::xtc_threshold).
    #[must_use]
    pub fn xtc(self, probability: f32, threshold: f32) -> Self {
        Self { xtc_probability: probability, xtc_threshold: threshold, ..self }
    }

    /// Sets [`dry`](field@Self::dry).
    #[must_use]
    pub fn dry(self, dry: Dry) -> Self {
        Self { dry: Some(dry), ..self }
    }

    /// Sets [`mirostat`](field@Self::mirostat).
    #[must_use]
    pub fn mirostat(self, mirostat: Mirostat) -> Self {
        Self { mirostat: Some(mirostat), ..self }
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
        let dry = self.dry.clone().unwrap_or_default();
        let mirostat = self.mirostat.unwrap_or_default();
        let checks = [
            ("temperature", self.temperature, 0.0..=100.0, "from 0 to 100"),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0, "above 0, at most 1"),
            ("min_p", self.min_p, 0.0..=1.0, "from 0 to 1"),
            ("typical_p", self.typical_p, f32::MIN_POSITIVE..=1.0, "above 0, at most 1"),
            ("xtc_probability", self.xtc_probability, 0.0..=1.0, "from 0 to 1"),
            ("xtc_threshold", self.xtc_threshold, 0.0..=1.0, "from 0 to 1"),
            ("repeat_penalty", self.repeat_penalty, 0.01..=100.0, "from 0.01 to 100"),
            ("frequency_penalty", self.frequency_penalty, -100.0..=100.0, "from -100 to 100"),
            ("presence_penalty", self.presence_penalty, -100.0..=100.0, "from -100 to 100"),
            ("dry.multiplier", dry.multiplier, 0.0..=100.0, "from 0 to 100"),
            ("dry.base", dry.base, 1.0..=100.0, "from 1 to 100"),
            ("mirostat.version", f32::from(mirostat.version), 1.0..=2.0, "1 or 2"),
            ("mirostat.tau", mirostat.tau, 0.0..=100.0, "from 0 to 100"),
            ("mirostat.eta", mirostat.eta, 0.0..=1.0, "from 0 to 1"),
        ];
        for (option, value, allowed, expected) in checks {
            if !allowed.contains(&value) {
                return Err(Error::InvalidOption { option, value: value.to_string(), expected });
            }
        }
        let looked_back =
            [("repeat_last_tokens", self.repeat_last_tokens), ("dry.last_tokens", dry.last_tokens)];
        if let Some((option, n)) =
            looked_back.into_iter().find(|&(_, n)| n > Self::MOST_LAST_TOKENS)
        {
            let (value, expected) = (n.to_string(), "at most 1048576");
            return Err(Error::InvalidOption { option, value, expected });
        }
        let is_bad = |bias: &&f32| bias.is_nan() || **bias == f32::INFINITY;
        if let Some(bias) = self.logit_bias.values().find(is_bad) {
            let expected = "a number or minus infinity";
            return Err(Error::InvalidOption {
                option: "logit_bias",
                value: bias.to_string(),
                expected,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_take_gigabytes_is_refused() {
        let repeat = |repeat_last_tokens| Sampling { repeat_last_tokens, ..Sampling::default() };
        let dry = |last_tokens| Sampling::default().dry(Dry { last_tokens, ..Dry::default() });
        let most = Sampling::MOST_LAST_TOKENS;
        for (sampling, is_valid) in [
            (repeat(most), true),
            (repeat(most + 1), false),
            (repeat(u32::MAX), false),
            (dry(most), true),
            (dry(most + 1), false),
            (dry(u32::MAX), false),
        ] {
            match sampling.validate() {
                Ok(()) => assert!(is_valid, "{sampling:?}"),
                Err(error) => {
                    let names_the_bound = error.to_string().contains(&most.to_string());
                    assert!(!is_valid && names_the_bound, "{error}");
                }
            }
        }
    }
}
