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
use self::gbnf::TokenOf;
#[cfg(feature = "llama")]
pub(crate) use self::gbnf::numbered;
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
    /// themselves. With repetitions written out it has at most 1,000,000 elements.
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
    /// Enforced are `type`, `enum`, `const`, bounds of numbers, lengths, `pattern` (without look-around,
    /// word boundaries, back-references and flags), `format` (`date`, `time`, `date-time`, `duration`,
    /// `uuid`, `email`, `hostname`, `ipv4`, `ipv6`, `uri`), `properties`, `required`,
    /// `additionalProperties`, `items`, `prefixItems`, `minItems`, `maxItems`, `anyOf`, `allOf`, `oneOf`
    /// whose members cannot hold for one value, and `$ref` into the schema; in any combination, but for a
    /// second pattern for one text, and a length that cannot be worked into a pattern. All other
    /// keywords are refused, unknown ones too, as a misspelt one would be a broken promise;
    /// annotations (`title`, `description`, `default`, `examples` and the like, and names that begin
    /// with `x-`) are passed over.
    JsonSchema(Value),
}

impl Structure {
    /// Checks it, as every generation does at its start, without a model.
    ///
    /// # Errors
    /// [`Error::InvalidStructure`] for a grammar, or a schema as a whole; [`Error::InvalidSchema`]
    /// for a place in a schema. Tokens that a grammar names are taken to be there.
    pub fn validate(&self) -> Result<()> {
        self.compile(&|_| Some(0)).map(|_| ())
    }

    /// Read, checked and of bounded size. `token` is asked for tokens that a grammar names.
    pub(crate) fn compile(&self, token: TokenOf<'_>) -> Result<Grammar> {
        match self {
            Self::Grammar(text) => gbnf::grammar(text, token),
            Self::JsonSchema(schema) => schema::grammar(schema),
        }
    }
}
