//! The generation loop: of one text, of several at once, and on a thread of its own.

mod answer;
#[cfg(feature = "async")]
mod async_model;
mod batch;
mod detokenizer;
#[cfg(all(test, feature = "async"))]
mod every_way;
mod generation;
mod log_probabilities;
mod options;
mod overflow;
mod prompt;

use std::time::Instant;

#[cfg(feature = "async")]
pub use self::async_model::{AsyncModel, PieceStream};
pub use self::batch::Together;
pub use self::generation::Generation;
pub use self::log_probabilities::{LogProbability, TokenLogProbabilities};
pub use self::options::{GenerateOptions, StopReason};
pub use self::overflow::Overflow;
use self::overflow::Prompts;
use crate::chat::Message;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::model::MoeModel;
use crate::model::tokenizer::tokenize;

impl MoeModel {
    /// Continues `prompt`, piece by piece. Special tokens written in it are recognised.
    ///
    /// What the prompt has in common with the last prompt and answer is not computed again.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::InvalidOption`] for impossible
    /// options and for those that are only for messages, [`Error::InvalidStructure`] for a grammar or
    /// schema that cannot be used, [`Error::CallbackPanicked`], [`Error::Cancelled`], or what the
    /// engine reports. What [`GenerateOptions::max_time`] ends is no error.
    pub fn generate(&mut self, prompt: &str, options: &GenerateOptions) -> Result<Generation<'_>> {
        self.generate_since(Instant::now(), prompt, options)
    }

    /// The same for a call that was made at `started`.
    pub(crate) fn generate_since(
        &mut self,
        started: Instant,
        prompt: &str,
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        options.check_without_messages()?;
        Generation::start(self, options, started, |model, limits| {
            let weights = model.context.weights();
            let tokens = vec![model.prefix_cache.tokens_of(weights, prompt, true, limits)?];
            Ok(Prompts::of_texts(tokens))
        })
    }

    /// Answers the last of `messages`, formatted by the model's own chat template, with what
    /// [`GenerateOptions::template`] says.
    ///
    /// # Errors
    /// As [`MoeModel::generate`] and [`MoeModel::chat_prompt`].
    pub fn chat(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        self.chat_since(Instant::now(), messages, options)
    }

    /// The same for a call that was made at `started`.
    pub(crate) fn chat_since(
        &mut self,
        started: Instant,
        messages: &[Message],
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        Generation::start(self, options, started, |model, limits| {
            model.conversation(messages, options, limits)
        })
    }

    /// Continues several prompts at once: each token is computed for all of them together, which
    /// takes far less time than one after the other where experts are in CPU memory. The model
    /// must have been loaded with as many [`sequences`](crate::MoeModelBuilder::sequences), and its
    /// context holds them all together. Each is sampled as it would be alone, with the same seed.
    ///
    /// What the model held of an earlier conversation is forgotten. [`stats`](Self::stats) then sums
    /// up all texts.
    ///
    /// ```
    /// # fn main() -> moe_offload::Result<()> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// use moe_offload::{GenerateOptions, MoeModel};
    /// let mut model = MoeModel::builder(demo).context_tokens(512).sequences(2).load()?;
    /// let options = GenerateOptions::default().max_tokens(8);
    /// let mut answers = [String::new(), String::new()];
    /// for piece in model.generate_together(&["Hello", "Goodbye"], &options)? {
    ///     let (prompt, text) = piece?;
    ///     answers[prompt] += &text;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for more prompts than sequences, and as [`MoeModel::generate`].
    pub fn generate_together(
        &mut self,
        prompts: &[&str],
        options: &GenerateOptions,
    ) -> Result<Together<'_>> {
        options.check_without_messages()?;
        Together::start(self, prompts.len(), options, |model, limits| {
            let weights = model.context.weights();
            let tokens = prompts.iter().map(|prompt| tokenize(weights, prompt, true, limits));
            Ok(Prompts::of_texts(tokens.collect::<Result<_>>()?))
        })
    }

    /// The same for conversations, each formatted as [`MoeModel::chat`] does.
    ///
    /// # Errors
    /// As [`MoeModel::generate_together`] and [`MoeModel::chat`].
    pub fn chat_together(
        &mut self,
        conversations: &[Vec<Message>],
        options: &GenerateOptions,
    ) -> Result<Together<'_>> {
        Together::start(self, conversations.len(), options, |model, limits| {
            model.conversations(conversations, options, limits)
        })
    }
}
