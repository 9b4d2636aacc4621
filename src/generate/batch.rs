//! Several texts generated at once in one context.

use std::collections::VecDeque;
use std::time::Instant;

use super::answer::Answer;
use super::log_probabilities::TokenLogProbabilities;
use super::options::{GenerateOptions, StopReason};
use super::overflow::Prompts;
use crate::engine::{BatchToken, Token};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::model::prefix_cache::batch_tokens;
use crate::model::progress::Reading;
use crate::model::timing::Timing;
use crate::model::{MoeModel, Stats};

/// Several generations under way: an iterator of pieces of text, each with the number of its
/// prompt. Made by [`MoeModel::generate_together`].
///
/// What ends one text alone, such as [`Error::DeadEnd`], comes as [`Error::OfPrompt`], and the others
/// go on. After any other error nothing more comes.
#[must_use = "a generation does nothing until it is iterated"]
pub struct Together<'m> {
    model: &'m mut MoeModel,
    sequences: Vec<Sequence>,
    limits: Limits,
    started: Instant,
    /// When all prompts were read.
    decoding_since: Option<Instant>,
    /// Whether the context is used for these sequences, and not for an earlier conversation.
    has_begun: bool,
    /// Tokens that the context holds, of all sequences.
    held: usize,
    ready: VecDeque<Result<(usize, String)>>,
    /// What [`texts`](Self::texts) took so far.
    taken: Vec<String>,
    failed: bool,
}

impl std::fmt::Debug for Together<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("sequences", &self.sequences.len()).finish_non_exhaustive()
    }
}

/// One of the texts.
struct Sequence {
    answer: Answer,
    /// Tokens of it that the context holds.
    length: usize,
}

impl<'m> Together<'m> {
    /// Makes so many prompts and reads them, one after the other. If time is over meanwhile, all
    /// that is not complete is over.
    pub(crate) fn start(
        model: &'m mut MoeModel,
        count: usize,
        options: &GenerateOptions,
        prompts: impl FnOnce(&MoeModel, &Limits) -> Result<Prompts>,
    ) -> Result<Self> {
        let started = Instant::now();
        options.validate()?;
        if count > model.plan().context().sequences as usize {
            return Err(Error::InvalidOption {
                option: "the number of prompts",
                value: count.to_string(),
                expected: "at most the `sequences` that the model was loaded with",
            });
        }
        model.timing = Timing::default();
        let mut together = Self {
            model,
            sequences: (0..count)
                .map(|_| Sequence { answer: Answer::new(options), length: 0 })
                .collect(),
            limits: options.limits(started),
            started,
            decoding_since: None,
            has_begun: false,
            held: 0,
            ready: VecDeque::new(),
            taken: vec![String::new(); count],
            failed: false,
        };
        match together.prepare(options, prompts) {
            Err(Error::TimedOut { .. }) => together.end_all(StopReason::TimeLimit)?,
            prepared => prepared?,
        }
        Ok(together)
    }

