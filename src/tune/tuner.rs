//! [`Tuner`]: the search over real loads.

use std::path::PathBuf;
use std::time::Duration;

use super::cache;
use super::candidate::{Candidate, Dimension, Space, micro_batches, thread_counts};
use super::environment::Environment;
use super::key::TuneKey;
use super::search::{Attempt, Limits, Measured, Outcome, search};
use super::shortage::{PassedOver, Shortage};
use super::trial::{self, Work};
use super::tuning::{TUNING_VERSION, Tuning};
use crate::device::system_memory::available_bytes;
use crate::device::{CPU, DeviceKind};
use crate::limits::CancelHandle;
use crate::plan::{DevicePlan, Plan};
use crate::units::human_bytes;
use crate::{
    ContextOptions, Error, ExpertMap, GgufFile, LoadMode, MoeModel, MoeModelBuilder, OffloadPolicy,
    Result,
};

/// Of the memory that is available so much is left when weights are read into it.
const HOST_MARGIN_BYTES: u64 = 512 << 20;

/// The micro-batch that was the fastest by far where a GPU computed prompts with experts in CPU memory; see
/// docs/gpu.md.
const LIKELY_TOKENS: u32 = 2048;

/// What there is to try.
struct Ways {
    space: Space,
    /// Policies that need no trial.
    passed_over: Vec<PassedOver>,
    /// Bytes in CPU memory under each policy.
    host_bytes: Vec<(OffloadPolicy, u64)>,
}

impl MoeModel {
    /// Looks for the fastest threads, micro-batch, load mode, operation offload and policy on this
    /// machine, by short measured trials. Nothing happens before [`Tuner::run`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// use std::time::Duration;
    /// use moe_offload::MoeModel;
    /// let tuning = MoeModel::tune(demo)
    ///     .answers(64, 16) // a prompt of 64 tokens, an answer of 16
    ///     .time_limit(Duration::from_secs(2))
    ///     .run()?;
    /// println!("{tuning}");
    /// let model = tuning.chosen().apply(MoeModel::builder(demo)).load()?;
    /// # let _ = model;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tune(path: impl Into<PathBuf>) -> Tuner {
        Tuner::new(path.into())
    }
}

/// How far a tuning is, before each trial and after it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TuneProgress<'a> {
    /// The trial.
    pub attempt: &'a Attempt,
    /// The how-manieth, counted from 1.
    pub number: usize,
    /// What it came to; `None` before it begins.
    pub measured: Option<&'a Measured>,
}

