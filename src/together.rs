//! Several texts generated at once in one context.

use std::collections::VecDeque;
use std::time::Instant;

use crate::engine::{Decoded, Sampler, Step, Token};
use crate::error::{Error, Result};
use crate::limits::{Interruption, Limits};
use crate::model::MoeModel;
use crate::options::{GenerateOptions, StopReason};
use crate::text::{Output, TextBuffer};

/// Several generations under way: an iterator of pieces of text, each with the number of its
/// prompt. Made by [`MoeModel::generate_together`].
#[must_use = "a generation does nothing until it is iterated"]
pub struct Together<'m> {
    model: &'m mut MoeModel,
    sequences: Vec<Sequence>,
    max_tokens: u64,
    limits: Limits,
    /// Tokens that the context holds, of all sequences.
    held: usize,
    ready: VecDeque<(usize, String)>,
    failed: bool,
}

impl std::fmt::Debug for Together<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("sequences", &self.sequences.len()).finish_non_exhaustive()
    }
}

/// One of the texts.
struct Sequence {
    sampler: Sampler,
    text: TextBuffer,
    /// Tokens of it that the context holds.
    length: usize,
    generated: u64,
    /// The token that was chosen last and is not computed yet.
    pending: Option<Token>,
    stop_reason: Option<StopReason>,
}

impl<'m> Together<'m> {
    /// Reads all prompts, one after the other.
    pub(crate) fn start(
        model: &'m mut MoeModel,
        prompts: &[Vec<Token>],
        options: &GenerateOptions,
    ) -> Result<Self> {
        let started = Instant::now();
        options.validate()?;
        let most = model.plan().context().sequences;
        if prompts.len() > most as usize {
            return Err(Error::InvalidOption {
                option: "the number of prompts",
                value: prompts.len().to_string(),
                expected: "at most the `sequences` that the model was loaded with",
            });
        }
        let prompt_tokens: usize = prompts.iter().map(Vec::len).sum();
        let context_tokens = model.cached.capacity;
        if prompts.iter().any(Vec::is_empty) {
            return Err(Error::EmptyPrompt);
        }
        if prompt_tokens + prompts.len() > context_tokens {
            return Err(Error::PromptTooLong { prompt_tokens, context_tokens });
        }
        let limits = Limits::of(options, started);
        model.context.watch(&limits);
        model.cached.replace(Vec::new());
        model.context.keep(0)?;
        let mut together = Self {
            model,
            sequences: Vec::new(),
            max_tokens: options.max_tokens.unwrap_or(u64::MAX),
            limits,
            held: 0,
            ready: VecDeque::new(),
            failed: false,
        };
        for prompt in prompts {
            together.read(prompt, options)?;
        }
        Ok(together)
    }

    /// Reads one prompt and chooses the first token of its answer.
    fn read(&mut self, prompt: &[Token], options: &GenerateOptions) -> Result<()> {
        let number = self.sequences.len();
        let context = &self.model.context;
        let sampler =
            Sampler::new(&options.sampling, options.structure.as_ref(), context.weights())?;
        let id = i32::try_from(number).unwrap_or(i32::MAX);
        let mut steps: Vec<Step> = (0..)
            .zip(prompt)
            .map(|(position, &token)| Step { token, position, sequence: id, is_last: false })
            .collect();
        if let Some(last) = steps.last_mut() {
            last.is_last = true;
        }
        let batch = self.model.plan().context().batch_tokens.max(1) as usize;
        let mut rest = &steps[..];
        while !rest.is_empty() {
            let at_once = self.model.context.tokens_at_once(batch.min(rest.len()));
            let (steps, later) = rest.split_at(at_once);
            self.compute(steps)?;
            rest = later;
        }
        let mut sequence = Sequence {
            sampler,
            text: TextBuffer::new(&options.stop),
            length: prompt.len(),
            generated: 0,
            pending: None,
            stop_reason: (self.max_tokens == 0).then_some(StopReason::MaxTokens),
        };
        self.held += prompt.len();
        if sequence.stop_reason.is_none() {
            let token = sequence.sampler.sample(&mut self.model.context)?;
            self.sequences.push(sequence);
            return self.note(number, token);
        }
        self.sequences.push(sequence);
        Ok(())
    }

