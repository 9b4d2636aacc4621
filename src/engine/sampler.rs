//! The engine's samplers: how a token is chosen.

use std::ffi::{CString, c_char};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::call::{c_string, guarded};
use super::context::Context;
use super::form::Form;
use super::weights::Weights;
use super::{Token, ffi};
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::sampling::Sampling;
use crate::sampling::structure::Structure;

/// A chain of samplers, with the random state and the tokens that penalties look at, and the form
/// that may refuse what they choose.
pub(crate) struct Sampler {
    chain: NonNull<ffi::moe_sampler>,
    form: Option<Form>,
    /// A draw changes what the next one is like, so that none may be refused.
    draws_once: bool,
}

// SAFETY: a sampler is plain memory, owned and used through `&mut self` alone.
unsafe impl Send for Sampler {}

impl Sampler {
    /// For one generation, which `limits` may end.
    pub(crate) fn new(
        sampling: &Sampling,
        structure: Option<&Structure>,
        weights: &Arc<Weights>,
        limits: &Limits,
    ) -> Result<Self> {
        let vocab = weights.vocab();
        // SAFETY: the vocabulary is alive.
        let words = unsafe { ffi::llama_vocab_n_tokens(vocab) };
        if let Some(token) = sampling.logit_bias.keys().find(|token| !(0..words).contains(token)) {
            let expected = "for tokens of the model's vocabulary";
            return Err(Error::InvalidOption {
                option: "logit_bias",
                value: token.to_string(),
                expected,
            });
        }
        let form = structure.map(|structure| Form::new(structure, sampling, weights, limits));
        let form = form.transpose()?;
        let settings = Settings::new(sampling)?;
        let raw = settings.raw(sampling);
        let mut sampler = ptr::null_mut();
        // SAFETY: settings with what they point to and the vocabulary live during the call; the
        // result is ours.
        guarded(|message| unsafe {
            ffi::moe_sampler_new(vocab, &raw const raw, &raw mut sampler, message)
        })
        .map_err(|failure| failure.into_error("create a sampler"))?;
        let chain = NonNull::new(sampler).ok_or_else(|| Error::Engine {
            operation: "create a sampler",
            reason: String::new(),
        })?;
        Ok(Self { chain, form, draws_once: sampling.mirostat.is_some() })
    }

    /// Picks a token from what the context computed last.
    pub(crate) fn sample(&mut self, context: &mut Context) -> Result<Token> {
        self.sample_at(context, -1)
    }

    /// Picks a token from the result of the token at this index of the last batch.
    pub(crate) fn sample_at(&mut self, context: &mut Context, index: i32) -> Result<Token> {
        let token = self.choose(context, index)?;
        if let Some(form) = &mut self.form {
            form.accept(token, context.weights())?;
        }
        // SAFETY: the sampler is alive and used by nobody else.
        guarded(|message| unsafe { ffi::moe_sampler_accept(self.chain.as_ptr(), token, message) })
            .map_err(|failure| failure.into_error("sample"))?;
        Ok(token)
    }

    /// Picks a token that the form allows.
    fn choose(&mut self, context: &mut Context, index: i32) -> Result<Token> {
        // All tokens are looked at only if they must be, since that is slow.
        if self.form.is_none() || !self.draws_once {
            let token = self.draw(context, index, None)?;
            let is_allowed = match &mut self.form {
                Some(form) => form.allows(token, context.weights())?,
                None => true,
            };
            if is_allowed {
                return Ok(token);
            }
        }
        let allowed = match &mut self.form {
            Some(form) => Some(form.allowed(context.weights())?),
            None => None,
        };
        self.draw(context, index, allowed.as_deref())
    }

