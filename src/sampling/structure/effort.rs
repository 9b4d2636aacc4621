//! How much work a token of a form may take.

use crate::error::{Error, Result};

/// Steps of the matcher each time that it tries one token, tries all, or takes one: a second or two,
/// several times what free text takes with a vocabulary of 250,000 tokens. A token needs all three at
/// most. What needs more is ambiguous beyond any use.
const MOST_STEPS: usize = 50_000_000;
/// Between looks at the limits: less than a millisecond.
const STEPS_BETWEEN_LOOKS: usize = 10_000;

/// The work that is left, and what is asked now and then whether to go on.
pub(crate) struct Effort<'a> {
    form: &'static str,
    left: usize,
    until_look: usize,
    check: &'a dyn Fn() -> Result<()>,
}

impl<'a> Effort<'a> {
    pub(crate) fn new(check: &'a dyn Fn() -> Result<()>) -> Self {
        let (left, until_look) = (MOST_STEPS, STEPS_BETWEEN_LOOKS);
        Self { form: "grammar", left, until_look, check }
    }

    /// For following this kind of form.
    pub(crate) fn of(self, form: &'static str) -> Self {
        Self { form, ..self }
    }

    pub(super) fn too_ambiguous(&self, what: &'static str, most: usize) -> Error {
        Error::AmbiguousStructure { form: self.form, what, most }
    }

    /// How many steps were taken.
    pub(super) fn spent(&self) -> usize {
        MOST_STEPS - self.left
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<()> {
        self.left = self.left.saturating_sub(steps);
        if self.left == 0 {
            return Err(self.too_ambiguous("steps for a token", MOST_STEPS));
        }
        self.until_look = self.until_look.saturating_sub(steps);
        if self.until_look == 0 {
            self.until_look = STEPS_BETWEEN_LOOKS;
            (self.check)()?;
        }
        Ok(())
    }
}
