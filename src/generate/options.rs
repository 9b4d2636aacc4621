//! What a generation is asked for, and how it says that it ended.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::overflow::Overflow;
use crate::chat::TemplateOptions;
use crate::error::{Error, Result};
use crate::limits::{CancelHandle, Limits};
use crate::model::progress::{PromptCallback, PromptProgress};
use crate::sampling::Sampling;
use crate::sampling::structure::Structure;

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
    /// Longest time from the call on, whatever is being done: an answer that it interrupts is over
    /// with [`StopReason::TimeLimit`], without any text if it had not begun. `None`: no limit.
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
    /// messages. Refused where there are none.
    pub template: TemplateOptions,
    /// What [`MoeModel::chat`](crate::MoeModel::chat) does when the conversation is longer than the
    /// context. Refused where there is none.
    pub overflow: Overflow,
    /// Stops the generation from elsewhere, whatever is being done, with [`Error::Cancelled`].
    pub cancel: Option<CancelHandle>,
    /// Is told how much of the prompt is read.
    pub on_prompt_progress: Option<PromptCallback>,
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

    /// Is told how much of the prompt is read: before the first tokens are computed, and after each
    /// micro-batch. It is called on the thread that generates, which waits for it; a panic in it is
    /// [`Error::CallbackPanicked`].
    ///
    /// ```
    /// # fn main() -> moe_offload::Result<()> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// use moe_offload::{GenerateOptions, MoeModel};
    /// let mut model = MoeModel::builder(demo).context_tokens(512).load()?;
    /// let options = GenerateOptions::default().max_tokens(8).on_prompt_progress(|progress| {
    ///     eprint!("\r{} of {} tokens read", progress.read_tokens, progress.total_tokens);
    /// });
    /// println!("{}", model.generate("Once upon a time", &options)?.text()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn on_prompt_progress(
        self,
        on_prompt_progress: impl FnMut(PromptProgress) + Send + 'static,
    ) -> Self {
        Self { on_prompt_progress: Some(PromptCallback::new(on_prompt_progress)), ..self }
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
        if self.stop.iter().any(String::is_empty) {
            let (option, value) = ("stop", "an empty text".to_owned());
            return Err(Error::InvalidOption { option, value, expected: "a text to stop before" });
        }
        self.template.validate()?;
        self.sampling.validate()
    }

    /// How long a generation that began at `started` may go on.
    pub(crate) fn limits(&self, started: Instant) -> Limits {
        Limits::of_generation(self.cancel.as_ref(), self.max_time, started)
    }

    /// What is only for conversations is refused where there is none.
    pub(crate) fn check_without_messages(&self) -> Result<()> {
        let expected = "left as it is for a prompt, which has no messages; use `chat` for those";
        let refused = |option, value| Err(Error::InvalidOption { option, value, expected });
        if self.overflow != Overflow::Error {
            return refused("overflow", format!("{:?}", self.overflow));
        }
        if self.template != TemplateOptions::default() {
            return refused("template", format!("{:?}", self.template));
        }
        Ok(())
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
    /// Whether the model itself ended the text; otherwise it was cut off, and may not have the whole
    /// form that a [`Structure`] demands.
    pub fn is_complete(self) -> bool {
        self == Self::EndOfText
    }
}
