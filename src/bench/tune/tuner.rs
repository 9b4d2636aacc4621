//! [`Tuner`]: the search over real loads.

use std::path::PathBuf;
use std::time::Duration;

use super::cache;
use super::candidate::{Candidate, Dimension, Space, micro_batches, thread_counts};
use super::search::{Attempt, Limits, Measured, search};
use super::trial::{self, Work};
use super::tuning::{TUNING_VERSION, TuneKey, Tuning};
use crate::bench::environment::Environment;
use crate::bench::error::{BenchError, BenchResult};
use crate::bench::protocol::{ModelChoice, Protocol};
use crate::cancel::CancelHandle;
use crate::plan::{DeviceKind, Plan};
use crate::{
    ContextOptions, Error, ExpertMap, GgufFile, LoadMode, MoeModel, MoeModelBuilder, OffloadPolicy,
};

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
    /// is usual for you: long prompts gain by other settings than long answers.
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

    /// Adds a policy to try. Without any these are tried: `none`, `fit`, `all-experts`, and all experts
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

    /// Measures, unless the file holds the answer.
    ///
    /// # Errors
    /// [`BenchError::NothingLoads`] if no setting works at all; [`BenchError::TuneContext`];
    /// [`BenchError::TuneCache`]; [`Error::Cancelled`]; [`Error::RpcLost`]; or what is wrong with the
    /// file or an option.
    pub fn run(mut self) -> BenchResult<Tuning> {
        let gguf = GgufFile::open(&self.path)?;
        let key = self.key(&gguf)?;
        if let Some(path) = self.cache.as_ref().filter(|_| !self.measure_again)
            && let Some(known) = cache::find(path, &key, &self.limits)?
        {
            return Ok(known);
        }
        let (space, passed_over) = self.space(&key)?;
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
            let builder = attempt.candidate.apply(self.builder(&key));
            let measured = trial::measure(builder, attempt, self.work, &self.cancel)?;
            tell(Some(&measured));
            Ok(measured)
        })?;
        let limits = self.limits;
        let version = TUNING_VERSION;
        let tuning = Tuning { version, key, limits, passed_over, found, is_cached: false };
        if let Some(path) = &self.cache {
            cache::keep(path, &tuning)?;
        }
        Ok(tuning)
    }

    fn key(&self, gguf: &GgufFile) -> BenchResult<TuneKey> {
        // The model is known by its fingerprint; what its file is called does not matter.
        let model = ModelChoice { name: "model".to_owned(), path: self.path.clone() };
        let mut protocol = Protocol::new(vec![model]);
        protocol.rpc_servers.clone_from(&self.rpc_servers);
        let environment = Environment::look(&protocol)?;
        let context =
            ContextOptions { context_tokens: self.context_tokens, ..ContextOptions::default() };
        let context_tokens = OffloadPolicy::None.plan(gguf, &[], &context)?.context_tokens();
        let Work { prompt_tokens, answer_tokens } = self.work;
        if prompt_tokens == 0 || answer_tokens < 2 {
            let value = format!("{prompt_tokens} and {answer_tokens}");
            let expected = "at least 1 token of prompt and 2 of answer";
            return Err(Error::InvalidOption { option: "answers", value, expected }.into());
        }
        if prompt_tokens.saturating_add(answer_tokens) > context_tokens {
            return Err(BenchError::TuneContext { prompt_tokens, answer_tokens, context_tokens });
        }
        let half = ExpertMap::new(gguf)?.expert_layers().len() / 2;
        let mut policies = self.policies.clone();
        if policies.is_empty() {
            let half = (half > 0).then(|| format!("first-layers:{half}"));
            let known = ["none", "fit", "all-experts"].map(str::to_owned);
            let all = known.into_iter().chain(half);
            policies = all.map(|text| text.parse()).collect::<crate::Result<_>>()?;
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
    fn space(&self, key: &TuneKey) -> BenchResult<(Space, Vec<(OffloadPolicy, String)>)> {
        let devices = &key.environment.devices;
        let defaults = Candidate::defaults();
        let mut passed_over = Vec::new();
        let mut plans: Vec<(OffloadPolicy, Plan)> = Vec::new();
        for policy in &key.policies {
            let candidate = Candidate { policy: policy.clone(), ..defaults.clone() };
            let reason = match candidate.apply(self.builder(key)).forecast() {
                Ok(plan) => {
                    let same = plans.iter().find(|(_, other)| other.tensors() == plan.tensors());
                    let Some((other, _)) = same else {
                        plans.push((policy.clone(), plan));
                        continue;
                    };
                    format!("the same places as {other}")
                }
                Err(Error::Cancelled { operation }) => {
                    return Err(Error::Cancelled { operation }.into());
                }
                Err(error) => error.to_string(),
            };
            passed_over.push((policy.clone(), reason));
        }
        let policies: Vec<OffloadPolicy> = plans.into_iter().map(|(policy, _)| policy).collect();
        let with =
            |policy: &OffloadPolicy| Candidate { policy: policy.clone(), ..defaults.clone() };
        // The defaults even if they were not among the policies to try: they are what is to be beaten.
        let mut references = vec![defaults.clone()];
        references.extend(policies.iter().map(with).filter(|other| *other != defaults));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cores = u32::try_from(cores).unwrap_or(1);
        let mut dimensions = vec![Dimension::Policy(policies)];
        if devices.iter().any(|device| device.kind != DeviceKind::Remote) {
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
        Ok((Space { references, dimensions }, passed_over))
    }
}
