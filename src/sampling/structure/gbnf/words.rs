//! Faults of grammars, in words.

use super::{is_of_name, unusable};
use crate::error::Error;
use crate::sampling::structure::grammar::{MAX_ELEMENTS, Unusable};

pub(super) fn unusable_grammar(why: Unusable, text: &str) -> Error {
    unusable(match why {
        Unusable::TooLarge if text.contains('{') => format!(
            "its rules, with repetitions written out, have more than {MAX_ELEMENTS} elements; lower the numbers in braces"
        ),
        Unusable::TooLarge => format!(
            "its rules have more than {MAX_ELEMENTS} elements, of which each letter of a text is one; have fewer or shorter texts"
        ),
        Unusable::Endless => "no text ends it: every alternative of `root` needs, in the end, itself or an empty class (left or right recursion without a way out)".to_owned(),
    })
}

/// A character as a person can see it: spaces and marks that look like others, or like nothing, by code.
pub(super) fn visible(c: char) -> impl Iterator<Item = char> {
    let is_seen = c == ' ' || !(c.is_whitespace() || c.is_control() || is_invisible(c));
    let code = (!is_seen).then(|| c.escape_unicode());
    is_seen.then_some(c).into_iter().chain(code.into_iter().flatten())
}

/// Without width, or turning the direction of the text.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

pub(super) const NOTHING_TO_REPEAT: &str = "expecting something to repeat before this; groups are plain parentheses, \
                                            without `?:` or `?=`";
const CLASSES: &str = "; there are no regular expressions: write classes, as `[0-9]` for `\\d`, `[a-zA-Z0-9_]` for \
                       `\\w` and `[ \\t\\r\\n]` for `\\s`";

/// What is wrong with a character, or with the end of the text, where something else is expected.
pub(super) fn hint(found: Option<char>, expected: &str) -> &'static str {
    if expected == "the name of a rule" {
        match found {
            Some('"' | '[' | '(' | '.') => {
                return "; a rule ends with its line: put what goes on over several lines into parentheses";
            }
            Some('`') => return "; leave out the lines that fence it off as Markdown does",
            _ => {}
        }
    }
    match (found.map_or("", hint_of), expected) {
        ("", "`::=`") => "; a rule is written as `name ::= …`",
        ("", "the name of a rule") if found == Some('|') => {
            "; an alternative begins on the line on which the one before it ends: end that line with `|`, or put all into parentheses, in which lines can end anywhere"
        }
        (hint, _) => hint,
    }
}

/// What is wrong with a backslash and what is after it in a text or class.
pub(super) fn no_escape(after: Option<char>) -> &'static str {
    match after {
        Some('d' | 'D' | 'w' | 'W' | 's' | 'S') => {
            "there is no such escape; write classes, as `[0-9]` for `\\d`, `[a-zA-Z0-9_]` for `\\w` and `[ \\t\\r\\n]` for `\\s`"
        }
        _ => {
            "there is no such escape, only `\\n`, `\\r`, `\\t`, `\\x41`, `\\u0041`, `\\U00000041`, `\\\\`, `\\\"`, `\\[`, `\\]` and `\\-`; of other characters leave the `\\` out"
        }
    }
}

/// What is wrong with a character that has no place in a grammar.
fn hint_of(c: char) -> &'static str {
    match c {
        '_' => {
            "; names of rules have letters from `a` to `z`, digits and `-`, but no `_`: write `-`"
        }
        '\'' | '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '`' | '«' | '»' => {
            "; texts stand between `\"` and `\"`"
        }
        ';' => "; a rule ends where its line ends, without `;`",
        ',' => "; parts follow each other without `,`",
        '/' => "; comments begin with `#`, and there are no regular expressions",
        '\\' => CLASSES,
        '^' | '$' => "; a grammar is always for the whole answer, without `^` and `$`",
        ']' => {
            "; no class is open here, and those with names are written out, as `[0-9]` for `[[:digit:]]`"
        }
        '=' | ':' => "; a rule is written as `name ::= …`",
        c if c.is_alphanumeric() && !is_of_name(c) => {
            "; names of rules have letters from `a` to `z`, digits and `-`; other letters stand between `\"` and `\"`"
        }
        c if !c.is_ascii() && (c.is_whitespace() || is_invisible(c)) => {
            "; this is no plain space, though it may look like one: write a space"
        }
        _ => "",
    }
}
