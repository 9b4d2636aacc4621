//! Tokens and logits, for whoever measures a model or samples by other means than [`Sampling`](crate::Sampling).

use super::MoeModel;
use super::tokenizer::tokenize;
use crate::engine::Weights;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::units::Token;

/// Tokens computed in one call of the engine, which keeps a buffer for the logits of as many: 51 MB with a vocabulary of
/// 200,000.
const AT_ONCE: usize = 64;

/// What [`MoeModel::evaluate`] computed: a row of logits for each token.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocabulary_tokens: usize,
}

impl Logits {
    /// The rows, in the order of the tokens. Each has [`vocabulary_tokens`](Self::vocabulary_tokens) numbers: the score
    /// of each token of the vocabulary, by its number, to come next. They are the model's, before any sampling.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> + DoubleEndedIterator {
        self.values.chunks_exact(self.vocabulary_tokens.max(1))
    }

    /// Numbers in a row.
    pub fn vocabulary_tokens(&self) -> usize {
        self.vocabulary_tokens
    }

    /// The natural logarithm of the probability with which `token` comes after the token of this row, counted from 0:
    /// its logit less the logarithm of the sum of all exponentials. `None` if there is no such row or token.
    pub fn log_probability(&self, row: usize, token: Token) -> Option<f64> {
        let row = self.rows().nth(row)?;
        let logit = row.get(usize::try_from(token.id()).ok()?)?;
        let greatest = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = row.iter().map(|&other| (f64::from(other) - greatest).exp()).sum();
        Some(f64::from(*logit) - greatest - sum.ln())
    }
}

impl MoeModel {
    /// The tokens of a text. Special tokens that are written out in it are recognised; with `add_special` come those
    /// that the model wants around a whole text, such as one for its beginning.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// let model = moe_offload::MoeModel::builder(demo).context_tokens(256).load()?;
    /// let tokens = model.tokenize("The sky is blue.", false)?;
    /// assert_eq!(model.detokenize(&tokens)?, b"The sky is blue.");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What the engine reports.
    pub fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<Token>> {
        let tokens = tokenize(self.context.weights(), text, add_special, &Limits::default())?;
        Ok(tokens.into_iter().map(Token::new).collect())
    }

    /// The text of tokens, special ones written out. These are bytes, as a token may end within a character: a whole
    /// answer is UTF-8, a part of one need not be. Some vocabularies, such as Llama 2's, put a space before a text, which
    /// then is part of its first token.
    ///
    /// # Errors
    /// [`Error::UnknownToken`], or what the engine reports.
    pub fn detokenize(&self, tokens: &[Token]) -> Result<Vec<u8>> {
        let weights = self.context.weights();
        let mut text = Vec::new();
        for id in ids(weights, tokens)? {
            weights.token_bytes(id, true, &mut text)?;
        }
        Ok(text)
    }

    /// Computes tokens after those that the model holds, and returns the logits of each: what the model expects to come
    /// after it. The tokens are held then, as a prompt's are: the next call goes on after them, and
    /// [`forget`](Self::forget) begins anew. After an error only those from before the failed part are held.
    ///
    /// The result takes 4 bytes for each token and each token of the vocabulary, so give long texts in parts.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// // The perplexity of a text: how many tokens the model wavers between, on average.
    /// let mut model = moe_offload::MoeModel::builder(demo).context_tokens(256).load()?;
    /// let tokens = model.tokenize("Why is the sky blue?", true)?;
    /// let logits = model.evaluate(&tokens)?;
    /// assert_eq!(logits.rows().len(), tokens.len());
    /// let mut nats = Vec::new();
    /// for (row, &next) in tokens[1..].iter().enumerate() {
    ///     nats.push(-logits.log_probability(row, next).expect("a token of this model"));
    /// }
    /// let perplexity = (nats.iter().sum::<f64>() / nats.len() as f64).exp();
    /// assert!(perplexity > 1.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownToken`] and [`Error::NoRoomForTokens`], before anything is computed; or what the engine reports.
    pub fn evaluate(&mut self, tokens: &[Token]) -> Result<Logits> {
        let ids = ids(self.context.weights(), tokens)?;
        let vocabulary_tokens = self.context.weights().vocabulary_tokens();
        let (held_tokens, context_tokens) =
            (self.prefix_cache.tokens().len(), self.prefix_cache.capacity);
        if held_tokens + ids.len() > context_tokens {
            let tokens = ids.len();
            return Err(Error::NoRoomForTokens { tokens, held_tokens, context_tokens });
        }
        self.context.watch(&Limits::default());
        self.prefix_cache.restore(&mut self.context)?;
        let most = AT_ONCE.min(self.plan.context().batch_tokens as usize).max(1);
        let (mut values, mut rest) = (Vec::new(), &*ids);
        while !rest.is_empty() {
            let part;
            (part, rest) = rest.split_at(self.context.tokens_at_once(most.min(rest.len())));
            values.extend(self.prefix_cache.evaluate(&mut self.context, part)?);
        }
        Ok(Logits { values, vocabulary_tokens })
    }
}

/// Their numbers, if the model has them.
fn ids(weights: &Weights, tokens: &[Token]) -> Result<Vec<i32>> {
    let vocabulary_tokens = weights.vocabulary_tokens();
    let known = |token: &Token| {
        let id = token.id();
        let is_known = usize::try_from(id).is_ok_and(|id| id < vocabulary_tokens);
        if is_known { Ok(id) } else { Err(Error::UnknownToken { token: id, vocabulary_tokens }) }
    };
    tokens.iter().map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_s_probabilities_are_one_together_and_need_no_small_numbers() {
        let logits = Logits { values: vec![0.0, 0.0, 1000.0, 1000.0], vocabulary_tokens: 2 };
        for row in 0..2 {
            let log_probability = logits.log_probability(row, Token::new(1)).unwrap();
            assert!((log_probability + 2.0_f64.ln()).abs() < 1e-12, "{log_probability}");
        }
        assert_eq!(logits.log_probability(2, Token::new(1)), None);
        assert_eq!(logits.log_probability(0, Token::new(2)), None);
        assert_eq!(logits.log_probability(0, Token::new(-1)), None);
    }
}
