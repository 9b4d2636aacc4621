//! What a context holds of the conversation so far.

use std::sync::Arc;

use crate::engine::{Context, Decoded, Token, Weights};
use crate::error::{Error, Result};
use crate::limits::{Interruption, Limits};
use crate::progress::Reading;
use crate::tokenize::tokenize;

/// The tokens whose KV state a context holds, kept true through every error.
pub(crate) struct Cached {
    tokens: Vec<Token>,
    /// Most tokens it may hold.
    pub(crate) capacity: usize,
    /// Most tokens to compute at once.
    batch: usize,
}

impl Cached {
    pub(crate) fn new(capacity: u32, batch: u32) -> Self {
        Self { tokens: Vec::new(), capacity: capacity as usize, batch: batch.max(1) as usize }
    }

    /// A whole prompt's text as tokens. If it continues the text of the tokens that are held, these
    /// stay as they are: an answer split anew might give other tokens, none of which would be known.
    pub(crate) fn tokens_of(
        &self,
        weights: &Arc<Weights>,
        prompt: &str,
        add_special: bool,
        limits: &Limits,
    ) -> Result<Vec<Token>> {
        let whole = tokenize(weights, prompt, add_special, limits)?;
        let common = std::iter::zip(&self.tokens, &whole).take_while(|(a, b)| a == b).count();
        if common == self.tokens.len() {
            return Ok(whole);
        }
        // Up to where they differ the texts are the same; beyond it they may be.
        let text_of = |tokens: &[Token]| -> Result<Vec<u8>> {
            let mut text = Vec::new();
            tokens.iter().try_for_each(|&token| weights.token_bytes(token, true, &mut text))?;
            Ok(text)
        };
        let rest = text_of(&whole[common..])?;
        let Some(new) = rest.strip_prefix(&*text_of(&self.tokens[common..])?) else {
            return Ok(whole);
        };
        let Ok(new_text) = std::str::from_utf8(new) else { return Ok(whole) };
        let new_tokens = tokenize(weights, new_text, false, limits)?;
        // Some vocabularies put a space before a text, which does not belong here.
        if new_tokens.is_empty() || text_of(&new_tokens)? != new {
            return Ok(whole);
        }
        Ok([&self.tokens[..], &new_tokens].concat())
    }

    /// Goes back to what `prompt` begins with; returns how many tokens of it need not be computed.
    pub(crate) fn rewind(&mut self, context: &mut Context, prompt: &[Token]) -> Result<usize> {
        let common = std::iter::zip(&self.tokens, prompt).take_while(|(a, b)| a == b).count();
        // The last token is always computed: its result chooses the next.
        let kept = context.keep(common.min(prompt.len().saturating_sub(1)));
        self.tokens.truncate(*kept.as_ref().unwrap_or(&0));
        kept
    }

    /// Reads a prompt's tokens after those that are held, a micro-batch at a time where somebody
    /// wants to know how far it is, or may end it.
    pub(crate) fn read(
        &mut self,
        context: &mut Context,
        prompt: &[Token],
        limits: &Limits,
        reading: &mut Reading,
    ) -> Result<()> {
        let batch = batch_tokens(self.batch, context, limits, reading);
        let mut rest = prompt;
        while !rest.is_empty() {
            let part;
            (part, rest) = rest.split_at(context.tokens_at_once(batch.min(rest.len())));
            self.append(context, part, limits)?;
            reading.advance(part.len())?;
        }
        Ok(())
    }

    /// Computes these tokens, at most a batch, after those that are held.
    pub(crate) fn append(
        &mut self,
        context: &mut Context,
        tokens: &[Token],
        limits: &Limits,
    ) -> Result<()> {
        let decoded = match limits.interruption() {
            Some(_) => Ok(Decoded::Cancelled),
            None => context.decode(tokens),
        };
        match decoded {
            Ok(Decoded::Done) => {
                self.tokens.extend_from_slice(tokens);
                Ok(())
            }
            Ok(Decoded::Cancelled) => {
                self.restore(context)?;
                Err(limits.interruption().unwrap_or(Interruption::Cancelled).into_error())
            }
            Ok(Decoded::NoRoom) => {
                self.restore(context)?;
                let reason = "the KV cache has no room".to_owned();
                Err(Error::Engine { operation: "compute", reason })
            }
            Err(error) => {
                self.restore(context).ok();
                Err(error)
            }
        }
    }

    /// After an interruption the context may hold a part of a batch, or nothing.
    pub(crate) fn restore(&mut self, context: &mut Context) -> Result<()> {
        let kept = context.keep(self.tokens.len())?;
        self.tokens.truncate(kept);
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, context: &mut Context) -> Result<()> {
        self.tokens.clear();
        context.keep(0).map(|_| ())
    }

    /// The tokens that are held.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The context now holds these.
    pub(crate) fn replace(&mut self, tokens: Vec<Token>) {
        self.tokens = tokens;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.tokens.len() >= self.capacity
    }
}

/// How many tokens of a prompt to compute in one call: a batch, or a micro-batch where somebody
/// looks in between, which only the CPU's backend does by itself.
pub(crate) fn batch_tokens(
    batch: usize,
    context: &Context,
    limits: &Limits,
    reading: &Reading,
) -> usize {
    let is_looked_at = !limits.are_none() || reading.is_watched();
    let micro_batch = context.micro_batch_tokens() as usize;
    if is_looked_at { batch.min(micro_batch).max(1) } else { batch }
}
