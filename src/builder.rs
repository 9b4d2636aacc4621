//! [`MoeModelBuilder`]: from a path and a policy to a loaded model, by a plan that is kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::CancelHandle;
use crate::defaults::{CHECKPOINT_BYTES, cache_budget, threads_for};
use crate::engine::{self, Context, ContextSettings, DryRun, LoadMode, LoadSettings, Weights};
use crate::error::{Error, Result};
use crate::expert_offload::{self, ExpertOffload};
use crate::gguf::{GgmlType, GgufFile};
use crate::host_weights::{self, Facts};
use crate::kv_cache::cell_bytes;
use crate::limits::Limits;
use crate::memory::{self, DeviceMemory};
use crate::model::{Loaded, MoeModel};
use crate::paging::{Layout, PagingOptions};
use crate::placement;
use crate::plan::{
    self, CPU, Compute, ContextOptions, Decision, Device, DeviceKind, ENGINE_OFFLOAD_TOKENS,
    OpenChoices, Overhead, Plan,
};
use crate::policy::{DeviceName, OffloadPolicy};
use crate::preflight;
use crate::reservation::{self, Reservation};
use crate::warm_up::WarmUp;

/// Everything about a model to load. Setters never fail; [`load`](Self::load) checks it all.
#[must_use = "nothing is loaded before `load`"]
pub struct MoeModelBuilder {
    path: PathBuf,
    policy: OffloadPolicy,
    plan: Option<Plan>,
    context: ContextOptions,
    rpc_servers: Vec<String>,
    budgets: Vec<(String, u64)>,
    overheads: Vec<(String, u64)>,
    warm_up: Option<bool>,
    local_devices: Option<Vec<String>>,
    threads: Option<u32>,
    checkpoint_bytes: u64,
    load: LoadSettings,
    #[cfg(feature = "bench")]
    watch_experts: bool,
}

