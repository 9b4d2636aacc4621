//! Whether a conversation's text has all of its messages in it.
//!
//! A template may trim a message, take special tokens out of it or write it in another way. So what counts is not
//! that the text has the message's words, but that it depends on them.

use super::template::ChatTemplate;
use super::{Message, Role, TemplateOptions};
use crate::error::Result;

/// What nobody says.
const OTHER: &str = "\u{1F5FF} 8203";

impl ChatTemplate {
    /// The messages, by their index, whose words have no part in the conversation's text: instructions for which a
    /// template has no place, say. Of messages without words there are none.
    ///
    /// ```
    /// use moe_offload::{ChatTemplate, Message};
    /// let template = ChatTemplate::new("{% for m in messages if m.role != 'system' %}<{{ m.content }}>{% endfor %}")?;
    /// let talk = [Message::system("Be brief."), Message::user("Hello")];
    /// assert_eq!(template.left_out(&talk, &Default::default())?, [0]);
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`ChatTemplate::render`], but for a question that is left out.
    pub fn left_out(&self, messages: &[Message], options: &TemplateOptions) -> Result<Vec<usize>> {
        options.validate()?;
        let text = self.text_of(messages, options)?;
        let text_of = |messages: &[Message]| self.text_of(messages, options);
        let is_left_out = |&i: &usize| has_no_part(i, messages, &text, text_of);
        Ok((0..messages.len()).filter(is_left_out).collect())
    }
}

/// Whether the text of the messages would be the same with another question at their end. Messages that end
/// otherwise leave nothing out.
pub(super) fn leaves_out_question(
    messages: &[Message],
    text: &str,
    text_of: impl Fn(&[Message]) -> Result<String>,
) -> bool {
    let is_question = messages.last().is_some_and(|last| last.role == Role::User);
    is_question && has_no_part(messages.len() - 1, messages, text, text_of)
}

/// Whether the text of the messages would be the same with other words in one of them.
fn has_no_part(
    index: usize,
    messages: &[Message],
    text: &str,
    text_of: impl Fn(&[Message]) -> Result<String>,
) -> bool {
    let words = messages[index].content.trim();
    if words.is_empty() || text.contains(words) {
        return false;
    }
    let mut others = messages.to_vec();
    OTHER.clone_into(&mut others[index].content);
    // One that fails with other words looks at them.
    text_of(&others).is_ok_and(|other| other == text)
}
