//! What a generation continues: texts and conversations as tokens.

use std::cell::Cell;
use std::ffi::CString;
use std::sync::Arc;

use super::options::GenerateOptions;
use super::overflow::Prompts;
use crate::chat::{Message, TemplateOptions};
use crate::engine::Token;
use crate::error::{Error, Result, TemplateFault};
use crate::limits::Limits;
use crate::model::MoeModel;
use crate::model::tokenizer::tokenize;

/// Of the thread that waits for the one that renders a template.
const TEMPLATE_STACK_BYTES: usize = 1 << 20;

impl MoeModel {
    /// The messages as the one text that the model was trained on, ready for its answer.
    ///
    /// Where the model's template does not work, the engine's own list of known templates is
    /// asked, which knows neither tools nor options.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`]; [`Error::ChatTemplate`] if the template refuses the conversation,
    /// or does not work and the engine does not know it; [`Error::NulByte`] for a message with a
    /// NUL byte that the engine would have to format.
    pub fn chat_prompt(&self, messages: &[Message], options: &TemplateOptions) -> Result<String> {
        self.format(messages, options, &Limits::default()).map(|(prompt, _)| prompt)
    }

    /// A conversation as tokens, those that are held as they are.
    pub(crate) fn conversation(
        &self,
        messages: &[Message],
        options: &GenerateOptions,
        limits: &Limits,
    ) -> Result<Prompts> {
        self.fitting(&[messages], options, limits, |prompt, add_special| {
            self.prefix_cache.tokens_of(self.context.weights(), prompt, add_special, limits)
        })
    }

    /// Several conversations as tokens.
    pub(crate) fn conversations(
        &self,
        conversations: &[Vec<Message>],
        options: &GenerateOptions,
        limits: &Limits,
    ) -> Result<Prompts> {
        let conversations: Vec<&[Message]> = conversations.iter().map(Vec::as_slice).collect();
        self.fitting(&conversations, options, limits, |prompt, add_special| {
            tokenize(self.context.weights(), prompt, add_special, limits)
        })
    }

    fn fitting(
        &self,
        conversations: &[&[Message]],
        options: &GenerateOptions,
        limits: &Limits,
        tokens_of: impl Fn(&str, bool) -> Result<Vec<Token>>,
    ) -> Result<Prompts> {
        let answer = options.max_tokens.and_then(|tokens| usize::try_from(tokens).ok());
        let answer = answer.unwrap_or(usize::MAX);
        let used_known_format = Cell::new(false);
        let tokens_of = |messages: &[Message]| {
            let (prompt, is_known_format) = self.format(messages, &options.template, limits)?;
            used_known_format.set(used_known_format.get() || is_known_format);
            // Templates write the tokens that begin every text themselves; the engine's list does not.
            tokens_of(&prompt, is_known_format)
        };
        let capacity = self.prefix_cache.capacity;
        let prompts = options.overflow.fit(conversations, capacity, answer, tokens_of)?;
        Ok(Prompts { used_known_format: used_known_format.get(), ..prompts })
    }

    /// The prompt, and whether the engine's list of known formats wrote it.
    fn format(
        &self,
        messages: &[Message],
        options: &TemplateOptions,
        limits: &Limits,
    ) -> Result<(String, bool)> {
        let error = match self.render(messages, options, limits) {
            Ok(prompt) => return Ok((prompt, false)),
            Err(Error::ChatTemplate { fault }) => match fault {
                TemplateFault::Raised { .. } => return Err(Error::ChatTemplate { fault }),
                fault => Error::ChatTemplate { fault },
            },
            Err(error) => return Err(error),
        };
        let needs_template = !options.tools.is_empty()
            || !options.generation_prompt
            || messages.iter().any(|message| !message.tool_calls.is_empty());
        if needs_template {
            return Err(error);
        }
        match self.known_format(messages) {
            Err(Error::NoChatTemplate) => Err(error),
            prompt => Ok((prompt?, true)),
        }
    }

    /// By the model's own template.
    fn render(
        &self,
        messages: &[Message],
        options: &TemplateOptions,
        limits: &Limits,
    ) -> Result<String> {
        let template = Arc::clone(&self.template);
        let (messages, options) = (messages.to_vec(), options.clone());
        let render = move || match &*template {
            Ok(template) => template.render(&messages, &options),
            Err(Error::ChatTemplate { fault }) => Err(Error::ChatTemplate { fault: fault.clone() }),
            Err(_) => Err(Error::NoChatTemplate),
        };
        if limits.are_none() {
            return render();
        }
        limits.wait_for("template", TEMPLATE_STACK_BYTES, render)?
    }

    /// By the engine's list of known templates.
    fn known_format(&self, messages: &[Message]) -> Result<String> {
        let text = |text: &str| {
            let nul = |error: std::ffi::NulError| error.nul_position();
            CString::new(text)
                .map_err(|error| Error::NulByte { what: "a message", position: nul(error) })
        };
        let messages: Vec<(CString, CString)> = messages
            .iter()
            .map(|message| Ok((text(&message.role.to_string())?, text(&message.content)?)))
            .collect::<Result<_>>()?;
        self.context.weights().chat_prompt(&messages)
    }
}
