//! Faults of grammars, in words.

use super::{is_of_name, unusable};
use crate::error::Error;
use crate::sampling::structure::grammar::{MAX_ELEMENTS, Unusable};

pub(super) fn unusable_grammar(why: Unusable) -> Error {
    unusable(match why {
        Unusable::TooLarge => format!(
            "its rules, with repetitions written out, have more than {MAX_ELEMENTS} elements; lower the numbers in braces"
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

/// What is wrong with a character that has no place in a grammar.
pub(super) fn hint(c: char) -> &'static str {
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