type OnProgress = Box<dyn FnMut(&TuneProgress<'_>) + Send>;

/// What to tune for. Setters never fail; [`run`](Self::run) checks it all.
#[must_use = "nothing is measured before `run`"]
pub struct Tuner {
    path: PathBuf,
    context_tokens: Option<u32>,
    work: Work,
    budget_bytes: Option<u64>,
    policies: Vec<OffloadPolicy>,
    rpc_servers: Vec<String>,
    limits: Limits,
    cache: Option<PathBuf>,
    measure_again: bool,
    cancel: CancelHandle,
    on_progress: Option<OnProgress>,
}

impl std::fmt::Debug for Tuner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuner")
            .field("path", &self.path)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Tuner {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            context_tokens: None,
            work: Work { prompt_tokens: 512, answer_tokens: 64 },
            budget_bytes: None,
            policies: Vec::new(),
            rpc_servers: Vec::new(),
            limits: Limits::default(),
            cache: None,
            measure_again: false,
            cancel: CancelHandle::new(),
            on_progress: None,
        }
    }

    /// Tokens of the prompt and of the answer whose time is made small; 512 and 64 without it. Say what
    /// is usual for you: long prompts gain by other settings than long answers. At least 1 of the prompt and 2
    /// of the answer.
    pub fn answers(mut self, prompt_tokens: u32, answer_tokens: u32) -> Self {
        self.work = Work { prompt_tokens, answer_tokens };
        self
    }

    /// Tokens of the context; as in [`MoeModelBuilder::context_tokens`].
    pub fn context_tokens(self, context_tokens: u32) -> Self {
        Self { context_tokens: Some(context_tokens), ..self }
    }

    /// Bytes that may be used of each device; all that are free without it.
    pub fn budget_bytes(self, budget_bytes: u64) -> Self {
        Self { budget_bytes: Some(budget_bytes), ..self }
    }

    /// Adds a policy to try. Without any these are tried: `fit`, `none`, `all-experts`, and all experts
    /// but those of the last half of the layers.
    pub fn policy(mut self, policy: OffloadPolicy) -> Self {
        self.policies.push(policy);
        self
    }

    /// Adds the devices of an RPC server; as in [`MoeModelBuilder::rpc_server`].
    pub fn rpc_server(mut self, endpoint: impl Into<String>) -> Self {
        self.rpc_servers.push(endpoint.into());
        self
    }

    /// Time for everything, 10 minutes without it. A trial that has begun is ended, and so is the final
    /// check.
    pub fn time_limit(mut self, time: Duration) -> Self {
        self.limits.seconds = time.as_secs_f64();
        self
    }

    /// Keeps what is found in this file (JSON), and takes it from there the next time if machine, build,
    /// model and question are the same.
    pub fn cache(self, path: impl Into<PathBuf>) -> Self {
        Self { cache: Some(path.into()), ..self }
    }

    /// Measures even if the file holds an answer.
    pub fn measure_again(self, measure_again: bool) -> Self {
        Self { measure_again, ..self }
    }

    /// Lets `cancel` stop it.
    pub fn cancel(mut self, cancel: &CancelHandle) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Is told before and after each trial.
    pub fn on_progress(self, on_progress: impl FnMut(&TuneProgress<'_>) + Send + 'static) -> Self {
        Self { on_progress: Some(Box::new(on_progress)), ..self }
    }

    /// Measures, unless the file holds the answer and what it chose still fits. An answer that could not
    /// be kept says so in [`Tuning::not_kept`].
    ///
    /// # Errors
    /// [`Error::NothingLoads`] if no setting works at all; [`Error::TuneContext`];
    /// [`Error::TuneCache`], or [`Error::Io`] if nothing can be kept there;
    /// [`Error::Cancelled`]; [`Error::RpcLost`]; or what is wrong with the file or an option.
    pub fn run(mut self) -> Result<Tuning> {
        self.limits.check()?;
        self.work.check()?;
        let gguf = GgufFile::open(&self.path)?;
        let key = self.key(&gguf)?;
        if let Some(known) = self.known(&key)? {
            return Ok(known);
        }
        if let Some(path) = &self.cache {
            cache::check(path)?;
        }
        let Ways { space, passed_over, host_bytes } = self.ways(&key)?;
        // A policy that was not planned for has no more there than everything.
        let all_bytes: u64 = gguf.tensors().iter().map(|tensor| tensor.bytes).sum();
        let host_bytes = |policy: &OffloadPolicy| -> u64 {
            let planned = host_bytes.iter().find(|(known, _)| known == policy);
            planned.map_or(all_bytes, |(_, bytes)| *bytes)
        };
        let mut on_progress = self.on_progress.take();
        let mut number = 0;
        let found = search(&space, &self.limits, |attempt| {
            number += 1;
            let mut tell = |measured| {
                if let Some(on_progress) = &mut on_progress {
                    on_progress(&TuneProgress { attempt, number, measured });
                }
            };
            tell(None);
            let candidate = &attempt.candidate;
            let failed = |reason, shortage| Outcome::Failed { reason, shortage };
            let too_much = too_much_to_read(candidate, host_bytes(&candidate.policy));
            let hopeless = too_much.map(|reason| failed(reason, None)).or_else(|| {
                let planned = |one: &&PassedOver| *candidate == with_defaults(&one.policy);
                let known = passed_over.iter().find(planned)?;
                Some(failed(known.reason.clone(), Some(known.shortage.clone()?)))
            });
            let measured = if let Some(outcome) = hopeless {
                Measured { outcome, seconds: 0.0 }
            } else {
                let builder = candidate.apply(self.builder(&key));
                trial::measure(builder, attempt, self.work, &self.cancel)?
            };
            tell(Some(&measured));
            Ok(measured)
        })?;
        let limits = self.limits;
        let version = TUNING_VERSION;
        let (is_cached, not_kept) = (false, None);
        let mut tuning = Tuning { version, key, limits, passed_over, found, is_cached, not_kept };
        if let Some(path) = &self.cache {
            // Minutes of measuring are not lost for it.
            tuning.not_kept = cache::keep(path, &tuning).err().map(|error| error.to_string());
        }
        Ok(tuning)
    }

    /// What the file holds, if its setting still fits.
    fn known(&self, key: &TuneKey) -> Result<Option<Tuning>> {
        let Some(path) = self.cache.as_ref().filter(|_| !self.measure_again) else {
            return Ok(None);
        };
        let Some(known) = cache::find(path, key, &self.limits)? else { return Ok(None) };
        let chosen = known.chosen();
        let fits = match self.forecast(key, &chosen.policy, chosen.apply(self.builder(key)))? {
            Ok(plan) => too_much_to_read(chosen, host_bytes(&plan)).is_none(),
            Err(_) => false,
        };
        Ok(fits.then_some(known))
    }

    /// The plan of a candidate with this policy, or why it is not to be tried.
    fn forecast(
        &self,
        key: &TuneKey,
        policy: &OffloadPolicy,
        candidate: MoeModelBuilder,
    ) -> Result<Result<Plan, PassedOver>> {
        let policy = policy.clone();
        match candidate.cancel(&self.cancel).forecast() {
            Ok(plan) if plan.context_tokens() < key.context_tokens => {
                let (less, asked) = (plan.context_tokens(), key.context_tokens);
                let reason = format!("its context would have {less} tokens instead of {asked}");
                Ok(Err(PassedOver { policy, reason, shortage: None }))
            }
            Ok(plan) => Ok(Ok(plan)),
            Err(error @ (Error::Cancelled { .. } | Error::RpcLost { .. })) => Err(error),
            Err(error) => {
                let (reason, shortage) = (error.to_string(), Shortage::of(&error));
                Ok(Err(PassedOver { policy, reason, shortage }))
            }
        }
    }

    fn key(&self, gguf: &GgufFile) -> Result<TuneKey> {
        // The model is known by its fingerprint; what its file is called does not matter.
        let environment = Environment::look([("model", &*self.path)], &self.rpc_servers)?;
        let context =
            ContextOptions { context_tokens: self.context_tokens, ..ContextOptions::default() };
        let context_tokens = OffloadPolicy::None.plan(gguf, &[], &context)?.context_tokens();
        let Work { prompt_tokens, answer_tokens } = self.work;
        if prompt_tokens.saturating_add(answer_tokens) > context_tokens {
            return Err(Error::TuneContext { prompt_tokens, answer_tokens, context_tokens });
        }
        let half = ExpertMap::new(gguf)?.expert_layers().len() / 2;
        let mut policies = self.policies.clone();
        if policies.is_empty() {
            let half = (half > 0).then(|| format!("first-layers:{half}"));
            let known = ["fit", "none", "all-experts"].map(str::to_owned);
            let all = known.into_iter().chain(half);
            policies = all.map(|text| text.parse()).collect::<Result<_>>()?;
        }
        Ok(TuneKey {
            environment,
            context_tokens,
            prompt_tokens,
            answer_tokens,
            budget_bytes: self.budget_bytes,
            policies,
            rpc_servers: self.rpc_servers.clone(),
        })
    }

    /// The model with its context, servers and budget.
    fn builder(&self, key: &TuneKey) -> MoeModelBuilder {
        let builder = MoeModel::builder(&self.path).context_tokens(key.context_tokens);
        let builder = self.rpc_servers.iter().fold(builder, MoeModelBuilder::rpc_server);
        let Some(bytes) = self.budget_bytes else { return builder };
        let devices = key.environment.devices.iter();
        devices.fold(builder, |builder, device| builder.device_budget(&device.name, bytes))
    }

    /// What to try, and the policies that need no trial: they do not fit, or are another by another
    /// name.
    fn ways(&self, key: &TuneKey) -> Result<Ways> {
        let mut passed_over = Vec::new();
        let mut plans: Vec<(OffloadPolicy, Plan)> = Vec::new();
        for policy in &key.policies {
            // Nothing is said of the micro-batch, which may grow.
            let defaults = self.builder(key).policy(policy.clone());
            let plan = match self.forecast(key, policy, defaults)? {
                Ok(plan) => plan,
                Err(unfit) => {
                    passed_over.push(unfit);
                    continue;
                }
            };
            let same = plans.iter().find(|(_, other)| does_the_same(other, &plan));
            match same.map(|(other, _)| format!("the same places as {other}")) {
                None => plans.push((policy.clone(), plan)),
                Some(reason) => {
                    let policy = policy.clone();
                    passed_over.push(PassedOver { policy, reason, shortage: None });
                }
            }
        }
        let host_bytes = plans.iter().map(|(policy, plan)| (policy.clone(), host_bytes(plan)));
        let host_bytes = host_bytes.collect();
        let space = space(key, &plans);
        Ok(Ways { space, passed_over, host_bytes })
    }
}