    /// Picks one of the tokens that are allowed, which has a value for each of the vocabulary.
    fn draw(
        &mut self,
        context: &mut Context,
        index: i32,
        allowed: Option<&[bool]>,
    ) -> Result<Token> {
        let mut token = 0;
        let raw = context.as_ptr();
        let allowed = allowed.map_or(ptr::null(), <[bool]>::as_ptr);
        // SAFETY: sampler and context are alive and used by nobody else; what is allowed is null or
        // has the length of the vocabulary, and lives during the call.
        context.reading("sample", |message| unsafe {
            ffi::moe_sample(self.chain.as_ptr(), raw, index, allowed, &raw mut token, message)
        })?;
        Ok(token)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // SAFETY: the sampler was ours alone.
        let freed =
            guarded(|message| unsafe { ffi::moe_sampler_free(self.chain.as_ptr(), message) });
        if let Err(failure) = freed {
            tracing::error!(target: "llama.cpp", "freeing a sampler failed: {}", failure.reason);
        }
    }
}

/// The arrays that the engine's settings point to.
struct Settings {
    bias: Vec<ffi::llama_logit_bias>,
    _breakers: Vec<CString>,
    breakers: Vec<*const c_char>,
}

impl Settings {
    fn new(sampling: &Sampling) -> Result<Self> {
        let bias = sampling.logit_bias.iter();
        let bias = bias.map(|(&token, &bias)| ffi::llama_logit_bias { token, bias }).collect();
        let texts = sampling.dry.iter().flat_map(|dry| &dry.breakers);
        let texts: Vec<CString> =
            texts.map(|text| c_string("a sequence breaker", text)).collect::<Result<_>>()?;
        let breakers = texts.iter().map(|text| text.as_ptr()).collect();
        Ok(Self { bias, _breakers: texts, breakers })
    }

