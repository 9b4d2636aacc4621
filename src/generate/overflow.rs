//! Conversations that are longer than the context: which turns go.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::options::GenerateOptions;
use crate::chat::{self, Message};
use crate::engine::Token;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// What happens when a conversation does not fit the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overflow {
    /// [`Error::PromptTooLong`].
    #[default]
    Error,
    /// The oldest turns are left out, each a question with all that answers it, until there is room
    /// for the answer: as many tokens as [`GenerateOptions::max_tokens`] says, at most a quarter of
    /// the context. System and developer messages stay, and so does the last question. Of several
    /// conversations together the longest gives way first.
    /// [`Stats::dropped_messages`](crate::Stats::dropped_messages) says how many went.
    DropOldestTurns,
}

/// Conversations as tokens.
#[derive(Debug, PartialEq)]
pub(crate) struct Prompts {
    /// Of each conversation.
    pub(crate) tokens: Vec<Vec<Token>>,
    /// Messages that were left out.
    pub(crate) dropped_messages: usize,
    /// Whether the engine's list of known formats wrote any of them.
    pub(crate) used_known_format: bool,
}

impl Prompts {
    /// Of texts, which are no conversations.
    pub(crate) fn of_texts(tokens: Vec<Vec<Token>>) -> Self {
        Self { tokens, dropped_messages: 0, used_known_format: false }
    }
}

impl Overflow {
    /// The conversations as tokens that fit a context of so many, with room for answers of
    /// `answer_tokens` each, as far as leaving out turns can bring that about.
    pub(crate) fn fit(
        self,
        conversations: &[&[Message]],
        context_tokens: usize,
        answer_tokens: usize,
        tokens_of: impl Fn(&[Message]) -> Result<Vec<Token>>,
    ) -> Result<Prompts> {
        let count = conversations.len().max(1);
        let for_each_answer = answer_tokens.max(1).min(context_tokens / count / 4);
        let room = context_tokens - count * for_each_answer;
        let mut talks: Vec<Vec<Message>> = conversations.iter().map(|talk| talk.to_vec()).collect();
        let mut tokens: Vec<Vec<Token>> =
            talks.iter().map(|talk| tokens_of(talk)).collect::<Result<_>>()?;
        let mut is_short = vec![self == Self::Error; talks.len()];
        let mut dropped_messages = 0;
        while tokens.iter().map(Vec::len).sum::<usize>() > room {
            let may_drop = (0..talks.len()).filter(|&i| !is_short[i]);
            let Some(longest) = may_drop.max_by_key(|&i| tokens[i].len()) else { break };
            let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
            // Until there is room, or another is the longest.
            let is_enough = |length: usize| {
                let others: usize = lengths.iter().sum::<usize>() - lengths[longest];
                let length_of = |i| if i == longest { length } else { lengths[i] };
                let may_drop = (0..lengths.len()).filter(|&i| !is_short[i]);
                others + length <= room || may_drop.max_by_key(|&i| length_of(i)) != Some(longest)
            };
            match shortened(&talks[longest], is_enough, &tokens_of)? {
                Some((talk, of_talk)) => {
                    dropped_messages += talks[longest].len() - talk.len();
                    (talks[longest], tokens[longest]) = (talk, of_talk);
                }
                None => is_short[longest] = true,
            }
        }
        Ok(Prompts { dropped_messages, ..Prompts::of_texts(tokens) })
    }
}

/// A conversation, and its tokens, without its oldest turns: as few as are enough, or all that may go; `None` if none
/// may. Each trial writes the whole conversation anew, so that their number grows by twos.
fn shortened(
    talk: &[Message],
    is_enough: impl Fn(usize) -> bool,
    tokens_of: impl Fn(&[Message]) -> Result<Vec<Token>>,
) -> Result<Option<(Vec<Message>, Vec<Token>)>> {
    let most = chat::turns_to_drop(talk);
    // So many are too few.
    let mut too_few = 0;
    let mut found = None;
    let mut turns = 1;
    while too_few < most && turns <= most {
        let shorter = chat::without_oldest_turns(talk, turns);
        let tokens = tokens_of(&shorter)?;
        if is_enough(tokens.len()) || turns == most {
            found = Some((turns, shorter, tokens));
            break;
        }
        too_few = turns;
        turns = (turns * 2).min(most);
    }
    while let Some((enough, ..)) = found.as_ref().filter(|(enough, ..)| enough - too_few > 1) {
        let turns = too_few + (enough - too_few) / 2;
        let shorter = chat::without_oldest_turns(talk, turns);
        let tokens = tokens_of(&shorter)?;
        if is_enough(tokens.len()) {
            found = Some((turns, shorter, tokens));
        } else {
            too_few = turns;
        }
    }
    Ok(found.map(|(_, shorter, tokens)| (shorter, tokens)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token for each letter.
    #[allow(clippy::unnecessary_wraps)] // as `fit` wants it
    fn letters(talk: &[Message]) -> Result<Vec<Token>> {
        Ok(talk.iter().flat_map(|message| message.content.bytes().map(Token::from)).collect())
    }

    fn talk(turns: usize) -> Vec<Message> {
        let turn = [Message::user("1234"), Message::assistant("123456")];
        let mut talk = vec![Message::system("12")];
        talk.extend(turn.into_iter().cycle().take(2 * turns));
        talk.push(Message::user("1234"));
        talk
    }

    fn lengths(prompts: &Prompts) -> Vec<usize> {
        prompts.tokens.iter().map(Vec::len).collect()
    }

    #[test]
    fn the_longest_gives_way_first_and_only_as_far_as_needed() {
        let (long, short) = (talk(5), talk(1));
        let fit = |context, answer| {
            let talks = [&long[..], &short[..]];
            Overflow::DropOldestTurns.fit(&talks, context, answer, letters).unwrap()
        };
        assert_eq!(lengths(&fit(1000, 10)), [56, 16]);
        let cut = fit(80, 10);
        assert_eq!((lengths(&cut), cut.dropped_messages), (vec![36, 16], 4));
        // What cannot get shorter stays.
        let least = fit(16, 10);
        assert_eq!((lengths(&least), least.dropped_messages), (vec![6, 6], 12));
    }

    #[test]
    fn a_long_conversation_is_written_a_few_times_only() {
        let long = talk(20_000);
        let written = std::cell::Cell::new(0);
        let counted = |talk: &[Message]| {
            written.set(written.get() + 1);
            letters(talk)
        };
        let fit = Overflow::DropOldestTurns.fit(&[&long], 1000, 10, counted).unwrap();
        // The system's two letters, and as many turns of ten as there is room for beside the question.
        assert_eq!(lengths(&fit), [986]);
        assert_eq!(fit.dropped_messages, 2 * (20_000 - 98));
        assert!(written.get() < 40, "{}", written.get());
    }

    #[test]
    fn nothing_is_left_out_where_that_is_an_error() {
        let long = talk(5);
        let prompts = Overflow::Error.fit(&[&long], 10, 5, letters).unwrap();
        assert_eq!((lengths(&prompts), prompts.dropped_messages), (vec![56], 0));
        let nothing = Overflow::DropOldestTurns.fit(&[], 10, 5, letters).unwrap();
        assert!(nothing.tokens.is_empty());
    }
}
