//! Several texts generated at once in one context.

use std::collections::VecDeque;
use std::time::Instant;

use super::detokenizer::{Output, TextBuffer};
use super::log_probabilities::TokenLogProbabilities;
use super::options::{GenerateOptions, StopReason};
use super::overflow::Prompts;
use crate::engine::{BatchToken, Decoded, Sampler, Token};
use crate::error::{Error, Result};
use crate::limits::{Interruption, Limits};
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
    max_tokens: u64,
    /// How many of the likeliest tokens are reported with each.
    likeliest: Option<usize>,
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
    /// `None` until its prompt is read.
    sampler: Option<Sampler>,
    text: TextBuffer,
    /// Tokens of it that the context holds.
    length: usize,
    generated: u64,
    /// The token that was chosen last and is not computed yet.
    pending: Option<Token>,
    log_probabilities: Vec<TokenLogProbabilities>,
    /// `None` also where an error ended it.
    stop_reason: Option<StopReason>,
    is_over: bool,
}

impl Sequence {
    fn new(stops: &[String]) -> Self {
        Self {
            sampler: None,
            text: TextBuffer::new(stops),
            length: 0,
            generated: 0,
            pending: None,
            log_probabilities: Vec::new(),
            stop_reason: None,
            is_over: false,
        }
    }
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
            sequences: (0..count).map(|_| Sequence::new(&options.stop)).collect(),
            max_tokens: options.max_tokens.unwrap_or(u64::MAX),
            likeliest: options.log_probabilities.map(|likeliest| likeliest as usize),
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
        let Prompts { tokens: prompts, dropped_messages } = prompts(self.model, &self.limits)?;
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
        let context = &self.model.context;
        let sampler = Sampler::new(
            &options.sampling,
            options.structure.as_ref(),
            context.weights(),
            &self.limits,
        )?;
        let id = i32::try_from(number).unwrap_or(i32::MAX);
        let mut steps: Vec<BatchToken> = (0..)
            .zip(prompt)
            .map(|(position, &token)| BatchToken { token, position, sequence: id, is_last: false })
            .collect();
        if let Some(last) = steps.last_mut() {
            last.is_last = true;
        }
        let batch = self.model.plan().context().batch_tokens.max(1) as usize;
        let is_looked_at = !self.limits.are_none() || reading.is_watched();
        let batch = batch_tokens(batch, &self.model.context, is_looked_at);
        let mut rest = &steps[..];
        while !rest.is_empty() {
            let at_once = self.model.context.tokens_at_once(batch.min(rest.len()));
            let (steps, later) = rest.split_at(at_once);
            self.compute(steps)?;
            reading.advance(steps.len())?;
            rest = later;
        }
        self.held += prompt.len();
        let sequence = &mut self.sequences[number];
        sequence.length = prompt.len();
        if self.max_tokens == 0 {
            return self.end(number, StopReason::MaxTokens);
        }
        let sampled = sequence.sampler.insert(sampler).sample(&mut self.model.context);
        self.note_sampled(number, sampled, -1)
    }

    /// Takes what a sampler chose; what only this text cannot go on with ends it alone.
    fn note_sampled(&mut self, number: usize, sampled: Result<Token>, index: i32) -> Result<()> {
        let error = match sampled {
            Ok(token) => return self.note(number, token, index),
            Err(error @ (Error::DeadEnd { .. } | Error::AmbiguousStructure { .. })) => error,
            Err(error) => return Err(error),
        };
        // The text so far was given out, but for what might have begun a stop string.
        let rest = self.sequences[number].text.finish();
        self.ready.push_back(Ok((number, rest)));
        self.ready.push_back(Err(Error::OfPrompt { prompt: number, error: Box::new(error) }));
        self.leave(number)
    }

    fn compute(&mut self, steps: &[BatchToken]) -> Result<()> {
        let decoded = match self.limits.interruption() {
            Some(_) => Decoded::Cancelled,
            None => self.model.context.decode_together(steps)?,
        };
        match decoded {
            Decoded::Done => Ok(()),
            Decoded::Cancelled => {
                Err(self.limits.interruption().unwrap_or(Interruption::Cancelled).into_error())
            }
            Decoded::NoRoom => {
                let reason = "the KV cache has no room".to_owned();
                Err(Error::Engine { operation: "compute", reason })
            }
        }
    }

    /// Takes a token into a sequence's text, chosen by the result at this index of the last batch.
    fn note(&mut self, number: usize, token: Token, index: i32) -> Result<()> {
        let context = &mut self.model.context;
        if context.weights().is_end(token) {
            return self.end(number, StopReason::EndOfText);
        }
        let sequence = &mut self.sequences[number];
        if let Some(likeliest) = self.likeliest {
            let noted = TokenLogProbabilities::of(context, index, token, likeliest)?;
            sequence.log_probabilities.push(noted);
        }
        self.model.timing.note_token(self.started, self.decoding_since);
        sequence.generated += 1;
        sequence.pending = Some(token);
        context.weights().token_bytes(token, false, sequence.text.bytes())?;
        let is_enough = sequence.generated >= self.max_tokens;
        match sequence.text.take() {
            Output::Stopped(text) => {
                self.ready.push_back(Ok((number, text)));
                self.finish(number, StopReason::StopString)
            }
            Output::Text(text) => {
                self.ready.push_back(Ok((number, text)));
                if is_enough { self.end(number, StopReason::MaxTokens) } else { Ok(()) }
            }
        }
    }

    /// Ends a sequence with what is left of its text.
    fn end(&mut self, number: usize, reason: StopReason) -> Result<()> {
        let rest = self.sequences[number].text.finish();
        self.ready.push_back(Ok((number, rest)));
        self.finish(number, reason)
    }

    /// Ends all that go on.
    fn end_all(&mut self, reason: StopReason) -> Result<()> {
        let going_on = |&number: &usize| !self.sequences[number].is_over;
        let numbers: Vec<usize> = (0..self.sequences.len()).filter(going_on).collect();
        numbers.into_iter().try_for_each(|number| self.end(number, reason))
    }

    fn finish(&mut self, number: usize, reason: StopReason) -> Result<()> {
        self.sequences[number].stop_reason = Some(reason);
        self.leave(number)
    }

    /// Makes room for the others.
    fn leave(&mut self, number: usize) -> Result<()> {
        let sequence = &mut self.sequences[number];
        sequence.is_over = true;
        sequence.pending = None;
        let length = std::mem::take(&mut sequence.length);
        self.held -= length;
        if length == 0 {
            return Ok(());
        }
        self.model.context.forget(i32::try_from(number).unwrap_or(i32::MAX))
    }

    /// Computes one token of every text that goes on; `false` when none does.
    fn step(&mut self) -> Result<bool> {
        let going_on: Vec<usize> =
            (0..self.sequences.len()).filter(|&i| self.sequences[i].pending.is_some()).collect();
        if going_on.is_empty() {
            return Ok(false);
        }
        let is_late = self.limits.interruption() == Some(Interruption::TimeUp);
        if is_late || self.held + going_on.len() > self.model.prefix_cache.capacity {
            let reason = if is_late { StopReason::TimeLimit } else { StopReason::ContextFull };
            going_on.into_iter().try_for_each(|number| self.end(number, reason))?;
            return Ok(true);
        }
        let steps: Vec<BatchToken> = going_on
            .iter()
            .filter_map(|&number| {
                let sequence = &self.sequences[number];
                let position = i32::try_from(sequence.length).ok()?;
                let id = i32::try_from(number).ok()?;
                Some(BatchToken { token: sequence.pending?, position, sequence: id, is_last: true })
            })
            .collect();
        self.compute(&steps)?;
        self.held += going_on.len();
        let mut chosen = Vec::with_capacity(going_on.len());
        for (index, &number) in (0..).zip(&going_on) {
            let sequence = &mut self.sequences[number];
            sequence.length += 1;
            if let Some(sampler) = &mut sequence.sampler {
                let sampled = sampler.sample_at(&mut self.model.context, index);
                chosen.push((number, sampled, index));
            }
        }
        for (number, sampled, index) in chosen {
            self.note_sampled(number, sampled, index)?;
        }
        Ok(true)
    }

    /// Why the text of this prompt ended; `None` while it goes on, and after an error.
    pub fn stop_reason(&self, prompt: usize) -> Option<StopReason> {
        self.sequences.get(prompt).and_then(|sequence| sequence.stop_reason)
    }

    /// The log-probabilities of the tokens that were generated for this prompt since the last call;
    /// see [`Generation::take_log_probabilities`](crate::Generation::take_log_probabilities).
    pub fn take_log_probabilities(&mut self, prompt: usize) -> Vec<TokenLogProbabilities> {
        let sequence = self.sequences.get_mut(prompt);
        sequence.map(|sequence| std::mem::take(&mut sequence.log_probabilities)).unwrap_or_default()
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