    /// Points into `self`.
    fn raw(&self, sampling: &Sampling) -> ffi::moe_sampling {
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let dry = sampling.dry.clone().unwrap_or_default();
        let mirostat = sampling.mirostat.unwrap_or_default();
        ffi::moe_sampling {
            temperature: sampling.temperature,
            top_k: count(sampling.top_k),
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            typical_p: sampling.typical_p,
            xtc_probability: sampling.xtc_probability,
            xtc_threshold: sampling.xtc_threshold,
            repeat_penalty: sampling.repeat_penalty,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            repeat_last: count(sampling.repeat_last_tokens),
            dry_multiplier: if sampling.dry.is_some() { dry.multiplier } else { 0.0 },
            dry_base: dry.base,
            dry_allowed: count(dry.allowed_length),
            dry_last: count(dry.last_tokens),
            dry_breakers: self.breakers.as_ptr(),
            dry_breaker_count: self.breakers.len(),
            mirostat: if sampling.mirostat.is_some() { mirostat.version.into() } else { 0 },
            mirostat_tau: mirostat.tau,
            mirostat_eta: mirostat.eta,
            bias: self.bias.as_ptr(),
            bias_count: self.bias.len(),
            // The last number would ask the engine for a seed by chance.
            seed: sampling.seed.min(u32::MAX - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use moe_offload_synth::{self as synth, SynthOptions};

    use super::*;
    use crate::MoeModel;
    use crate::sampling::Dry;

    /// The engine's own samplers, in the order that [`Sampling`] tells.
    struct Reference(*mut ffi::llama_sampler);

    impl Reference {
        fn new(sampling: &Sampling, vocab: *const ffi::llama_vocab) -> Self {
            let settings = Settings::new(sampling).unwrap();
            let s = settings.raw(sampling);
            // SAFETY: each sampler becomes the chain's, which copies what it is given; the vocabulary is alive.
            unsafe {
                let words = ffi::llama_vocab_n_tokens(vocab);
                let chain =
                    ffi::llama_sampler_chain_init(ffi::llama_sampler_chain_default_params());
                let add = |step| ffi::llama_sampler_chain_add(chain, step);
                let biases = i32::try_from(s.bias_count).unwrap();
                add(ffi::llama_sampler_init_logit_bias(words, biases, s.bias));
                add(ffi::llama_sampler_init_penalties(
                    words,
                    s.repeat_last,
                    s.repeat_penalty,
                    s.frequency_penalty,
                    s.presence_penalty,
                ));
                add(ffi::llama_sampler_init_dry(
                    vocab,
                    s.dry_multiplier,
                    s.dry_base,
                    s.dry_allowed,
                    s.dry_last,
                    s.dry_breakers.cast_mut(),
                    s.dry_breaker_count,
                ));
                if s.temperature == 0.0 {
                    add(ffi::llama_sampler_init_greedy());
                    return Self(chain);
                }
                add(ffi::llama_sampler_init_top_k(s.top_k));
                add(ffi::llama_sampler_init_typical(s.typical_p, 1));
                add(ffi::llama_sampler_init_top_p(s.top_p, 1));
                add(ffi::llama_sampler_init_min_p(s.min_p, 1));
                add(ffi::llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 1, s.seed));
                add(ffi::llama_sampler_init_temp(s.temperature));
                add(ffi::llama_sampler_init_dist(s.seed));
                Self(chain)
            }
        }

        fn sample(&mut self, context: &mut Context) -> Token {
            // SAFETY: the chain and the context are alive and used by nobody else.
            unsafe { ffi::llama_sampler_sample(self.0, context.as_ptr(), -1) }
        }
    }

    impl Drop for Reference {
        fn drop(&mut self) {
            // SAFETY: the chain was ours alone.
            unsafe { ffi::llama_sampler_free(self.0) };
        }
    }

    fn settings() -> Vec<Sampling> {
        let warm = || Sampling::default().temperature(2.0).seed(5);
        let mut varied = vec![Sampling::greedy(), warm(), warm().top_k(1), warm().top_k(0)];
        // Penalties move tokens out of the best, and others in from behind them.
        for base in [Sampling::greedy(), warm().top_k(3), warm().top_k(40)] {
            varied.push(base.clone().repeat_penalty(1.8));
            varied.push(base.clone().repeat_penalty(0.5).presence_penalty(2.0));
            varied.push(Sampling { frequency_penalty: 3.0, repeat_last_tokens: 2, ..base.clone() });
            let dry = Dry { allowed_length: 1, breakers: Vec::new(), ..Dry::default() };
            varied.push(Sampling { dry: Some(dry), ..base.clone() });
            let mut biased = base.clone().presence_penalty(0.5);
            // The last one is far behind without it.
            biased.logit_bias.extend([(1, -1.0), (7, f32::NEG_INFINITY), (3000, 50.0)]);
            varied.push(biased);
        }
        varied.push(Sampling { typical_p: 0.9, xtc_probability: 0.5, ..warm().top_k(10) });
        varied
    }

    #[test]
    fn tokens_are_those_of_the_engine_s_samplers_over_the_whole_vocabulary() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        // Large enough that the best are looked for.
        let options = SynthOptions::tiny().layers(1).vocab(4096);
        synth::family("olmoe-1b-7b")
            .unwrap()
            .build(&options)
            .unwrap()
            .save(&path, 1, |_| {})
            .unwrap();
        let mut model = MoeModel::builder(&path).threads(1).context_tokens(256).load().unwrap();
        let mut distinct = std::collections::BTreeSet::new();
        for sampling in settings() {
            model.forget().unwrap();
            let context = &mut model.context;
            let weights = Arc::clone(context.weights());
            let limits = Limits::default();
            let mut ours = Sampler::new(&sampling, None, &weights, &limits).unwrap();
            let mut reference = Reference::new(&sampling, weights.vocab());
            context.decode(&[1, 2, 3, 4]).unwrap();
            for i in 0..60 {
                let expected = reference.sample(context);
                let token = ours.sample(context).unwrap();
                assert_eq!(token, expected, "token {i} with {sampling:?}");
                distinct.insert(token);
                context.decode(&[token]).unwrap();
            }
        }
        assert!(distinct.len() > 100, "it always says the same: {distinct:?}");
    }
}
