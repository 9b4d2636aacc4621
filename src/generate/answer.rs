//! One text under way: chooses tokens, turns them into text, and knows when the text is over. Its caller computes.

use super::detokenizer::{Output, TextBuffer};
use super::log_probabilities::TokenLogProbabilities;
use super::options::{GenerateOptions, StopReason};
use crate::engine::{Context, Sampler, Token};
use crate::error::Result;
use crate::limits::Limits;

/// What an answer is made of, and how far it is.
pub(crate) struct Answer {
    /// `None` until its prompt is read.
    sampler: Option<Sampler>,
    text: TextBuffer,
    max_tokens: u64,
    /// How many of the likeliest tokens are reported with each.
    likeliest: Option<usize>,
    log_probabilities: Vec<TokenLogProbabilities>,
    generated_tokens: u64,
    /// The token that was chosen last and is not computed yet.
    pending: Option<Token>,
    stop_reason: Option<StopReason>,
    is_over: bool,
}

impl Answer {
    pub(crate) fn new(options: &GenerateOptions) -> Self {
        Self {
            sampler: None,
            text: TextBuffer::new(&options.stop),
            max_tokens: options.max_tokens.unwrap_or(u64::MAX),
            likeliest: options.log_probabilities.map(|likeliest| likeliest as usize),
            log_probabilities: Vec::new(),
            generated_tokens: 0,
            pending: None,
            stop_reason: None,
            is_over: false,
        }
    }

    /// Makes the sampler, with which tokens can be chosen.
    pub(crate) fn begin(
        &mut self,
        options: &GenerateOptions,
        context: &Context,
        limits: &Limits,
    ) -> Result<()> {
        let structure = options.structure.as_ref();
        self.sampler = Some(Sampler::new(&options.sampling, structure, context.weights(), limits)?);
        Ok(())
    }

    /// Chooses the next token by the result at this index of the last batch, -1 for its last, and takes it into the
    /// text. Returns what can be given out of that, perhaps nothing; the text may be over then.
    pub(crate) fn choose(&mut self, context: &mut Context, index: i32) -> Result<String> {
        let Some(sampler) = &mut self.sampler else { return Ok(String::new()) };
        let token = sampler.sample_at(context, index)?;
        if context.weights().is_end(token) {
            return Ok(self.end(StopReason::EndOfText));
        }
        // Before the token is computed, while its probabilities are still there.
        if let Some(likeliest) = self.likeliest {
            let noted = TokenLogProbabilities::of(context, index, token, likeliest)?;
            self.log_probabilities.push(noted);
        }
        self.generated_tokens += 1;
        self.pending = Some(token);
        context.weights().token_bytes(token, false, self.text.bytes())?;
        match self.text.take() {
            Output::Stopped(text) => {
                self.finish(StopReason::StopString);
                Ok(text)
            }
            Output::Text(text) if self.generated_tokens >= self.max_tokens => {
                Ok(text + &self.end(StopReason::MaxTokens))
            }
            Output::Text(text) => Ok(text),
        }
    }

    /// Whether not one token is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.max_tokens == 0
    }

    /// The token to compute before the next can be chosen.
    pub(crate) fn pending(&self) -> Option<Token> {
        self.pending
    }

    /// Tokens of the text so far.
    pub(crate) fn generated_tokens(&self) -> u64 {
        self.generated_tokens
    }

    /// Ends the text for this reason; returns what is left of it.
    pub(crate) fn end(&mut self, reason: StopReason) -> String {
        self.finish(reason);
        self.text.finish()
    }

    fn finish(&mut self, reason: StopReason) {
        self.stop_reason = Some(reason);
        self.fail();
    }

    /// Ends the text by an error; returns what was kept back as it might have begun a stop string.
    pub(crate) fn break_off(&mut self) -> String {
        self.fail();
        self.text.finish()
    }

    /// Nothing more comes.
    pub(crate) fn fail(&mut self) {
        self.is_over = true;
        self.pending = None;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// `None` while it goes on, and after an error.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.stop_reason
    }

    /// Of the tokens since the last call.
    pub(crate) fn take_log_probabilities(&mut self) -> Vec<TokenLogProbabilities> {
        std::mem::take(&mut self.log_probabilities)
    }
}
