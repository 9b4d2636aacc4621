//! [`MoeModel`]: a loaded model with its context, under a plan that was kept.

mod checkpoints;
mod evaluate;
mod expert_offload;
pub(crate) mod prefix_cache;
pub(crate) mod progress;
pub(crate) mod reservation;
mod session;
mod stats;
pub(crate) mod timing;
pub(crate) mod tokenizer;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub use self::evaluate::Logits;
pub use self::expert_offload::{ExpertOffload, OffloadTimes};
use self::prefix_cache::PrefixCache;
pub use self::progress::{PromptCallback, PromptProgress};
use self::reservation::Reservation;
pub use self::stats::Stats;
use self::timing::Timing;
use self::tokenizer::tokenize;
use crate::chat::ChatTemplate;
use crate::device::{CPU, Device, DeviceMemory, allocatable_bytes};
use crate::engine::{self, Context, LoadMode};
use crate::error::{Error, Result};
use crate::limits::Limits;
#[cfg(doc)]
use crate::load::MoeModelBuilder;
use crate::paging::PagingStats;
use crate::plan::Plan;
use crate::plan::verify::Verification;
use crate::preflight::Warning;

/// What a load made.
pub(crate) struct Loaded {
    pub(crate) memory: Vec<DeviceMemory>,
    pub(crate) context: Context,
    /// How the weights in CPU memory were loaded.
    pub(crate) mode: LoadMode,
    /// Where experts in CPU memory are computed, if there is a choice.
    pub(crate) offload: Option<ExpertOffload>,
    /// The model file's own, or why there is none.
    pub(crate) template: Result<ChatTemplate>,
    /// What is probably a mistake.
    pub(crate) warnings: Vec<Warning>,
}

/// A model with its weights where a [`Plan`] put them, its context and the generation loop.
///
/// It owns everything and has no lifetime. It can be sent to another thread; one generation runs
/// at a time.
pub struct MoeModel {
    pub(crate) context: Context,
    pub(crate) prefix_cache: PrefixCache,
    pub(crate) timing: Timing,
    /// The model file's own, or why there is none.
    pub(crate) template: Arc<Result<ChatTemplate>>,
    plan: Plan,
    /// Bytes that all models of the process together may use of each device.
    limits: Vec<(String, u64)>,
    memory: Vec<DeviceMemory>,
    mode: LoadMode,
    offload: Option<ExpertOffload>,
    warnings: Vec<Warning>,
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
    /// A model of what was loaded onto these devices, `started` ago.
    pub(crate) fn assemble(
        plan: Plan,
        devices: &[Device],
        loaded: Loaded,
        checkpoint_bytes: u64,
        reservation: Reservation,
        started: Instant,
    ) -> Self {
        let limit = |device: &Device| Some((device.name.clone(), device.total_bytes?));
        let Loaded { memory, context, mode, offload, template, warnings } = loaded;
        Self {
            memory,
            mode,
            offload,
            context,
            prefix_cache: PrefixCache::new(
                plan.context_tokens(),
                plan.context().batch_tokens,
                checkpoint_bytes,
            ),
            timing: Timing::default(),
            template: Arc::new(template),
            plan,
            limits: devices.iter().filter_map(limit).collect(),
            warnings,
            load_seconds: started.elapsed().as_secs_f64(),
            _reservation: reservation,
        }
    }