    /// All that comes before the second token of an answer.
    fn prepare(
        &mut self,
        options: &GenerateOptions,
        prompts: impl FnOnce(&MoeModel, &Limits) -> Result<Prompts>,
    ) -> Result<()> {
        let Prompts { tokens: prompts, dropped_messages, used_known_format } =
            prompts(self.model, &self.limits)?;
        let prompt_tokens: usize = prompts.iter().map(Vec::len).sum();
        let context_tokens = self.model.prefix_cache.capacity;
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::EmptyPrompt);
        }
        if prompt_tokens + prompts.len() > context_tokens {
            return Err(Error::PromptTooLong { prompt_tokens, context_tokens });
        }
        self.model.timing.prompt_tokens = prompt_tokens as u64;
        self.model.timing.dropped_messages = dropped_messages as u64;
        self.model.timing.used_known_format = used_known_format;
        self.limits.check()?;
        self.model.context.watch(&self.limits);
        let prefill_started = Instant::now();
        self.has_begun = true;
        self.model.prefix_cache.clear(&mut self.model.context)?;
        let mut reading = Reading::of(options.on_prompt_progress.as_ref(), prompt_tokens);
        reading.advance(0)?;
        for (number, prompt) in prompts.iter().enumerate() {
            let read = self.read(number, prompt, options, &mut reading);
            self.model.timing.prefill = prefill_started.elapsed();
            read?;
        }
        self.decoding_since = Some(Instant::now());
        Ok(())
    }

    /// Reads one prompt and chooses the first token of its answer.
    fn read(
        &mut self,
        number: usize,
        prompt: &[Token],
        options: &GenerateOptions,
        reading: &mut Reading,
    ) -> Result<()> {
        let answer = &mut self.sequences[number].answer;
        answer.begin(options, &self.model.context, &self.limits)?;
        let id = i32::try_from(number).unwrap_or(i32::MAX);
        let mut steps: Vec<BatchToken> = (0..)
            .zip(prompt)
            .map(|(position, &token)| BatchToken { token, position, sequence: id, is_last: false })
            .collect();
        if let Some(last) = steps.last_mut() {
            last.is_last = true;
        }
        let batch = self.model.plan().context().batch_tokens.max(1) as usize;
        let is_looked_at = self.model.context.is_limited() || reading.is_watched();
        let batch = batch_tokens(batch, &self.model.context, is_looked_at);
        let mut rest = &steps[..];
        while !rest.is_empty() {
            let at_once = self.model.context.tokens_at_once(batch.min(rest.len()));
            let (steps, later) = rest.split_at(at_once);
            self.model.context.decode_together(steps)?;
            reading.advance(steps.len())?;
            rest = later;
        }
        self.held += prompt.len();
        let sequence = &mut self.sequences[number];
        sequence.length = prompt.len();
        if sequence.answer.is_empty() {
            return self.end(number, StopReason::MaxTokens);
        }
        self.choose(number, -1)
    }

    /// Chooses a text's next token by the result at this index of the last batch; what only this text cannot go on
    /// with ends it alone.
    fn choose(&mut self, number: usize, index: i32) -> Result<()> {
        let answer = &mut self.sequences[number].answer;
        let before = answer.generated_tokens();
        let chosen = answer.choose(&mut self.model.context, index);
        if answer.generated_tokens() > before {
            self.model.timing.note_token(self.started, self.decoding_since);
        }
        match chosen {
            Ok(text) => self.ready.push_back(Ok((number, text))),
            Err(error @ (Error::DeadEnd { .. } | Error::AmbiguousStructure { .. })) => {
                // The text so far was given out, but for what might have begun a stop string.
                self.ready.push_back(Ok((number, answer.break_off())));
                self.ready
                    .push_back(Err(Error::OfPrompt { prompt: number, error: Box::new(error) }));
            }
            Err(error) => return Err(error),
        }
        if self.sequences[number].answer.is_over() { self.leave(number) } else { Ok(()) }
    }

    /// Ends a sequence with what is left of its text.
    fn end(&mut self, number: usize, reason: StopReason) -> Result<()> {
        let rest = self.sequences[number].answer.end(reason);
        self.ready.push_back(Ok((number, rest)));
        self.leave(number)
    }

    /// Ends all that go on.
    fn end_all(&mut self, reason: StopReason) -> Result<()> {
        let going_on = |&number: &usize| !self.sequences[number].answer.is_over();
        let numbers: Vec<usize> = (0..self.sequences.len()).filter(going_on).collect();
        numbers.into_iter().try_for_each(|number| self.end(number, reason))
    }

    /// Makes room for the others.
    fn leave(&mut self, number: usize) -> Result<()> {
        let length = std::mem::take(&mut self.sequences[number].length);
        self.held -= length;
        if length == 0 {
            return Ok(());
        }
        self.model.context.forget(i32::try_from(number).unwrap_or(i32::MAX))
    }

    /// The last token of every text that goes on, with the text's number.
    fn pending(&self) -> Vec<(usize, BatchToken)> {
        let step = |(number, sequence): (usize, &Sequence)| {
            let token = sequence.answer.pending()?;
            let position = i32::try_from(sequence.length).ok()?;
            let id = i32::try_from(number).ok()?;
            Some((number, BatchToken { token, position, sequence: id, is_last: true }))
        };
        self.sequences.iter().enumerate().filter_map(step).collect()
    }

    /// Computes one token of every text that goes on; `false` when none does.
    fn step(&mut self) -> Result<bool> {
        let (numbers, steps): (Vec<usize>, Vec<BatchToken>) = self.pending().into_iter().unzip();
        if numbers.is_empty() {
            return Ok(false);
        }
        self.limits.check()?;
        if self.held + numbers.len() > self.model.prefix_cache.capacity {
            return self.end_all(StopReason::ContextFull).map(|()| true);
        }
        self.model.context.decode_together(&steps)?;
        self.held += numbers.len();
        for &number in &numbers {
            self.sequences[number].length += 1;
        }
        for (index, number) in (0..).zip(numbers) {
            self.choose(number, index)?;
        }
        Ok(true)
    }

    /// Why the text of this prompt ended; `None` while it goes on, and after an error.
    pub fn stop_reason(&self, prompt: usize) -> Option<StopReason> {
        self.sequences.get(prompt).and_then(|sequence| sequence.answer.stop_reason())
    }

    /// The log-probabilities of the tokens that were generated for this prompt since the last call;
    /// see [`Generation::take_log_probabilities`](crate::Generation::take_log_probabilities).
    pub fn take_log_probabilities(&mut self, prompt: usize) -> Vec<TokenLogProbabilities> {
        let sequence = self.sequences.get_mut(prompt);
        sequence.map(|sequence| sequence.answer.take_log_probabilities()).unwrap_or_default()
    }

    /// What was measured so far, of all texts together.
    pub fn stats(&self) -> Stats {
        self.model.stats()
    }

    /// All that is left, by prompt.
    ///
    /// # Errors
    /// As the iterator. Nothing is lost by one: called again, it goes on with the texts that still
    /// can, and returns also what it had before the error.
    pub fn texts(&mut self) -> Result<Vec<String>> {
        while let Some(piece) = self.next() {
            let (prompt, text) = piece?;
            self.taken[prompt] += &text;
        }
        Ok(std::mem::replace(&mut self.taken, vec![String::new(); self.sequences.len()]))
    }
}

impl Iterator for Together<'_> {
    type Item = Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.ready.pop_front() {
                Some(Ok((_, text))) if text.is_empty() => continue,
                Some(piece) => return Some(piece),
                None if self.failed => return None,
                None => {}
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(Error::TimedOut { .. }) => {
                    if let Err(error) = self.end_all(StopReason::TimeLimit) {
                        self.failed = true;
                        return Some(Err(error));
                    }
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl std::iter::FusedIterator for Together<'_> {}

impl Drop for Together<'_> {
    fn drop(&mut self) {
        if self.has_begun {
            // The next conversation begins with nothing; what cannot be forgotten now says so then.
            let _ = self.model.prefix_cache.clear(&mut self.model.context);
        }
    }
}
