//! [`MoeModel`]: a loaded model with its context, under a plan that was kept.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Instant;

use crate::builder::MoeModelBuilder;
use crate::chat::Message;
use crate::engine::Context;
use crate::error::{Error, Result};
use crate::generate::{Cached, GenerateOptions, Generation, Timing};
use crate::memory::{DeviceMemory, Verification};
use crate::plan::Plan;
use crate::reservation::Reservation;
use crate::stats::Stats;
use crate::tokenize::tokenize;

/// A model with its weights where a [`Plan`] put them, its context and the generation loop.
///
/// It owns everything and has no lifetime. It can be sent to another thread; one generation runs
/// at a time.
pub struct MoeModel {
    pub(crate) context: Context,
    pub(crate) cached: Cached,
    pub(crate) timing: Timing,
    plan: Plan,
    memory: Vec<DeviceMemory>,
    load_seconds: f64,
    /// Given back after the context is freed: fields are dropped in order.
    _reservation: Reservation,
}

impl std::fmt::Debug for MoeModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MoeModel")
            .field("model", self.plan.model())
            .field("policy", self.plan.policy())
            .finish_non_exhaustive()
    }
}

impl MoeModel {
    /// Describes a model to load; nothing happens before [`MoeModelBuilder::load`].
    pub fn builder(path: impl Into<PathBuf>) -> MoeModelBuilder {
        MoeModelBuilder::new(path.into())
    }

    /// A model of what was loaded, `started` ago.
    pub(crate) fn assemble(
        plan: Plan,
        memory: Vec<DeviceMemory>,
        context: Context,
        reservation: Reservation,
        started: Instant,
    ) -> Self {
        Self {
            memory,
            context,
            cached: Cached::new(plan.context_tokens(), plan.context().batch_tokens),
            timing: Timing::default(),
            plan,
            load_seconds: started.elapsed().as_secs_f64(),
            _reservation: reservation,
        }
    }

    /// Continues `prompt`, piece by piece. Special tokens written in it are recognised.
    ///
    /// What the prompt has in common with the last prompt and answer is not computed again.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::InvalidOption`] for impossible
    /// sampling, [`Error::Cancelled`], or what the engine reports.
    pub fn generate(&mut self, prompt: &str, options: &GenerateOptions) -> Result<Generation<'_>> {
        let started = Instant::now();
        let tokens = tokenize(self.context.weights(), prompt, true)?;
        Generation::start(self, &tokens, options, started)
    }

    /// Answers the last of `messages`, formatted by the model's own chat template.
    ///
    /// # Errors
    /// As [`MoeModel::generate`], and [`Error::NoChatTemplate`] if the engine knows no template
    /// for the model.
    pub fn chat(
        &mut self,
        messages: &[Message],
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        let started = Instant::now();
        let prompt = self.chat_prompt(messages)?;
        // The template writes the beginning of the text itself where it wants one.
        let tokens = tokenize(self.context.weights(), &prompt, false)?;
        Generation::start(self, &tokens, options, started)
    }

    /// The messages as the one text that the model was trained on, ready for its answer.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`]; [`Error::NulByte`] for a message with a NUL byte.
    pub fn chat_prompt(&self, messages: &[Message]) -> Result<String> {
        let messages: Vec<(CString, CString)> = messages
            .iter()
            .map(|message| {
                let text = |text: &str| {
                    CString::new(text).map_err(|error| Error::NulByte {
                        what: "a message",
                        position: error.nul_position(),
                    })
                };
                Ok((text(&message.role.to_string())?, text(&message.content)?))
            })
            .collect::<Result<_>>()?;
        self.context.weights().chat_prompt(&messages)
    }

    /// Forgets what the KV cache holds: the next prompt is computed from its first token.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn forget(&mut self) -> Result<()> {
        self.cached = Cached::new(self.plan.context_tokens(), self.plan.context().batch_tokens);
        self.context.keep(0).map(|_| ())
    }

    /// Which experts each layer has used since the model was loaded; `None` unless it was loaded
    /// with [`MoeModelBuilder::watch_experts`], or if counting failed.
    #[cfg(feature = "bench")]
    pub fn expert_use(&mut self) -> Option<crate::bench::ExpertUse> {
        self.context.expert_use()
    }

    /// How many tokens the text has for this model.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        Ok(tokenize(self.context.weights(), text, false)?.len())
    }

    /// The plan that the model was loaded by.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What the engine allocated on each device, the CPU last.
    pub fn memory(&self) -> &[DeviceMemory] {
        &self.memory
    }

    /// The plan's figures beside the measured ones.
    pub fn verify(&self) -> Verification {
        self.plan.verify(&self.memory)
    }

    /// What was measured of the load and the last generation.
    pub fn stats(&self) -> Stats {
        let timing = &self.timing;
        let rate = |tokens: u64, seconds: f64| {
            #[allow(clippy::cast_precision_loss)] // token counts are small
            let tokens = tokens as f64;
            (tokens > 0.0 && seconds > 0.0).then(|| tokens / seconds)
        };
        let computed = timing.prompt_tokens - timing.reused_tokens;
        Stats {
            load_seconds: self.load_seconds,
            prompt_tokens: timing.prompt_tokens,
            reused_tokens: timing.reused_tokens,
            generated_tokens: timing.generated_tokens,
            first_token_seconds: timing.first_token.map(|time| time.as_secs_f64()),
            prefill_tokens_per_second: rate(computed, timing.prefill.as_secs_f64()),
            decode_tokens_per_second: rate(
                timing.generated_tokens.saturating_sub(1),
                timing.decode.as_secs_f64(),
            ),
            devices: self.memory.clone(),
        }
    }
}
