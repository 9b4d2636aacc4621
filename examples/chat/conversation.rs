//! What was said, and which part of it the model is shown.

use moe_offload::{Error, GenerateOptions, Message, MoeModel, Result, Role};

/// On average tokens have fewer bytes, so that a text with more for each is likely far too long.
const LONG_TOKEN_BYTES: usize = 16;

/// A conversation. What no longer fits the context stays in it, and so in the session's file; the
/// model is not shown it.
#[derive(Default)]
pub(crate) struct Conversation {
    messages: Vec<Message>,
    /// The first message that the model is shown, apart from instructions, which it always is.
    first_shown: usize,
}

impl Conversation {
    pub(crate) fn new(messages: Vec<Message>) -> Self {
        Self { messages, first_shown: 0 }
    }

    pub(crate) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Instructions for the whole conversation, in place of those that it began with.
    pub(crate) fn instruct(&mut self, text: &str) {
        match self.messages.first_mut().filter(|message| message.role == Role::System) {
            Some(message) => text.clone_into(&mut message.content),
            None => self.messages.insert(0, Message::system(text)),
        }
    }

    pub(crate) fn ask(&mut self, question: &str) {
        self.messages.push(Message::user(question));
    }

    pub(crate) fn reply(&mut self, text: &str) {
        self.messages.push(Message::assistant(text));
    }

    /// Takes back a question that has no answer: many templates allow no two questions in a row.
    pub(crate) fn withdraw(&mut self) -> Option<String> {
        let question = self.messages.pop_if(|message| message.role == Role::User)?;
        Some(question.content)
    }

    /// Begins anew, under the same instructions.
    pub(crate) fn clear(&mut self) {
        self.messages.retain(is_instruction);
        self.first_shown = 0;
    }

    /// What the model is shown.
    pub(crate) fn shown(&self) -> Vec<Message> {
        self.from(self.first_shown)
    }

    fn from(&self, first: usize) -> Vec<Message> {
        let (old, shown) = self.messages.split_at(first);
        old.iter().filter(|message| is_instruction(message)).chain(shown).cloned().collect()
    }

    /// Leaves out the oldest turns if what is shown leaves no room for the answer, until half of the
    /// context is free: what follows a gap has to be read again, so gaps should be few. Returns how
    /// many messages were left out.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] if the question alone does not fit; then nothing is left out.
    pub(crate) fn make_room(
        &mut self,
        model: &MoeModel,
        options: &GenerateOptions,
    ) -> Result<usize> {
        let context_tokens = model.plan().context_tokens() as usize;
        let wanted = options.max_tokens.and_then(|tokens| usize::try_from(tokens).ok());
        let for_answer = wanted.unwrap_or(usize::MAX).min(context_tokens / 4).max(1);
        let tokens = |first| {
            let prompt = model.chat_prompt(&self.from(first), &options.template)?;
            model.count_tokens(&prompt)
        };
        let is_question = |&i: &usize| self.messages[i].role == Role::User;
        let questions: Vec<usize> =
            (self.first_shown..self.messages.len()).filter(is_question).collect();
        let Some(&last) = questions.last() else { return Ok(0) };
        // One that is far too long is counted from its end, as splitting all of it takes long.
        let bytes: usize = self.messages[self.first_shown..].iter().map(|m| m.content.len()).sum();
        let is_long = bytes / LONG_TOKEN_BYTES > context_tokens;
        let mut kept = if is_long { 1 } else { questions.len() };
        while kept < questions.len() {
            let prompt_tokens = tokens(questions[questions.len() - kept])?;
            if prompt_tokens + for_answer > context_tokens {
                break;
            }
            kept *= 2;
        }
        if kept >= questions.len() && tokens(self.first_shown)? + for_answer <= context_tokens {
            return Ok(0);
        }
        let prompt_tokens = tokens(last)?;
        if prompt_tokens >= context_tokens {
            return Err(Error::PromptTooLong { prompt_tokens, context_tokens });
        }
        // Each later question to begin with needs fewer tokens; the last will do if none is half.
        let (mut low, mut high) = (questions.len().saturating_sub(kept), questions.len() - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if tokens(questions[middle])? <= context_tokens / 2 {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let left_out = &self.messages[self.first_shown..questions[low]];
        let count = left_out.iter().filter(|message| !is_instruction(message)).count();
        self.first_shown = questions[low];
        Ok(count)
    }
}

fn is_instruction(message: &Message) -> bool {
    matches!(message.role, Role::System | Role::Developer)
}
