//! Whether a conversation's text has all of its messages in it.
//!
//! A template may trim a message, take special tokens out of it or write it in another way. So what counts is not
//! that the text has the message's words, but that it depends on them.

use super::{Message, Role};
use crate::error::Result;

/// Words that no message has.
const OTHER: &str = "\u{1F5FF} 8203";

/// The messages, by their index, whose words have no part in the text.
pub(super) fn left_out(
    messages: &[Message],
    text: &str,
    text_of: impl Fn(&[Message]) -> Result<String>,
) -> Vec<usize> {
    (0..messages.len()).filter(|&i| has_no_part(i, messages, text, &text_of)).collect()
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