impl std::fmt::Debug for MoeModelBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MoeModelBuilder")
            .field("path", &self.path)
            .field("policy", &self.policy)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl MoeModelBuilder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            policy: OffloadPolicy::default(),
            plan: None,
            context: ContextOptions::default(),
            rpc_servers: Vec::new(),
            budgets: Vec::new(),
            overheads: Vec::new(),
            warm_up: None,
            local_devices: None,
            threads: None,
            checkpoint_bytes: CHECKPOINT_BYTES,
            load: LoadSettings::default(),
            #[cfg(feature = "bench")]
            watch_experts: false,
        }
    }

    /// Where the tensors go; without it by [`OffloadPolicy::default`]: as many experts on the devices as
    /// fit.
    pub fn policy(self, policy: OffloadPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Uses a plan made before, for instance one that was stored, instead of a policy. Its context
    /// replaces what was set. It is checked by [`Plan::check`].
    ///
    /// A server's device is found by the server's address, as [`rpc_server`](Self::rpc_server) was
    /// given it, and gets the name that it has in this process. Devices of this machine, and those of
    /// a plan that knows no address, are found by name. What the plan does not use and is not there
    /// is left out.
    pub fn plan(self, plan: Plan) -> Self {
        Self { plan: Some(plan), ..self }
    }

    /// Tokens of prompt and answer together that the context holds. Without it as many as the
    /// model was trained for, at most 4096.
    pub fn context_tokens(mut self, context_tokens: u32) -> Self {
        self.context.context_tokens = Some(context_tokens);
        self
    }

    /// Tokens computed at once while a prompt is read. More is faster where experts are in CPU memory and a GPU
    /// computes, and takes more memory: without it there it is up to 2048, as far as it pays
    /// ([`ContextOptions::micro_batch_grows`](crate::ContextOptions::micro_batch_grows)), and else 512.
    pub fn micro_batch_tokens(mut self, micro_batch_tokens: u32) -> Self {
        self.context.micro_batch_tokens = micro_batch_tokens;
        self.context.micro_batch_grows = false;
        self
    }

    /// Element type of keys and values; `f16` without it. `q8_0` takes half the memory.
    pub fn kv_type(mut self, kv_type: GgmlType) -> Self {
        self.context.kv_type = kv_type;
        self
    }

    /// Keeps the KV cache in CPU memory, where attention is then computed.
    pub fn cache_on_host(mut self, cache_on_host: bool) -> Self {
        self.context.cache_on_host = cache_on_host;
        self
    }

    /// While a prompt is read, computes large batches of what is in CPU memory, above all experts, on a
    /// device, to which they are copied for it; as llama.cpp does unless told otherwise. Whether that
    /// is faster depends on how fast the copies go and how large the batches are; see
    /// [`micro_batch_tokens`](Self::micro_batch_tokens). Devices of RPC servers take no part in it.
    pub fn operation_offload(mut self, operation_offload: bool) -> Self {
        self.context.operation_offload = operation_offload;
        self
    }

    /// Tokens from which experts in CPU memory are computed on a device, to which those are copied that the tokens use;
    /// 1 for every token of an answer, 32 as llama.cpp does unless told otherwise. Needs
    /// [`operation_offload`](Self::operation_offload) and a device of this machine that takes part in it, else `load`
    /// says [`Error::NoOffloadDevice`].
    ///
    /// Without it, `load` measures for about half a second, and decodes some tokens of the vocabulary for it, whether
    /// the CPU's kernels or the bus to the device are faster with this model, and takes 1 or the engine's own
    /// number; [`MoeModel::expert_offload`] tells what it found. It does not for a model that also uses RPC servers, and
    /// takes the engine's number.
    ///
    /// ```
    /// use moe_offload::{Error, MoeModel};
    ///
    /// let builder = MoeModel::builder("examples/demo-model/demo-moe.gguf").policy("all-experts".parse()?);
    /// let model = match builder.expert_offload_tokens(1).load() {
    ///     // Only a CPU is here, which computes them in any case.
    ///     Err(Error::NoOffloadDevice { .. }) => return Ok(()),
    ///     loaded => loaded?,
    /// };
    /// assert_eq!(model.expert_offload().and_then(|offload| offload.from_tokens), Some(1));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn expert_offload_tokens(mut self, expert_offload_tokens: u32) -> Self {
        self.context.expert_offload_tokens = Some(expert_offload_tokens);
        self
    }

    /// How many conversations may be computed together by
    /// [`MoeModel::generate_together`]; 1 without it. They share the context's tokens.
    pub fn sequences(mut self, sequences: u32) -> Self {
        self.context.sequences = sequences;
        self
    }

    /// CPU memory for checkpoints, at most, for each [context](crate::MoeModel::another); 512 MiB
    /// without it, 0 for none. It is taken as they are made, and not part of the plan.
    ///
    /// Recurrent layers (Qwen3-Next, Jamba, LFM2) and sliding windows cannot go back to an earlier
    /// token, so that a prompt that differs from the last one would be read from its beginning.
    /// Copies of their state let it be read from the last one before the difference. They are made
    /// before a prompt and between its parts, before its last token (which is therefore computed on
    /// its own; of windows after it), and where it differed before; those least recently useful give
    /// way. The attention of all
    /// other layers is not copied, nor anything of models without such layers. One takes some 75 MiB
    /// for Qwen3-Next 80B, 17 MiB for Jamba mini, 3 MiB for GPT-OSS 20B and 200 MiB for Gemma 4 26B;
    /// [`Stats::checkpoint_bytes`](crate::Stats::checkpoint_bytes) says what all take now.
    pub fn checkpoint_bytes(self, checkpoint_bytes: u64) -> Self {
        Self { checkpoint_bytes, ..self }
    }

    /// Sizes that the policy `fit` may choose itself, together with where experts go; what it chose
    /// is in [`Plan::decisions`]. Under a policy without `fit` they are [`Error::InvalidOption`].
    pub fn leave_open(mut self, open: OpenChoices) -> Self {
        self.context.open = open;
        self
    }

    /// Threads that compute on the CPU. Without it one core is left free, or half of them where
    /// there are more than 8: the engine's threads wait for each other by spinning, so that a core
    /// that is also used for something else slows all of them down. Where experts have to be read from
    /// disk it is two of two cores, as one that computes alone is slower than a disk (docs/paging.md).
    /// More than the CPUs that the process may use, and more than 4, is
    /// [`Error::TooManyThreads`]; up to 4 work on fewer CPUs too, slowly.
    pub fn threads(self, threads: u32) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// Adds the devices of an RPC server (`host:port`), which come before this machine's own; see
    /// [`connect_rpc`](crate::connect_rpc) for what can go wrong with one and
    /// [`devices`](crate::devices) for their names. In the policy the address itself may stand for
    /// the server's first device: `layers:0-7=10.0.0.2:50052`. Calls of models that use such servers wait for each other.
    pub fn rpc_server(mut self, endpoint: impl Into<String>) -> Self {
        self.rpc_servers.push(endpoint.into());
        self
    }

    /// How weights in CPU memory come from the file, and how that memory is held.
    ///
    /// ```
    /// use moe_offload::{Error, LoadMode, MoeModel};
    ///
    /// let load =
    ///     |mode| MoeModel::builder("examples/demo-model/demo-moe.gguf").load_mode(mode).load();
    /// // Huge pages where there are any.
    /// let model = match load(LoadMode::Huge) {
    ///     Err(Error::HostMemory { fault, .. }) => {
    ///         eprintln!("{fault}");
    ///         load(LoadMode::Read)?
    ///     }
    ///     loaded => loaded?,
    /// };
    /// let cpu = model.memory().last().and_then(|cpu| cpu.host).expect("the CPU comes last");
    /// println!("{} bytes of weights are in huge pages", cpu.huge_bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn load_mode(mut self, mode: LoadMode) -> Self {
        self.load.mode = mode;
        self
    }

    /// Whether the CPU may copy weights of some types into a layout for which it has faster kernels. That takes
    /// memory beside the mapped file, and the kernels add in another order, so that last bits differ; of experts on
    /// disk there is no such copy. By default it may.
    pub fn repack(mut self, repack: bool) -> Self {
        self.load.plain_layout = !repack;
        self
    }

    /// How experts are read that the plan leaves on disk, as `all-experts=disk` or `fit:ram:24GiB` do; without such
    /// experts it changes nothing. Linux only.
    ///
    /// Of [`PagingOptions::cache_bytes`] and the policy's `ram:` the smaller counts; if it holds less than a token
    /// uses at once, `load` says [`Error::PagingBudget`](crate::Error::PagingBudget). What was read is in
    /// [`Stats::paging`](crate::Stats). After a read that failed, or a file that changed, the model has to be
    /// loaded again.
    pub fn paging(mut self, paging: PagingOptions) -> Self {
        self.load.paging = paging;
        self
    }

    /// Is told how much of the weights is loaded, from 0 to 1, on the thread that loads.
    pub fn on_progress(mut self, on_progress: impl FnMut(f32) + Send + 'static) -> Self {
        self.load.on_progress = Some(Box::new(on_progress));
        self
    }

    /// Lets `cancel` stop the load.
    pub fn cancel(mut self, cancel: &CancelHandle) -> Self {
        self.load.cancel = Some(cancel.clone());
        self
    }

    /// Of this machine's own devices, uses only these; none of them where there are none: then the CPU computes,
    /// and what [`rpc_server`](Self::rpc_server) names. Without it all are used. The others are as if they were
    /// not there: a policy, a budget or a stored plan that names one is refused.
    ///
    /// ```
    /// use moe_offload::MoeModel;
    ///
    /// // Whatever GPUs there are.
    /// let model = MoeModel::builder("examples/demo-model/demo-moe.gguf").local_devices(&[]).load()?;
    /// assert_eq!(model.plan().devices().len(), 1);
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    pub fn local_devices(mut self, names: &[&str]) -> Self {
        self.local_devices = Some(names.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// Lets this process use at most so much of a device's memory, all its models together. A server's
    /// address stands for its first device, and `cpu` for CPU memory, of which what is mapped from a file
    /// and what experts on disk are held in take nothing.
    ///
    /// ```
    /// use moe_offload::{Error, MoeModel};
    ///
    /// let model = MoeModel::builder("examples/demo-model/demo-moe.gguf").context_tokens(4_000_000);
    /// let model = model.local_devices(&[]); // the cache is in CPU memory then
    /// let error = model.device_budget("cpu", 1 << 30).load().unwrap_err();
    /// assert!(matches!(error, Error::DoesNotFit { device, .. } if device == "cpu"));
    /// ```
    pub fn device_budget(mut self, device: impl Into<String>, bytes: u64) -> Self {
        self.budgets.push((device.into(), bytes));
        self
    }

    /// So many bytes of a device's memory are left to what the engine does not count, such as kernels,
    /// workspaces and pools, in place of the estimate ([`Overhead`]); 0 for none. What a load really took is
    /// [`DeviceMemory::overhead_bytes`](crate::DeviceMemory::overhead_bytes). A server's address stands
    /// for its first device. A plan that was made before has its own.
    pub fn device_overhead(mut self, device: impl Into<String>, bytes: u64) -> Self {
        self.overheads.push((device.into(), bytes));
        self
    }

    /// Whether the load ends with a micro-batch of the largest size and a single token, which are computed
    /// and forgotten: only then is it known what the devices take for computing, and a load that leaves them
    /// too little fails with [`Error::NoRoomToCompute`] instead of the first long prompt. It takes as long
    /// as such a micro-batch does, and what a first prompt has to wait for is done already.
    ///
    /// Without it: under [`fit`](OffloadPolicy::Fit) with a graphics card of this machine that tells its free
    /// memory, unless experts are on disk. Without such a card nothing is computed.
    ///
    /// ```
    /// let builder = moe_offload::MoeModel::builder("examples/demo-model/demo-moe.gguf");
    /// let model = builder.policy("all-experts".parse()?).warm_up(true).load()?;
    /// for row in model.memory() {
    ///     if let Some(bytes) = row.overhead_bytes {
    ///         println!("{} took {bytes} bytes beside the model", row.name);
    ///     }
    /// }
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    pub fn warm_up(mut self, warm_up: bool) -> Self {
        self.warm_up = Some(warm_up);
        self
    }

    /// Counts which experts each layer uses, for
    /// [`MoeModel::expert_use`](crate::MoeModel::expert_use). The engine then stops after every
    /// router, so measure no speed meanwhile.
    #[cfg(feature = "bench")]
    pub fn watch_experts(self, watch_experts: bool) -> Self {
        Self { watch_experts, ..self }
    }

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
    #[cfg(feature = "bench")]
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
        let settings = LoadSettings { mode, ..std::mem::take(&mut self.load) };
        let cancel = settings.cancel.clone();
        let warm_up = WarmUp::before(&self.rpc_servers, cancel.as_ref())?;
        let (weights, mut context) = self.open(&gguf, &plan, settings)?;
        gguf.check_unchanged()?;
        placement::check(&weights, &plan)?;
        reservation.loaded();
        let mut memory = context.memory()?;
        weights.check_held(&mut memory)?;
        placement::check_limits(&plan, &memory)?;
        warm_up.note_free(&mut memory)?;
        if warm_up.is_due(self.warm_up, &plan) {
            warm_up.run(&gguf, &mut context, &plan, &mut memory)?;
        }
        let offload = self.expert_offload(&plan, &devices, &mut context, cancel.as_ref())?;
        let loaded = Loaded { memory, context, mode, offload };
        let limits: Vec<Device> = devices.into_iter().chain([cpu]).collect();
        let checkpoint_bytes = self.checkpoint_bytes;
        Ok(MoeModel::assemble(&gguf, plan, &limits, loaded, checkpoint_bytes, reservation, started))
    }

    /// The header, if the engine would survive the file.
    fn open_file(&self) -> Result<GgufFile> {
        let gguf = GgufFile::open(&self.path)?;
        preflight::check(&gguf).map(|()| gguf)
    }

    fn devices(&self) -> Result<Vec<Device>> {
        let mut devices = engine::devices_with(&self.rpc_servers, self.load.cancel.as_ref())?;
        if let Some(names) = &self.local_devices {
            devices = only(names, devices)?;
        }
        for (name, bytes) in &self.overheads {
            meant(name, &mut devices)?.overhead = Overhead::Bytes(*bytes);
        }
        for (name, budget) in self.budgets.iter().filter(|(name, _)| !is_cpu(name)) {
            let device = meant(name, &mut devices)?;
            device.free_bytes = Some(device.free_bytes.map_or(*budget, |free| free.min(*budget)));
            device.total_bytes = Some(device.total_bytes.map_or(*budget, |all| all.min(*budget)));
        }
        Ok(devices)
    }

    /// The CPU with the memory that a load may take of it.
    fn cpu(&self, reads: bool) -> Device {
        // What is read at once has to be there; what lies unused for long may be swapped.
        let free = if reads { memory::available_bytes() } else { memory::allocatable_bytes() };
        let budgets = self.budgets.iter().filter(|(name, _)| is_cpu(name));
        Device::cpu(free, budgets.map(|(_, bytes)| *bytes).min())
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
        #[cfg(feature = "bench")]
        let is_watched = self.watch_experts;
        #[cfg(not(feature = "bench"))]
        let is_watched = false;
        if is_fixed
            || is_watched
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

    fn open(
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
        let before = memory::anonymous_bytes();
        let mut weights = Weights::load(gguf, plan, settings)?;
        if let Some(disk) = plan.disk().filter(|_| !is_dry) {
            let by_hand = disk.cache_by_hand(wanted).filter(|_| ram_bytes(plan).is_none());
            let budget = by_hand.unwrap_or_else(|| cache_budget(plan, disk, before, left()));
            weights.start_paging(budget, plan.active_experts())?;
        }
        let threads = self.threads.unwrap_or_else(|| threads_for(weights.reads_experts()));
        let weights = Arc::new(weights);
        #[cfg_attr(not(feature = "bench"), allow(unused_mut))]
        let mut settings = ContextSettings::of(plan, threads);
        #[cfg(feature = "bench")]
        {
            settings.watch_experts = self.watch_experts;
        }
        let context = Context::new(&weights, &settings, &limits)?;
        Ok((weights, context))
    }
}

/// Of this machine's devices those of these names, and all others.
fn only(names: &[String], mut devices: Vec<Device>) -> Result<Vec<Device>> {
    let is_local = |device: &Device| device.kind != DeviceKind::Remote;
    let local = devices.iter().filter(|device| is_local(device));
    let known: Vec<String> = local.map(|device| device.name.clone()).collect();
    let unknown = names.iter().find(|name| !known.iter().any(|one| one.eq_ignore_ascii_case(name)));
    if let Some(name) = unknown.cloned() {
        return Err(Error::UnknownDevice { name, known });
    }
    let is_named =
        |device: &Device| names.iter().any(|name| name.eq_ignore_ascii_case(&device.name));
    devices.retain(|device| !is_local(device) || is_named(device));
    Ok(devices)
}

fn is_cpu(name: &str) -> bool {
    name.eq_ignore_ascii_case(CPU)
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

/// The device that a name, or a server's address, stands for.
fn meant<'a>(name: &str, devices: &'a mut [Device]) -> Result<&'a mut Device> {
    let name = named(name, devices).map_or_else(|| DeviceName::new(name), Ok)?;
    let Some(i) = devices.iter().position(|device| name.matches(&device.name)) else {
        let known = devices.iter().map(|device| device.name.clone()).collect();
        return Err(Error::UnknownDevice { name: name.as_str().to_owned(), known });
    };
    Ok(&mut devices[i])
}

