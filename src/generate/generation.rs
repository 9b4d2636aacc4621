//! The generation loop as an iterator of pieces of text.

use std::time::Instant;

use super::answer::Answer;
use super::log_probabilities::TokenLogProbabilities;
use super::options::{GenerateOptions, StopReason};
use super::overflow::Prompts;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::progress::Reading;
use crate::model::timing::Timing;
use crate::model::{MoeModel, Stats};

/// A generation under way: an iterator of pieces of text, each whole characters.
///
/// It borrows the model; drop it to stop early. After the last piece, or an error, it is over.
///
/// The model cannot go while it runs, nor run a second one:
///
/// ```compile_fail,E0505
/// # use moe_offload::{GenerateOptions, MoeModel, Result};
/// # fn f(mut model: MoeModel) -> Result<()> {
/// let generation = model.generate("Hello", &GenerateOptions::default())?;
/// drop(model);
/// println!("{}", generation.text()?);
/// # Ok(()) }
/// ```
/// ```compile_fail,E0499
/// # use moe_offload::{GenerateOptions, MoeModel, Result};
/// # fn f(mut model: MoeModel) -> Result<()> {
/// let first = model.generate("Hello", &GenerateOptions::default())?;
/// let second = model.generate("Goodbye", &GenerateOptions::default())?;
/// println!("{} {}", first.text()?, second.text()?);
/// # Ok(()) }
/// ```
#[must_use = "a generation does nothing until it is iterated"]
pub struct Generation<'m> {
    model: &'m mut MoeModel,
    answer: Answer,
    limits: Limits,
    started: Instant,
    first_token: Option<Instant>,
}

impl std::fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("stop_reason", &self.stop_reason())
            .finish_non_exhaustive()
    }
}

impl<'m> Generation<'m> {
    /// What was measured so far.
    pub fn stats(&self) -> Stats {
        self.model.stats()
    }

    /// Makes the prompt and reads it, as far as the KV cache does not hold it already. If time is
    /// over meanwhile, the generation is over without any text.
    pub(crate) fn start(
        model: &'m mut MoeModel,
        options: &GenerateOptions,
        started: Instant,
        prompt: impl FnOnce(&MoeModel, &Limits) -> Result<Prompts>,
    ) -> Result<Self> {
        options.validate()?;
        model.timing = Timing::default();
        let mut generation = Self {
            model,
            answer: Answer::new(options),
            limits: options.limits(started),
            started,
            first_token: None,
        };
        match generation.prepare(options, prompt) {
            Err(Error::TimedOut { .. }) => {
                generation.answer.end(StopReason::TimeLimit);
            }
            prepared => prepared?,
        }
        if generation.answer.is_empty() && !generation.answer.is_over() {
            generation.answer.end(StopReason::MaxTokens);
        }
        Ok(generation)
    }

    /// All that comes before the first token.
    fn prepare(
        &mut self,
        options: &GenerateOptions,
        prompt: impl FnOnce(&MoeModel, &Limits) -> Result<Prompts>,
    ) -> Result<()> {
        let model = &mut *self.model;
        let Prompts { tokens, dropped_messages, used_known_format } = prompt(model, &self.limits)?;
        let tokens = tokens.into_iter().next().unwrap_or_default();
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let context_tokens = model.prefix_cache.capacity;
        if tokens.len() >= context_tokens {
            return Err(Error::PromptTooLong { prompt_tokens: tokens.len(), context_tokens });
        }
        model.timing.prompt_tokens = tokens.len() as u64;
        model.timing.dropped_messages = dropped_messages as u64;
        model.timing.used_known_format = used_known_format;
        self.limits.check()?;
        self.answer.begin(options, &model.context, &self.limits)?;
        model.context.watch(&self.limits);
        let prefill_started = Instant::now();
        let reused = model.prefix_cache.rewind(&mut model.context, &tokens)?;
        model.timing.reused_tokens = reused as u64;
        let mut reading = Reading::of(options.on_prompt_progress.as_ref(), tokens.len());
        reading.advance(reused)?;
        let context = &mut model.context;
        let read = model.prefix_cache.read(context, &tokens[reused..], &mut reading);
        model.timing.prefill = prefill_started.elapsed();
        read
    }

    /// Why it ended; `None` while it goes on, and after an error.
    pub fn stop_reason(&self) -> Option<StopReason> {
        self.answer.stop_reason()
    }

    /// The log-probabilities of the tokens that were generated since the last call, if
    /// [`GenerateOptions::log_probabilities`] asks for them. A piece of text is one token or, where
    /// characters or stop strings reach across tokens, several.
    ///
    /// ```
    /// # fn main() -> moe_offload::Result<()> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// use moe_offload::{GenerateOptions, Message, MoeModel};
    /// let mut model = MoeModel::builder(demo).context_tokens(512).load()?;
    /// let options = GenerateOptions::default().max_tokens(5).log_probabilities(2);
    /// let mut answer = model.chat(&[Message::user("Hello")], &options)?;
    /// while let Some(piece) = answer.next() {
    ///     let text = piece?;
    ///     for token in answer.take_log_probabilities() {
    ///         println!("{text:?}: {:.2}", token.chosen.log_probability);
    ///         assert!(token.likeliest[0].log_probability >= token.chosen.log_probability);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn take_log_probabilities(&mut self) -> Vec<TokenLogProbabilities> {
        self.answer.take_log_probabilities()
    }

    /// All that is left as one text.
    ///
    /// # Errors
    /// As the iterator.
    pub fn text(self) -> Result<String> {
        self.collect()
    }

    /// Computes the last token and chooses the next; returns a piece of text, perhaps empty.
    fn step(&mut self) -> Result<String> {
        self.limits.check()?;
        let model = &mut *self.model;
        if let Some(token) = self.answer.pending() {
            if model.prefix_cache.is_full() {
                return Ok(self.answer.end(StopReason::ContextFull));
            }
            model.prefix_cache.append(&mut model.context, &[token])?;
        }
        let before = self.answer.generated_tokens();
        let text = self.answer.choose(&mut model.context, -1)?;
        if self.answer.generated_tokens() > before {
            model.timing.note_token(self.started, self.first_token);
            if self.first_token.is_none() {
                self.first_token = Some(Instant::now());
                // A device may compute on after the call; the first token is when it was done.
                model.timing.prefill = self.started.elapsed().max(model.timing.prefill);
            }
        }
        Ok(text)
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.answer.is_over() {
            match self.step() {
                Err(Error::TimedOut { .. }) => {
                    let rest = self.answer.end(StopReason::TimeLimit);
                    return Some(rest).filter(|rest| !rest.is_empty()).map(Ok);
                }
                Err(error) => {
                    self.answer.fail();
                    return Some(Err(error));
                }
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Generation<'_> {}
