//! What a context holds of the conversation so far.

use std::sync::Arc;

use super::checkpoints::{self, Checkpoints};
use super::progress::Reading;
use super::tokenizer::tokenize;
use crate::engine::{Context, Rewind, Token, Weights};
use crate::error::Result;
use crate::limits::Limits;

/// The tokens whose KV state a context holds, kept true through every error.
pub(crate) struct PrefixCache {
    tokens: Vec<Token>,
    /// Most tokens it may hold.
    pub(crate) capacity: usize,
    /// Most tokens to compute at once.
    batch: usize,
    /// Of these tokens, or of the first of them.
    checkpoints: Checkpoints,
    /// Where the prompt differs from what was held, if the context could not go back there.
    edited: Option<usize>,
}

impl PrefixCache {
    pub(crate) fn new(capacity: u32, batch: u32, checkpoint_bytes: u64) -> Self {
        Self {
            tokens: Vec::new(),
            capacity: capacity as usize,
            batch: batch.max(1) as usize,
            checkpoints: Checkpoints::new(checkpoint_bytes),
            edited: None,
        }
    }

    /// For another context of the same sizes.
    pub(crate) fn another(&self) -> Self {
        let checkpoints = Checkpoints::new(self.checkpoints.budget_bytes());
        Self { tokens: Vec::new(), checkpoints, edited: None, ..*self }
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
        let wanted = common.min(prompt.len().saturating_sub(1));
        let kept = self.go_back(context, wanted)?;
        self.edited = Some(wanted).filter(|&wanted| kept < wanted);
        Ok(kept)
    }

    /// Keeps as many of the first tokens as can be, at most so many; returns how many.
    fn go_back(&mut self, context: &mut Context, keep: usize) -> Result<usize> {
        let checkpoint = self.checkpoints.before(keep, context.rewind());
        let checkpoint = checkpoint.map(|found| (&*found.state, found.position.min(keep)));
        let kept = context.truncate(keep, checkpoint);
        let left = *kept.as_ref().unwrap_or(&0);
        self.tokens.truncate(left);
        self.checkpoints.forget_after(left);
        kept
    }

    /// Reads a prompt's tokens after those that are held, in parts: a micro-batch each where somebody
    /// wants to know how far it is, or may end it, or the context cannot go back by itself.
    pub(crate) fn read(
        &mut self,
        context: &mut Context,
        prompt: &[Token],
        reading: &mut Reading,
    ) -> Result<()> {
        // Without a budget there is nothing to stop for.
        let has_budget = self.checkpoints.budget_bytes() > 0;
        let rewind = if has_budget { context.rewind() } else { Rewind::Free };
        let is_looked_at = rewind != Rewind::Free || context.is_limited() || reading.is_watched();
        let batch = batch_tokens(self.batch, context, is_looked_at);
        let (from, to) = (self.tokens.len(), self.tokens.len() + prompt.len());
        let stops = checkpoints::stops(from, to, self.edited.take(), rewind);
        if rewind == Rewind::Exact && from > 0 {
            self.checkpoint(context)?;
        }
        let (mut rest, mut last) = (prompt, from);
        while !rest.is_empty() {
            let here = self.tokens.len();
            let stop = stops.iter().find(|&&stop| stop > here).unwrap_or(&to) - here;
            let part;
            (part, rest) = rest.split_at(context.tokens_at_once(batch.min(stop)));
            self.append(context, part)?;
            reading.advance(part.len())?;
            let here = self.tokens.len();
            let is_stop = stops.contains(&here) || (here == to && rewind == Rewind::Window);
            let is_between = here < to
                && here - last
                    >= self.checkpoints.spacing(prompt.len(), context.checkpoint_bytes()?);
            if is_stop || is_between {
                self.checkpoint(context)?;
                last = here;
            }
        }
        Ok(())
    }

    /// Makes a checkpoint of what is held now, where one is of use.
    fn checkpoint(&mut self, context: &mut Context) -> Result<()> {
        let position = self.tokens.len();
        if self.checkpoints.wants(position, context.checkpoint_bytes()?) {
            self.checkpoints.insert(position, context.checkpoint()?);
        }
        Ok(())
    }

    /// Bytes of memory that the checkpoints take.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        self.checkpoints.bytes()
    }

    /// Computes these tokens, at most a batch, after those that are held.
    pub(crate) fn append(&mut self, context: &mut Context, tokens: &[Token]) -> Result<()> {
        self.compute(context, tokens, Context::decode)
    }

    /// The same, with the logits of each: one row of the vocabulary's size after the other.
    pub(super) fn evaluate(&mut self, context: &mut Context, tokens: &[Token]) -> Result<Vec<f32>> {
        self.compute(context, tokens, Context::logits)
    }

    fn compute<T>(
        &mut self,
        context: &mut Context,
        tokens: &[Token],
        with: impl FnOnce(&mut Context, &[Token]) -> Result<T>,
    ) -> Result<T> {
        match with(context, tokens) {
            Ok(done) => {
                self.tokens.extend_from_slice(tokens);
                Ok(done)
            }
            Err(error) => {
                // What failed is told; what cannot be restored is computed again, or says so then.
                self.restore(context).ok();
                Err(error)
            }
        }
    }

    /// After an interruption the context may hold a part of a batch, or nothing.
    pub(crate) fn restore(&mut self, context: &mut Context) -> Result<()> {
        self.go_back(context, self.tokens.len()).map(|_| ())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, context: &mut Context) -> Result<()> {
        self.replace(Vec::new());
        context.truncate(0, None).map(|_| ())
    }

    /// The tokens that are held.
    pub(crate) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// The context now holds these.
    pub(crate) fn replace(&mut self, tokens: Vec<Token>) {
        self.tokens = tokens;
        self.checkpoints.forget_after(0);
        self.edited = None;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.tokens.len() >= self.capacity
    }
}

/// How many tokens of a prompt to compute in one call: a batch, or a micro-batch where somebody
/// looks in between, which only the CPU's backend does by itself.
pub(crate) fn batch_tokens(batch: usize, context: &Context, is_looked_at: bool) -> usize {
    let micro_batch = context.micro_batch_tokens() as usize;
    if is_looked_at { batch.min(micro_batch).max(1) } else { batch }
}
