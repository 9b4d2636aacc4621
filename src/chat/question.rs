//! Whether a conversation's text has the question in it with which the conversation ends.
//!
//! A template may trim a question, take special tokens out of it or write it in another way. So what counts is not
//! that the text has the question's words, but that it depends on them.

use super::{Message, Role};
use crate::error::Result;

/// A question that nobody asks.
const OTHER: &str = "\u{1F5FF} 8203";

/// Whether the text of the messages would be the same with another question at their end. Messages that end
/// otherwise, or with a question of no words, leave nothing out.
pub(super) fn is_left_out(
    messages: &[Message],
    text: &str,
    text_of: impl FnOnce(&[Message]) -> Result<String>,
) -> bool {
    let Some((last, before)) = messages.split_last() else { return false };
    let question = last.content.trim();
    if last.role != Role::User || question.is_empty() || text.contains(question) {
        return false;
    }
    let other = Message { content: OTHER.to_owned(), ..last.clone() };
    let messages = [before, &[other]].concat();
    // One that fails with the other question looks at it.
    text_of(&messages).is_ok_and(|other| other == text)
}
