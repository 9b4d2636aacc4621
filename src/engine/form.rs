//! The form that an answer must have, followed token by token.

use std::sync::Arc;

use super::Token;
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::sampling::Sampling;
use crate::sampling::structure::{Effort, Matcher, Named, Structure, Vocabulary, numbered};

/// For reading a form, which recurses as deep as it is allowed to nest.
const STACK_BYTES: usize = 16 << 20;
/// Longer names are no tokens; the engine recurses once for each of their characters.
const MAX_NAME_BYTES: usize = 1024;
/// What is told of an answer that cannot go on.
const TOLD_BYTES: usize = 60;
const TOLD_CHARACTERS: usize = 5;

/// How far an answer has come in its form.
pub(super) struct Form {
    /// Which kind of form, in words.
    kind: &'static str,
    matcher: Matcher,
    vocabulary: Arc<Vocabulary>,
    /// Tokens that are never chosen.
    banned: Vec<Token>,
    limits: Limits,
    /// The end of the answer.
    written: Vec<u8>,
}

impl Form {
    pub(super) fn new(
        structure: &Structure,
        sampling: &Sampling,
        weights: &Arc<Weights>,
        limits: &Limits,
    ) -> Result<Self> {
        structure.check_size()?;
        let kind = structure.kind();
        let (form, words) = (structure.clone(), Arc::clone(weights));
        let read = move || form.compile(&|name| named(&words, name));
        let grammar = limits.wait_for("form", STACK_BYTES, read)??;
        let vocabulary = weights.vocabulary(limits)?;
        let bans = sampling.logit_bias.iter().filter(|(_, bias)| **bias == f32::NEG_INFINITY);
        let banned = bans.map(|(&token, _)| token).collect();
        let check = || limits.check();
        let mut effort = Effort::new(&check).of(kind);
        let matcher = Matcher::new(Arc::new(grammar), &mut effort)?;
        Ok(Self { kind, matcher, vocabulary, banned, limits: limits.clone(), written: Vec::new() })
    }

    /// Whether this token may come next.
    pub(super) fn allows(&mut self, token: Token, weights: &Weights) -> Result<bool> {
        if weights.is_end(token) {
            return Ok(self.matcher.is_complete());
        }
        let check = || self.limits.check();
        let bytes = self.vocabulary.bytes(token);
        self.matcher.allows(token, bytes, &mut Effort::new(&check).of(self.kind))
    }

    /// Which tokens may come next, of which there is one at least.
    pub(super) fn allowed(&mut self, weights: &Weights) -> Result<Vec<bool>> {
        let check = || self.limits.check();
        let mut allowed =
            self.vocabulary.allowed(&mut self.matcher, &mut Effort::new(&check).of(self.kind))?;
        for (token, is_allowed) in (0..).zip(&mut allowed) {
            if weights.is_end(token) {
                *is_allowed = self.matcher.is_complete();
            }
        }
        for &token in &self.banned {
            let banned = usize::try_from(token).ok().and_then(|token| allowed.get_mut(token));
            if let Some(is_allowed) = banned {
                *is_allowed = false;
            }
        }
        if allowed.contains(&true) { Ok(allowed) } else { Err(self.dead_end()) }
    }

    /// Takes a token that may come next.
    pub(super) fn accept(&mut self, token: Token, weights: &Weights) -> Result<()> {
        if weights.is_end(token) {
            return Ok(());
        }
        let bytes = self.vocabulary.bytes(token);
        self.written.extend_from_slice(bytes);
        let told = self.written.len().saturating_sub(TOLD_BYTES);
        self.written.drain(..told);
        let check = || self.limits.check();
        self.matcher.accept(token, bytes, &mut Effort::new(&check).of(self.kind))
    }

    fn dead_end(&self) -> Error {
        let expected = self.matcher.expected();
        let told = expected.iter().take(TOLD_CHARACTERS).map(|c| format!("{c:?}"));
        let mut told: Vec<String> = told.collect();
        if expected.len() > TOLD_CHARACTERS {
            told.push("others".to_owned());
        }
        let named = self.matcher.named_tokens().take(TOLD_CHARACTERS);
        told.extend(named.map(|(token, except)| {
            if except { format!("any token but {token}") } else { format!("the token {token}") }
        }));
        if self.matcher.is_complete() || told.is_empty() {
            told.push("its end".to_owned());
        }
        Error::DeadEnd {
            written: String::from_utf8_lossy(&self.written).into_owned(),
            expected: told.join(" or "),
        }
    }
}

/// The token that a grammar names: by its number, or by the text of just this token.
fn named(weights: &Weights, name: &str) -> Option<Named> {
    token(weights, name).map(|id| Named { id, is_end: weights.is_end(id) })
}

fn token(weights: &Weights, name: &str) -> Option<Token> {
    if let Some(token) = numbered(name) {
        let count = i32::try_from(weights.vocabulary_tokens()).unwrap_or(i32::MAX);
        return (0..count).contains(&token).then_some(token);
    }
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    match weights.tokenize(name, false).ok()?[..] {
        [token] => Some(token),
        _ => None,
    }
}
