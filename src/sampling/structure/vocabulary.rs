//! The texts of all tokens, in an order in which common beginnings are read once.

use super::effort::Effort;
use super::matcher::Matcher;
use crate::error::Result;

/// The bytes of every token of a vocabulary.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// Where the bytes of each token are.
    places: Vec<std::ops::Range<usize>>,
    /// Tokens that have a text, in its order, each with how many bytes it shares with the one before.
    sorted: Vec<(usize, usize)>,
}

impl Vocabulary {
    /// Of the text of each token, which may be empty.
    pub(crate) fn new(texts: impl IntoIterator<Item = Result<Vec<u8>>>) -> Result<Self> {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for text in texts {
            let text = text?;
            places.push(bytes.len()..bytes.len() + text.len());
            bytes.extend(text);
        }
        let text = |token: usize| &bytes[places[token].clone()];
        let mut order: Vec<usize> =
            (0..places.len()).filter(|&token| !text(token).is_empty()).collect();
        order.sort_unstable_by_key(|&token| text(token));
        let mut before: &[u8] = &[];
        let sorted = order.into_iter().map(|token| {
            let last = std::mem::replace(&mut before, text(token));
            (token, std::iter::zip(last, before).take_while(|(a, b)| a == b).count())
        });
        let sorted = sorted.collect();
        Ok(Self { bytes, places, sorted })
    }

    /// The bytes of a token.
    pub(crate) fn bytes(&self, token: i32) -> &[u8] {
        let place = index(token).and_then(|token| self.places.get(token));
        place.map_or(&[], |place| &self.bytes[place.clone()])
    }

    /// Which tokens may come next, by their number; the end of the text is not looked at.
    pub(crate) fn allowed(
        &self,
        matcher: &mut Matcher,
        effort: &mut Effort<'_>,
    ) -> Result<Vec<bool>> {
        let base = matcher.depth();
        let allowed = self.allowed_texts(matcher, effort);
        matcher.go_back(base);
        let mut allowed = allowed?;
        let mut all_but = None;
        for (token, except) in matcher.named_tokens() {
            if except {
                // Two of them together take all.
                let is_other = all_but.is_some_and(|other| other != Some(token));
                all_but = Some((!is_other).then_some(token));
            } else if let Some(is_allowed) = index(token).and_then(|i| allowed.get_mut(i)) {
                *is_allowed = true;
            }
        }
        if let Some(one) = all_but {
            for (token, is_allowed) in (0..).zip(&mut allowed) {
                *is_allowed |= one != Some(token);
            }
        }
        Ok(allowed)
    }

    fn allowed_texts(&self, matcher: &mut Matcher, effort: &mut Effort<'_>) -> Result<Vec<bool>> {
        let base = matcher.depth();
        let mut allowed = vec![false; self.places.len()];
        // How many bytes of the token before could be read.
        let mut reached = 0;
        for &(token, shared) in &self.sorted {
            effort.spend(1)?;
            if shared > reached {
                continue; // it has the byte that could not be read
            }
            matcher.go_back(base + shared);
            let bytes = &self.bytes[self.places[token].clone()];
            allowed[token] = matcher.try_bytes(&bytes[shared..], effort)?;
            reached = matcher.depth() - base;
        }
        Ok(allowed)
    }
}

fn index(token: i32) -> Option<usize> {
    usize::try_from(token).ok()
}
