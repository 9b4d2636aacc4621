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
    left: usize,
    until_look: usize,
    check: &'a dyn Fn() -> Result<()>,
}

impl<'a> Effort<'a> {
    pub(crate) fn new(check: &'a dyn Fn() -> Result<()>) -> Self {
        Self { left: MOST_STEPS, until_look: STEPS_BETWEEN_LOOKS, check }
    }

    /// How many steps were taken.
    pub(super) fn spent(&self) -> usize {
        MOST_STEPS - self.left
    }

    pub(super) fn spend(&mut self, steps: usize) -> Result<()> {
        self.left = self.left.saturating_sub(steps);
        if self.left == 0 {
            return Err(Error::AmbiguousStructure { what: "steps for a token", most: MOST_STEPS });
        }
        self.until_look = self.until_look.saturating_sub(steps);
        if self.until_look == 0 {
            self.until_look = STEPS_BETWEEN_LOOKS;
            (self.check)()?;
        }
        Ok(())
    }
}
