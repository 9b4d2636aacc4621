//! A pattern over tensor names with the device it sends them to.

use regex::{Regex, RegexBuilder};

use super::target::Target;
use crate::error::{Error, PolicyFault, Result};

/// A pattern of a person takes a few KiB; a larger one takes long to compile and to match.
const MAX_COMPILED_BYTES: usize = 1 << 17;

/// A pattern that is known to parse, and a device.
///
/// A `;` in the pattern is kept as `\;`, which means the same, so that the rule can stand in a
/// policy's text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegexRule {
    pattern: String,
    target: Target,
}

impl RegexRule {
    /// Checks the pattern.
    ///
    /// # Errors
    /// [`Error::InvalidPattern`] if it does not parse or compiles to more than 128 KiB,
    /// [`Error::InvalidPolicy`] if it is empty.
    pub fn new(pattern: &str, target: Target) -> Result<Self> {
        if pattern.is_empty() {
            let fault = PolicyFault::BadRegexRule;
            return Err(Error::InvalidPolicy { text: format!("regex:={target}"), fault });
        }
        let pattern = escape_semicolons(pattern);
        let rule = Self { pattern, target };
        rule.compile()?;
        Ok(rule)
    }

    /// The pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Where the tensors go.
    pub fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn with_target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    pub(crate) fn compile(&self) -> Result<Regex> {
        RegexBuilder::new(&self.pattern).size_limit(MAX_COMPILED_BYTES).build().map_err(|source| {
            Error::InvalidPattern { pattern: self.pattern.clone(), source: Box::new(source) }
        })
    }
}

fn escape_semicolons(pattern: &str) -> String {
    let mut escaped = String::with_capacity(pattern.len());
    let mut after_backslash = false;
    for c in pattern.chars() {
        if c == ';' && !after_backslash {
            escaped.push('\\');
        }
        escaped.push(c);
        after_backslash = c == '\\' && !after_backslash;
    }
    escaped
}

/// Splits a policy's text at the semicolons that are not escaped.
pub(super) fn split_rules(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut after_backslash) = (0, false);
    for (at, c) in text.char_indices() {
        if c == ';' && !after_backslash {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        after_backslash = c == '\\' && !after_backslash;
    }
    parts.push(&text[start..]);
    parts
}