/// A server's address names its first device, whatever number that has in this process.
fn named(address: &str, devices: &[Device]) -> Option<DeviceName> {
    let is_meant = |device: &&Device| device.server() == Some(address);
    devices.iter().find(is_meant).and_then(|device| DeviceName::new(&device.name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_this_machine_s_devices_only_those_named_are_left() {
        let device = |name: &str, kind| {
            let mut device = Device::new(name);
            device.kind = kind;
            device
        };
        let left = |names: &[&str]| {
            let all = vec![
                device("RPC0", DeviceKind::Remote),
                device("CUDA0", DeviceKind::Gpu),
                device("CUDA1", DeviceKind::Gpu),
            ];
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let left = only(&names, all)?.into_iter().map(|device| device.name);
            Ok::<_, Error>(left.collect::<Vec<_>>())
        };
        assert_eq!(left(&["cuda1"]).unwrap(), ["RPC0", "CUDA1"]);
        assert_eq!(left(&[]).unwrap(), ["RPC0"]);
        // A server's device is named by its server.
        for unknown in ["CUDA2", "RPC0"] {
            let error = left(&["CUDA0", unknown]).unwrap_err();
            let known = vec!["CUDA0".to_owned(), "CUDA1".to_owned()];
            assert!(
                matches!(&error, Error::UnknownDevice { name, known: there } if name == unknown && *there == known),
                "{error}"
            );
        }
    }
}
