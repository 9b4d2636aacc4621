//! What a context tells those who measure.

use super::context::Context;
use super::{Token, ffi};
use crate::error::{Error, Result};

impl Context {
    /// Computes these tokens after those that are there, and returns the logits of each: one row of
    /// the vocabulary's size per token. They are copied, so what is returned is the caller's; the
    /// engine grows a buffer of its own of the same size, which it keeps.
    pub(crate) fn logits(&mut self, tokens: &[Token]) -> Result<Vec<f32>> {
        let failed = |reason: &str| Error::Engine { operation: "compute", reason: reason.into() };
        let count = i32::try_from(tokens.len()).map_err(|_| failed("too many tokens"))?;
        let values = tokens.len().checked_mul(self.weights().vocabulary_tokens());
        let mut logits = vec![0.0; values.ok_or_else(|| failed("too many tokens"))?];
        let mut result = 0;
        self.freshen()?;
        let context = self.as_ptr();
        // SAFETY: the context is alive and used by nobody else; the tokens live during the call, and
        // `logits` has a row of the vocabulary's size for each, written during the call alone.
        self.computing("compute", |message| unsafe {
            let (from, to) = (tokens.as_ptr(), logits.as_mut_ptr());
            ffi::moe_decode_logits(context, from, count, to, &raw mut result, message)
        })?;
        self.decoded(result).map(|()| logits)
    }

    /// Counts in [`expert_use`](Self::expert_use) from here on.
    pub(crate) fn forget_expert_use(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.reset();
        }
    }

    /// What was counted since the context was made; `None` if nothing is, or a count failed.
    pub(crate) fn expert_use(&mut self) -> Option<crate::engine::ExpertUse> {
        self.watch.as_mut()?.counted()
    }
}