/// Nothing but the policy is set.
fn with_defaults(policy: &OffloadPolicy) -> Candidate {
    Candidate { policy: policy.clone(), ..Candidate::defaults() }
}

/// What a model gets under this policy, of which that is the plan, if nothing else is said.
fn planned_defaults(policy: &OffloadPolicy, plan: &Plan) -> Candidate {
    let micro_batch_tokens = plan.context().micro_batch_tokens;
    Candidate { micro_batch_tokens, ..with_defaults(policy) }
}

/// What to try beside these policies.
fn space(key: &TuneKey, plans: &[(OffloadPolicy, Plan)]) -> Space {
    let devices = &key.environment.devices;
    let has_local = devices.iter().any(|device| device.kind != DeviceKind::Remote);
    let policies: Vec<OffloadPolicy> = plans.iter().map(|(policy, _)| policy.clone()).collect();
    // The defaults even if they were not among the policies to try: they are what is to be beaten.
    let planned = |(policy, plan): &(OffloadPolicy, Plan)| planned_defaults(policy, plan);
    let default_policy = OffloadPolicy::default();
    let defaults = plans.iter().find(|(policy, _)| *policy == default_policy).map(planned);
    let defaults = defaults.unwrap_or_else(Candidate::defaults);
    let mut references = vec![defaults.clone()];
    references.extend(plans.iter().map(planned).filter(|other| *other != defaults));
    // A device of this machine copies the experts that it computes for a prompt: faster from memory that it
    // reads directly, and less often with more tokens at once.
    let leaves_experts = |plan: &Plan| plan.device(CPU).is_some_and(|cpu| cpu.expert_bytes > 0);
    let of_this_machine = plans.iter().filter(|(_, plan)| has_local && leaves_experts(plan));
    let likely = of_this_machine.map(|(policy, _)| likely(policy, key.prompt_tokens)).collect();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cores = u32::try_from(cores).unwrap_or(1);
    let mut dimensions = vec![Dimension::Policy(policies)];
    if has_local {
        dimensions.push(Dimension::OperationOffload(vec![true, false]));
    }
    dimensions.push(Dimension::Threads(thread_counts(cores)));
    dimensions.push(Dimension::MicroBatch(micro_batches(key.prompt_tokens)));
    let mut modes = vec![LoadMode::Auto, LoadMode::Read];
    if !devices.is_empty() {
        // Without devices `auto` maps too.
        modes.push(LoadMode::Mapped);
    }
    dimensions.push(Dimension::LoadMode(modes));
    Space { references, likely, dimensions }
}

