//! Forms that an answer must have: grammars and JSON schemas.

mod chars;
mod effort;
mod gbnf;
mod grammar;
mod matcher;
mod schema;
#[cfg(test)]
mod tests;
mod vocabulary;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::effort::Effort;
pub(crate) use self::gbnf::{TokenOf, numbered};
pub(crate) use self::grammar::Grammar;
pub(crate) use self::matcher::Matcher;
pub(crate) use self::vocabulary::Vocabulary;
use crate::error::Result;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Structure {
    Grammar(String),
    JsonSchema(Value),
}

impl Structure {
    /// Read, checked and of bounded size. `token` is asked for tokens that a grammar names.
    pub(crate) fn compile(&self, token: TokenOf<'_>) -> Result<Grammar> {
        match self {
            Self::Grammar(text) => gbnf::grammar(text, token),
            Self::JsonSchema(schema) => schema::grammar(schema),
        }
    }
}
