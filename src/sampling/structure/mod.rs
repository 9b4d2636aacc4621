//! Forms that an answer must have: grammars and JSON schemas.

mod chars;
mod effort;
mod gbnf;
mod grammar;
mod matcher;
mod schema;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "llama", test))]
mod vocabulary;

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[cfg(feature = "llama")]
pub(crate) use self::effort::Effort;
#[cfg(feature = "llama")]
pub(crate) use self::gbnf::numbered;
pub(crate) use self::gbnf::{Named, TokenOf};
use self::grammar::Grammar;
#[cfg(feature = "llama")]
pub(crate) use self::matcher::Matcher;
#[cfg(feature = "llama")]
pub(crate) use self::vocabulary::Vocabulary;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// A form that the whole answer must have.
///
/// The answer has it when the model itself ended it (`StopReason::EndOfText`); one that a limit or a
/// stop string cut off is only the beginning of such a text.
///
/// Both kinds are enforced or refused, before the first token. Reading one takes time and memory in
/// proportion to its size and to the elements and combinations that it makes, which are bounded;
/// `max_time` and `CancelHandle` end it in a generation, not in
/// [`validate`](Self::validate). An answer takes time in proportion to a power of its length, whatever
/// the form, and each token a bounded number of steps.
///
/// ```
/// use moe_offload::Structure;
/// Structure::Grammar(r#"root ::= "yes" | "no""#.into()).validate()?;
/// let schema = serde_json::json!({"type": "object", "properties": {"age": {"type": "integer"}}});
/// Structure::JsonSchema(schema).validate()?;
/// let error = Structure::Grammar(r#"root ::= "x"{5,2}"#.into()).validate().unwrap_err();
/// assert!(error.to_string().contains("at least 5 and at most 2"));
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Structure {
    /// llama.cpp's notation for grammars (GBNF); its start is `root`. Rules may begin with
    /// themselves. It has at most 16 MiB and, with repetitions written out, 1,000,000 elements. A
    /// token that ends a text (`<|im_end|>`) may stand at the very end, where it changes nothing: an
    /// answer ends where its grammar does. Before anything else it is refused. A byte order mark at
    /// the start is passed over.
    Grammar(String),
    /// JSON that a schema allows (draft 2020-12, 2019-09, 7 or 6). Every answer satisfies
    /// it, not every value that satisfies it can be an answer:
    ///
    /// - properties come in the order of `properties`; those that nobody declared only if
    ///   `additionalProperties` says what they are, or nothing is said of properties at all;
    /// - integers have at most 18 digits, other numbers 15, those with bounds at most 6 decimals
    ///   unless a bound has more;
    /// - a list has all items that `prefixItems` describes.
    ///
    /// A schema has at most 250,000 values (objects, lists, texts, numbers), and 8 MiB of text in them.
    ///
    /// Enforced are `type`, `enum`, `const`, bounds of numbers, lengths, `pattern` (without look-around,
    /// word boundaries, back-references and flags), `format` (`date`, `time`, `date-time`, `duration`,
    /// `uuid`, `email`, `hostname`, `ipv4`, `ipv6`, `uri`; of numbers `int8` to `int64` and `uint8` to
    /// `uint64`, as bounds), `properties`, `required`,
    /// `additionalProperties`, `items`, `prefixItems`, `minItems`, `maxItems`, `anyOf`, `allOf`, `oneOf`
    /// whose members cannot hold for one value, and `$ref` into the schema; in any combination, but for a
    /// second pattern for one text, and a length that cannot be worked into a pattern. All other
    /// keywords are refused, unknown ones too, as a misspelt one would be a broken promise;
    /// annotations (`title`, `description`, `default`, `examples` and the like, the formats `float` and
    /// `double`, and names that begin with `x-`) are passed over. A number of `enum` or `const` with a
    /// fraction has at most 15 digits, as a double does not keep more; digits that were lost before, when
    /// the schema's text became a [`Value`], cannot be seen here.
    JsonSchema(Value),
}

impl Structure {
    /// Checks it, as every generation does at its start, without a model.
    ///
    /// # Errors
    /// [`Error::InvalidStructure`] for a grammar, or a schema as a whole; [`Error::InvalidSchema`]
    /// for a place in a schema. Tokens that a grammar names are taken to be there, and to be none that
    /// ends a text.
    pub fn validate(&self) -> Result<()> {
        self.compile(&|_| Some(Named { id: 0, is_end: false })).map(|_| ())
    }

    /// Which of both, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Grammar(_) => gbnf::KIND,
            Self::JsonSchema(_) => schema::KIND,
        }
    }

    /// Refuses what is so large that even a copy of it costs too much.
    pub(crate) fn check_size(&self) -> Result<()> {
        match self {
            Self::Grammar(text) => gbnf::check_size(text),
            Self::JsonSchema(schema) => schema::check_size(schema),
        }
    }

    /// Read, checked and of bounded size. `token` is asked for tokens that a grammar names.
    pub(crate) fn compile(&self, token: TokenOf<'_>) -> Result<Grammar> {
        self.check_size()?;
        match self {
            Self::Grammar(text) => gbnf::grammar(text, token),
            Self::JsonSchema(schema) => schema::grammar(schema),
        }
    }
}