/// What is likely the best for prompts of so many tokens under a policy that leaves experts in CPU memory.
fn likely(policy: &OffloadPolicy, prompt_tokens: u32) -> Candidate {
    let useful = micro_batches(prompt_tokens).into_iter().filter(|&tokens| tokens <= LIKELY_TOKENS);
    let defaults = with_defaults(policy);
    let micro_batch_tokens = useful.max().unwrap_or(0).max(defaults.micro_batch_tokens);
    Candidate { micro_batch_tokens, load_mode: LoadMode::Read, ..defaults }
}

/// Whether there is nothing to choose between two plans: everything is in the same places, and nothing
/// was given up for it by one of them alone.
fn does_the_same(plan: &Plan, other: &Plan) -> bool {
    plan.tensors() == other.tensors()
        && plan.context() == other.context()
        && plan.decisions() == other.decisions()
        && plan.disk() == other.disk()
}

/// All that is in CPU memory: weights, cache and compute buffers.
fn host_bytes(plan: &Plan) -> u64 {
    plan.device(CPU).map_or(0, DevicePlan::besides_disk_cache)
}

/// Why not to load so: the weights would be read into more memory than there is. Where the system does
/// not tell how much that is, it is tried.
fn too_much_to_read(candidate: &Candidate, host_bytes: u64) -> Option<String> {
    if !candidate.load_mode.reads() {
        return None;
    }
    let available = available_bytes()?;
    let needed = host_bytes.saturating_add(HOST_MARGIN_BYTES);
    (needed > available).then(|| {
        let (needed, available) = (human_bytes(needed), human_bytes(available));
        format!("reading takes {needed} of CPU memory with a margin, {available} are available")
    })
}