    fn compute(&mut self, steps: &[Step]) -> Result<()> {
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

    /// Takes a chosen token into a sequence's text.
    fn note(&mut self, number: usize, token: Token) -> Result<()> {
        let weights = self.model.context.weights();
        let sequence = &mut self.sequences[number];
        if weights.is_end(token) {
            return self.end(number, StopReason::EndOfText);
        }
        sequence.generated += 1;
        sequence.pending = Some(token);
        weights.token_bytes(token, false, sequence.text.bytes())?;
        let is_enough = sequence.generated >= self.max_tokens;
        match sequence.text.take() {
            Output::Stopped(text) => {
                self.ready.push_back((number, text));
                self.finish(number, StopReason::StopString)
            }
            Output::Text(text) => {
                self.ready.push_back((number, text));
                if is_enough { self.end(number, StopReason::MaxTokens) } else { Ok(()) }
            }
        }
    }

    /// Ends a sequence with what is left of its text.
    fn end(&mut self, number: usize, reason: StopReason) -> Result<()> {
        let rest = self.sequences[number].text.finish();
        self.ready.push_back((number, rest));
        self.finish(number, reason)
    }

    /// Ends all that go on.
    fn end_all(&mut self, reason: StopReason) -> Result<()> {
        let going_on = |&number: &usize| self.sequences[number].stop_reason.is_none();
        let numbers: Vec<usize> = (0..self.sequences.len()).filter(going_on).collect();
        numbers.into_iter().try_for_each(|number| self.end(number, reason))
    }

    /// Makes room for the others.
    fn finish(&mut self, number: usize, reason: StopReason) -> Result<()> {
        let sequence = &mut self.sequences[number];
        sequence.stop_reason = Some(reason);
        sequence.pending = None;
        self.held -= std::mem::take(&mut sequence.length);
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
        if is_late || self.held + going_on.len() > self.model.cached.capacity {
            let reason = if is_late { StopReason::TimeLimit } else { StopReason::ContextFull };
            going_on.into_iter().try_for_each(|number| self.end(number, reason))?;
            return Ok(true);
        }
        let steps: Vec<Step> = going_on
            .iter()
            .filter_map(|&number| {
                let sequence = &self.sequences[number];
                let position = i32::try_from(sequence.length).ok()?;
                let id = i32::try_from(number).ok()?;
                Some(Step { token: sequence.pending?, position, sequence: id, is_last: true })
            })
            .collect();
        self.compute(&steps)?;
        self.held += going_on.len();
        let mut chosen = Vec::with_capacity(going_on.len());
        for (index, &number) in (0..).zip(&going_on) {
            let sequence = &mut self.sequences[number];
            sequence.length += 1;
            chosen.push(sequence.sampler.sample_at(&mut self.model.context, index)?);
        }
        for (number, token) in std::iter::zip(going_on, chosen) {
            self.note(number, token)?;
        }
        Ok(true)
    }

    /// Why the text of this prompt ended; `None` while it goes on, and after an error.
    pub fn stop_reason(&self, prompt: usize) -> Option<StopReason> {
        self.sequences.get(prompt).and_then(|sequence| sequence.stop_reason)
    }

    /// All that is left, by prompt.
    ///
    /// # Errors
    /// As the iterator.
    pub fn texts(mut self) -> Result<Vec<String>> {
        let mut texts = vec![String::new(); self.sequences.len()];
        for piece in &mut self {
            let (prompt, text) = piece?;
            texts[prompt] += &text;
        }
        Ok(texts)
    }
}

impl Iterator for Together<'_> {
    type Item = Result<(usize, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.failed {
                return None;
            }
            match self.ready.pop_front() {
                Some((_, text)) if text.is_empty() => continue,
                Some(piece) => return Some(Ok(piece)),
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
        // The next conversation begins with nothing; what cannot be forgotten now says so then.
        let _ = self.model.context.keep(0);
    }
}
