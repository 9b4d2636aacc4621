//! The engine's chain of samplers.

use std::ptr::{self, NonNull};

use super::call::guarded;
use super::context::Context;
use super::weights::Weights;
use super::{Token, ffi};
use crate::error::{Error, Result};
use crate::sampling::Sampling;

/// A chain of samplers, with the random state and the tokens that penalties look at.
pub(crate) struct Sampler {
    sampler: NonNull<ffi::llama_sampler>,
}

// SAFETY: a sampler is plain memory, owned and used through `&mut self` alone.
unsafe impl Send for Sampler {}

impl Sampler {
    pub(crate) fn new(sampling: &Sampling, weights: &Weights) -> Result<Self> {
        let settings = ffi::moe_sampling {
            temperature: sampling.temperature,
            top_k: i32::try_from(sampling.top_k).unwrap_or(i32::MAX),
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repeat_penalty: sampling.repeat_penalty,
            repeat_last: i32::try_from(sampling.repeat_last_tokens).unwrap_or(i32::MAX),
            seed: sampling.seed,
        };
        let mut sampler = ptr::null_mut();
        // SAFETY: settings and vocabulary live during the call; the result is ours.
        guarded(|message| unsafe {
            let vocab = weights.vocab();
            ffi::moe_sampler_new(vocab, &raw const settings, &raw mut sampler, message)
        })
        .map_err(|failure| failure.into_error("create a sampler"))?;
        let sampler = NonNull::new(sampler).ok_or_else(|| Error::Engine {
            operation: "create a sampler",
            reason: String::new(),
        })?;
        Ok(Self { sampler })
    }

    /// Picks a token from what the context computed last.
    pub(crate) fn sample(&mut self, context: &mut Context) -> Result<Token> {
        let mut token = 0;
        let raw = context.as_ptr();
        // SAFETY: sampler and context are alive and used by nobody else.
        context.run("sample", |message| unsafe {
            ffi::moe_sample(self.sampler.as_ptr(), raw, &raw mut token, message)
        })?;
        Ok(token)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: the sampler was ours alone.
        let freed =
            guarded(|message| unsafe { ffi::moe_sampler_free(self.sampler.as_ptr(), message) });
        if let Err(failure) = freed {
            tracing::error!(target: "llama.cpp", "freeing a sampler failed: {}", failure.reason);
        }
    }
}
