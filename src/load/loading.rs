//! Plan, dry run, reserve, load.

use std::sync::Arc;
use std::time::Instant;

use super::defaults::{cache_budget, threads_for};
use super::devices::named;
use super::dry_load::{check_tokenizer, split_marker};
use super::host_weights::{self, Facts};
use super::warm_up::WarmUp;
use super::{MoeModelBuilder, expert_offload, verify};
use crate::chat::ChatTemplate;
use crate::device::{Device, DeviceKind, DeviceMemory, system_memory};
use crate::engine::{self, Context, ContextSettings, DryRun, LoadMode, LoadSettings, Weights};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::limits::{CancelHandle, Limits};
use crate::model::reservation::{self, Reservation};
use crate::model::{ExpertOffload, Loaded, MoeModel};
use crate::paging::Layout;
use crate::plan::{self, Compute, Decision, ENGINE_OFFLOAD_TOKENS, Plan, cell_bytes};
use crate::policy::OffloadPolicy;
use crate::preflight;

impl MoeModelBuilder {
    /// The plan by which [`load`](Self::load) would load: connects to the RPC servers and asks for
    /// the devices, but loads nothing. The compute buffers are left open.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn make_plan(&self) -> Result<Plan> {
        let gguf = self.open_file()?;
        let devices = self.devices()?;
        let plan = self.plan_for(&gguf, &devices)?;
        self.with_options(&gguf, plan, &devices)
    }

    /// The same with the bytes of context and compute buffers exact: the engine goes through
    /// loading without allocating, and without weights and vocabulary. With several devices the
    /// compute buffers can come out a little different.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn forecast(&self) -> Result<Plan> {
        let gguf = self.open_file()?;
        self.exact_plan(&gguf, &self.devices()?)
    }

    /// For tests: what a dry run of the plan by which [`load`](Self::load) would load counts, weights too.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn dry_run_memory(&self) -> Result<Vec<DeviceMemory>> {
        let gguf = self.open_file()?;
        let plan = self.exact_plan(&gguf, &self.devices()?)?;
        self.dry_run(&gguf, &plan)
    }

    /// Plans, sees that it fits, loads, and checks that every tensor is where the plan puts it.
    ///
    /// # Errors
    /// Whatever is wrong with the file, the policy or an option; [`Error::UnknownDevice`] and
    /// [`Error::PlannedDeviceMissing`] for devices that are not there, [`Error::TooManyDevices`];
    /// [`Error::DoesNotFit`] if one, or the CPU, has not enough free memory, of which mapped weights
    /// need none; [`Error::HostMemory`] if CPU memory cannot be held as
    /// [`load_mode`](Self::load_mode) says; [`Error::PagingBudget`] if what experts on disk may take of it
    /// is too little for a token; [`Error::LoadFailed`] with the engine's reason;
    /// [`Error::NoRoomToCompute`] if a device has too little left to compute (see
    /// [`warm_up`](Self::warm_up)); [`Error::PlanBroken`] if the engine placed a tensor elsewhere; [`Error::FileChanged`];
    /// [`Error::RpcLost`]; [`Error::EmptyWeights`]; [`Error::Cancelled`]. Nothing
    /// stays allocated after an error.
    pub fn load(mut self) -> Result<MoeModel> {
        let started = Instant::now();
        let gguf = self.open_file()?;
        let devices = self.devices()?;
        let plan = self.exact_plan(&gguf, &devices)?;
        let mode = self.mode_of(&gguf, &plan)?;
        let cpu = self.cpu(mode.reads() || plan.disk().is_some());
        let mut reservation = Reservation::new(&plan, &devices, &cpu)?;
        gguf.check_weights()?;
        let mut warnings = preflight::warnings_of_weights(&gguf, plan.context_tokens())?;
        let settings = LoadSettings { mode, ..std::mem::take(&mut self.load) };
        let cancel = settings.cancel.clone();
        let warm_up = WarmUp::before(&self.rpc_servers, cancel.as_ref())?;
        let (weights, mut context) = self.open(&gguf, &plan, settings)?;
        gguf.check_unchanged()?;
        check_tokenizer(&weights, gguf.path())?;
        let template = ChatTemplate::from_gguf(&gguf);
        warnings.extend(split_marker(template.as_ref().ok(), &weights)?);
        verify::check(&weights, &plan)?;
        reservation.loaded();
        let mut memory = context.memory()?;
        weights.check_held(&mut memory)?;
        verify::check_limits(&plan, &memory)?;
        warm_up.note_free(&mut memory)?;
        if warm_up.is_due(self.warm_up, &plan) {
            warm_up.run(&gguf, &mut context, &plan, &mut memory)?;
        }
        let offload = self.expert_offload(&plan, &devices, &mut context, cancel.as_ref())?;
        let loaded = Loaded { memory, context, mode, offload, template, warnings };
        let limits: Vec<Device> = devices.into_iter().chain([cpu]).collect();
        let checkpoint_bytes = self.checkpoint_bytes;
        Ok(MoeModel::assemble(plan, &limits, loaded, checkpoint_bytes, reservation, started))
    }

    /// The header, if the engine would survive the file.
    pub(super) fn open_file(&self) -> Result<GgufFile> {
        let gguf = GgufFile::open(&self.path)?;
        preflight::check(&gguf).map(|()| gguf)
    }

    fn plan_for(&self, gguf: &GgufFile, devices: &[Device]) -> Result<Plan> {
        if let Some(plan) = &self.plan {
            return rebound(plan, gguf, devices);
        }
        let devices = reservation::with_available(devices.to_vec());
        self.policy_for(&devices).plan(gguf, &devices, &self.context)
    }

    /// The plan with exact bytes, by dry runs.
    fn exact_plan(&self, gguf: &GgufFile, devices: &[Device]) -> Result<Plan> {
        let plan = match &self.plan {
            Some(plan) => self.exact_stored(plan, gguf, devices)?,
            None => self.solve(gguf, devices)?,
        };
        self.with_options(gguf, plan, devices)
    }

    fn exact_stored(&self, plan: &Plan, gguf: &GgufFile, devices: &[Device]) -> Result<Plan> {
        let mut plan = rebound(plan, gguf, devices)?;
        plan.refine(&self.dry_run(gguf, &plan)?);
        plan.size_cache(ram_bytes(&plan))?;
        Ok(plan)
    }

    fn solve(&self, gguf: &GgufFile, devices: &[Device]) -> Result<Plan> {
        let mut ask = |plan: &Plan| self.dry_run(gguf, plan);
        let mut compute = Compute::DryRun { ask: &mut ask, last: Vec::new() };
        let devices = reservation::with_available(devices.to_vec());
        plan::solve(&self.policy_for(&devices), gguf, &devices, &self.context, &mut compute)
    }

    /// What is said beside the policy: a plan takes the file for mapped, and decides on a cache by itself.
    fn with_options(&self, gguf: &GgufFile, mut plan: Plan, devices: &[Device]) -> Result<Plan> {
        let decision = self.decide_mode(gguf, &plan, devices)?;
        if matches!(decision, Some(Decision::PinnedWeights { .. })) {
            plan.expect_pinning();
        }
        plan.note_load(decision);
        if self.mode_of(gguf, &plan)?.reads() {
            plan.expect_reading();
        }
        if let Some(tokens) = plan.context().expert_offload_tokens.filter(|_| plan.disk().is_some())
        {
            let (option, value) = ("expert_offload_tokens", tokens.to_string());
            let expected = "nothing where experts are on disk, which the CPU computes";
            return Err(Error::InvalidOption { option, value, expected });
        }
        let Some(disk) = plan.disk() else { return Ok(plan) };
        let by_hand = self.load.paging.cache_bytes;
        // First, as it knows exactly how much is needed.
        if let Some(bytes) = by_hand.into_iter().chain(disk.cache_bytes).min() {
            Layout::of(&plan, gguf)?.check_budget(bytes, plan.active_experts())?;
        }
        match by_hand {
            Some(bytes) => plan.with_expert_cache(bytes),
            None => Ok(plan),
        }
    }

    /// What is decided of how weights in CPU memory are held, where a GPU computes prompts with them.
    fn decide_mode(
        &self,
        gguf: &GgufFile,
        plan: &Plan,
        devices: &[Device],
    ) -> Result<Option<Decision>> {
        let is_gpu = |device: &&Device| device.kind == DeviceKind::Gpu;
        let cards: Vec<Device> = devices.iter().filter(is_gpu).cloned().collect();
        if !plan.offloads_experts(&cards) {
            return Ok(None);
        }
        let is_used = |name: &str| plan.used_devices().any(|(used, _)| used == name);
        let names = cards.iter().map(|card| &*card.name).filter(|name| is_used(name));
        let names: Vec<&str> = names.collect();
        let pinning = (engine::pins(&names)?, engine::registers(&names)?);
        let cpu = reservation::with_available(vec![self.cpu(true)]).remove(0);
        let facts = Facts::of(plan, pinning, cpu.free_bytes);
        Ok(host_weights::choose(self.load.mode.for_file(gguf)?, facts).1)
    }

    /// The mode in which a plan is loaded for which that was decided.
    fn mode_of(&self, gguf: &GgufFile, plan: &Plan) -> Result<LoadMode> {
        let is_pinned = |decision: &Decision| matches!(decision, Decision::PinnedWeights { .. });
        match plan.disk() {
            Some(_) => Ok(self.load.mode),
            None if plan.decisions().iter().any(is_pinned) => Ok(LoadMode::Read),
            None => self.load.mode.for_file(gguf),
        }
    }

    /// Where experts in CPU memory are to be computed, if there is a choice.
    fn expert_offload(
        &self,
        plan: &Plan,
        devices: &[Device],
        context: &mut Context,
        cancel: Option<&CancelHandle>,
    ) -> Result<Option<ExpertOffload>> {
        if !plan.offloads_experts(devices) {
            return Ok(None);
        }
        let sizes = plan.context();
        let is_fixed = sizes.expert_offload_tokens.is_some();
        let is_remote = |name: &str| {
            devices.iter().any(|device| device.name == name && device.server().is_some())
        };
        // Else buffers for the copies were not planned, or there is no room to try.
        let has_room = sizes.computed_at_once() >= u64::from(ENGINE_OFFLOAD_TOKENS)
            && plan.context_tokens() >= expert_offload::NEEDED_TOKENS;
        if is_fixed
            || self.watch_experts
            || !has_room
            || plan.used_devices().any(|(name, _)| is_remote(name))
        {
            return Ok(Some(ExpertOffload::fixed(sizes.expert_offload_tokens)));
        }
        ExpertOffload::measure(context, &Limits::of_load(cancel)).map(Some)
    }

    /// The policy with servers by their devices' names.
    fn policy_for(&self, devices: &[Device]) -> OffloadPolicy {
        self.policy.clone().renamed(&|name| named(name, devices))
    }

    fn dry_run(&self, gguf: &GgufFile, plan: &Plan) -> Result<Vec<DeviceMemory>> {
        if self.load.cancel.as_ref().is_some_and(CancelHandle::is_cancelled) {
            return Err(Error::Cancelled { operation: "loading" });
        }
        // A dry run allocates something itself, so what is known to be too much is told before.
        let reads = self.load.mode.reads() || plan.disk().is_some();
        reservation::check_cache(plan, &self.cpu(reads), cell_bytes(gguf, plan.context()))?;
        let dry_run = Some(DryRun::of(gguf));
        let LoadSettings { mode, plain_layout, .. } = self.load;
        let cancel = self.load.cancel.clone();
        let settings =
            LoadSettings { mode, plain_layout, cancel, dry_run, ..LoadSettings::default() };
        let (_, context) = self.open(gguf, plan, settings)?;
        context.memory()
    }

    pub(super) fn open(
        &self,
        gguf: &GgufFile,
        plan: &Plan,
        settings: LoadSettings,
    ) -> Result<(Arc<Weights>, Context)> {
        if let Some(threads) = self.threads {
            engine::check_threads(threads as usize)?;
        }
        let is_dry = settings.dry_run.is_some();
        let (wanted, left) = (settings.paging.cache_bytes, settings.paging.left.0);
        let limits = Limits::of_load(settings.cancel.as_ref());
        let before = system_memory::anonymous_bytes();
        let mut weights = Weights::load(gguf, plan, settings)?;
        if let Some(disk) = plan.disk().filter(|_| !is_dry) {
            let by_hand = disk.cache_by_hand(wanted).filter(|_| ram_bytes(plan).is_none());
            let budget = by_hand.unwrap_or_else(|| cache_budget(plan, disk, before, left()));
            weights.start_paging(budget, plan.active_experts())?;
        }
        let threads = self.threads.unwrap_or_else(|| threads_for(weights.reads_experts()));
        let weights = Arc::new(weights);
        let mut settings = ContextSettings::of(plan, threads);
        settings.watch_experts = self.watch_experts;
        let context = Context::new(&weights, &settings, &limits)?;
        Ok((weights, context))
    }
}

/// A stored plan for this file and the devices that are there now.
fn rebound(plan: &Plan, gguf: &GgufFile, devices: &[Device]) -> Result<Plan> {
    plan.check(gguf)?;
    plan::check_offload(plan.context(), devices)?;
    plan.rebound(devices)
}

/// Most bytes of CPU memory, by a plan's policy.
fn ram_bytes(plan: &Plan) -> Option<u64> {
    plan.policy().fit().and_then(|fit| fit.ram_bytes)
}
