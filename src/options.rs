//! What a generation is asked for, and how it says that it ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cancel::CancelHandle;
use crate::chat::TemplateOptions;
use crate::error::{Error, Result};
use crate::sampling::Sampling;
use crate::structure::Structure;

/// How long to generate, and how.
///
/// ```
/// use moe_offload::{GenerateOptions, Sampling};
/// let options = GenerateOptions::default()
///     .max_tokens(64)
///     .stop("\n\n")
///     .sampling(Sampling::greedy());
/// assert_eq!(options.stop, ["\n\n"]);
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Most tokens to generate. `None`: until the model ends the text or the context is full.
    pub max_tokens: Option<u64>,
    /// Longest time from the call on, looked at between tokens. `None`: no limit.
    pub max_time: Option<Duration>,
    /// Texts that end the answer. They are not part of it, nor is any beginning of them.
    pub stop: Vec<String>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// A form that the whole answer must have.
    pub structure: Option<Structure>,
    /// Also give the log-probabilities of the tokens, with this many of the likeliest; at most
    /// 100. See [`Generation::take_log_probabilities`](crate::Generation::take_log_probabilities).
    pub log_probabilities: Option<u32>,
    /// What [`MoeModel::chat`](crate::MoeModel::chat) gives the model's chat template besides the
    /// messages.
    pub template: TemplateOptions,
    /// What [`MoeModel::chat`](crate::MoeModel::chat) does when the conversation is longer than the
    /// context.
    pub overflow: Overflow,
    /// Stops the generation from elsewhere, within one token.
    pub cancel: Option<CancelHandle>,
}

/// What happens when a conversation does not fit the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overflow {
    /// [`Error::PromptTooLong`].
    #[default]
    Error,
    /// The oldest turns are left out, each a question with all that answers it, until there is room
    /// for the answer: as many tokens as [`GenerateOptions::max_tokens`] says, at most a quarter of
    /// the context. System and developer messages stay, and so does the last question.
    /// [`Stats::dropped_messages`](crate::Stats::dropped_messages) says how many went.
    DropOldestTurns,
}

impl GenerateOptions {
    /// Sets [`max_tokens`](field@Self::max_tokens).
    #[must_use]
    pub fn max_tokens(self, max_tokens: u64) -> Self {
        Self { max_tokens: Some(max_tokens), ..self }
    }

    /// Sets [`max_time`](field@Self::max_time).
    #[must_use]
    pub fn max_time(self, max_time: Duration) -> Self {
        Self { max_time: Some(max_time), ..self }
    }

    /// Sets [`structure`](field@Self::structure).
    #[must_use]
    pub fn structure(self, structure: Structure) -> Self {
        Self { structure: Some(structure), ..self }
    }

    /// Sets [`log_probabilities`](field@Self::log_probabilities).
    #[must_use]
    pub fn log_probabilities(self, likeliest: u32) -> Self {
        Self { log_probabilities: Some(likeliest), ..self }
    }

    /// Adds a stop string.
    #[must_use]
    pub fn stop(mut self, stop: impl Into<String>) -> Self {
        self.stop.push(stop.into());
        self
    }

    /// Sets [`sampling`](field@Self::sampling).
    #[must_use]
    pub fn sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// Sets [`template`](field@Self::template).
    #[must_use]
    pub fn template(self, template: TemplateOptions) -> Self {
        Self { template, ..self }
    }

    /// Sets [`overflow`](field@Self::overflow).
    #[must_use]
    pub fn overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    /// Lets `cancel` stop the generation.
    #[must_use]
    pub fn cancel(self, cancel: &CancelHandle) -> Self {
        Self { cancel: Some(cancel.clone()), ..self }
    }

    /// Checks the values, as every generation does at its start.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for the first that cannot be. Grammars and schemas are checked
    /// when the generation starts.
    pub fn validate(&self) -> Result<()> {
        if let Some(likeliest) = self.log_probabilities.filter(|&likeliest| likeliest > 100) {
            let (value, expected) = (likeliest.to_string(), "at most 100");
            return Err(Error::InvalidOption { option: "log_probabilities", value, expected });
        }
        self.sampling.validate()
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum StopReason {
    /// The model ended the text.
    EndOfText,
    /// A stop string came up.
    StopString,
    /// `max_tokens` were generated.
    MaxTokens,
    /// `max_time` was over.
    TimeLimit,
    /// The context is full; a larger `context_tokens` leaves more room.
    ContextFull,
}

impl StopReason {
    /// Whether the model itself ended the text; otherwise it was cut off, and what a
    /// [`Structure`] demands may be incomplete.
    pub fn is_complete(self) -> bool {
        self == Self::EndOfText
    }
}

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