    /// Forgets what the KV cache holds: the next prompt is computed from its first token.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn forget(&mut self) -> Result<()> {
        self.prefix_cache.clear(&mut self.context)
    }

    /// Which experts each layer has used since the model was loaded; `None` unless it was loaded
    /// with [`MoeModelBuilder::watch_experts`], or if counting failed.
    pub fn expert_use(&mut self) -> Option<engine::ExpertUse> {
        self.context.expert_use()
    }

    /// What paging experts from disk did; `None` where none are on disk.
    pub fn paging(&self) -> Option<PagingStats> {
        let stats = self.context.weights().pager()?.stats();
        Some(PagingStats { tokens_at_once: self.context.micro_batch_tokens(), ..stats })
    }

    /// Counts from here on in [`paging`](Self::paging).
    pub fn reset_paging(&mut self) {
        if let Some(pager) = self.context.weights().pager() {
            pager.reset();
        }
    }

    /// Another model over the same weights, with a context of its own: a second conversation for the
    /// memory of its KV cache and buffers. Both may be used at once, on different threads; the
    /// weights go with the last of them. What [`memory`](Self::memory) says of weights is shared.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`] if a device, or CPU memory, has no room for a second context, or what the engine
    /// reports.
    pub fn another(&self) -> Result<Self> {
        let started = Instant::now();
        let names: Vec<&str> = self.plan.devices().iter().map(|device| &*device.name).collect();
        let mut devices = engine::devices_named(&names)?;
        for device in &mut devices {
            let limit = self.limits.iter().find(|(name, _)| *name == device.name);
            device.total_bytes = device.total_bytes.zip(limit).map(|(all, (_, n))| all.min(*n));
        }
        let budget = self.limits.iter().find(|(name, _)| name == CPU).map(|(_, bytes)| *bytes);
        let cpu = Device::cpu(allocatable_bytes(), budget);
        let mut reservation = Reservation::of_context(&self.plan, &devices, &cpu)?;
        let context = self.context.another()?;
        reservation.loaded();
        Ok(Self {
            memory: context.memory()?,
            mode: self.mode,
            offload: self.offload,
            context,
            prefix_cache: self.prefix_cache.another(),
            timing: Timing::default(),
            template: Arc::clone(&self.template),
            plan: self.plan.clone(),
            limits: self.limits.clone(),
            warnings: self.warnings.clone(),
            load_seconds: started.elapsed().as_secs_f64(),
            _reservation: reservation,
        })
    }

    /// Saves what the model holds of the conversation, so that it need not be read again: the KV
    /// cache and its tokens. The file is about as large as the used part of the cache, and is
    /// written whole or not at all. Where the process may write no file so large (`ulimit -f`), that is an error
    /// if the program takes or ignores `SIGXFSZ`, which else ends it.
    ///
    /// ```no_run
    /// # use moe_offload::{GenerateOptions, MoeModel};
    /// # let mut model = MoeModel::builder("model.gguf").load()?;
    /// # let document = "";
    /// model.generate(document, &GenerateOptions::default().max_tokens(0))?.text()?;
    /// model.save_session("document.session")?;
    /// // In another process, with the same file and context: nothing of the document is read again.
    /// model.restore_session("document.session")?;
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`], also where something else than a session has the name; or what the engine reports.
    pub fn save_session(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.prefix_cache.restore(&mut self.context)?;
        session::save(path.as_ref(), &self.plan, &self.prefix_cache, &mut self.context)
    }

    /// Goes on where [`save_session`](Self::save_session) was called, perhaps by another process.
    /// Placement may differ; the model file and the sizes of the context may not.
    ///
    /// # Errors
    /// [`Error::InvalidSession`] for a file that is none, belongs to another model or context, is
    /// cut or was changed; then nothing has changed here. [`Error::Io`], or what the engine reports.
    pub fn restore_session(&mut self, path: impl AsRef<Path>) -> Result<()> {
        session::restore(path.as_ref(), &self.plan, &mut self.prefix_cache, &mut self.context)
    }

    /// How many tokens the text has for this model.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        Ok(tokenize(self.context.weights(), text, false, &Limits::default())?.len())
    }

    /// How many tokens the model's vocabulary has.
    pub fn vocabulary_tokens(&self) -> usize {
        self.context.weights().vocabulary_tokens()
    }

    /// The plan that the model was loaded by.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What runs, but is probably a mistake: a context beyond the model's training, weights that look as if they
    /// were missing. Print them.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The template that the model file carries.
    ///
    /// # Errors
    /// Why there is none that can be read; see [`ChatTemplate::from_gguf`].
    pub fn chat_template(&self) -> std::result::Result<&ChatTemplate, &Error> {
        self.template.as_ref().as_ref()
    }

    /// How the weights in CPU memory were loaded: as asked for, or what [`LoadMode::Auto`] chose, whose reason is in
    /// [`Plan::decisions`].
    pub fn load_mode(&self) -> LoadMode {
        self.mode
    }

    /// Where experts in CPU memory are computed, and the figures by which that was chosen; `None` where no device
    /// could compute them, or none are there.
    pub fn expert_offload(&self) -> Option<ExpertOffload> {
        self.offload
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
        Stats {
            load_seconds: self.load_seconds,
            prompt_tokens: timing.prompt_tokens,
            reused_tokens: timing.reused_tokens,
            dropped_messages: timing.dropped_messages,
            used_known_format: timing.used_known_format,
            generated_tokens: timing.generated_tokens,
            first_token_seconds: timing.first_token.map(|time| time.as_secs_f64()),
            prefill_tokens_per_second: timing.prefill_rate(),
            decode_tokens_per_second: timing.decode_rate(),
            checkpoint_bytes: self.prefix_cache.checkpoint_bytes(),
            devices: self.memory.clone(),
            paging: self.paging(),
            expert_offload: self.offload,
        }
    }
}
