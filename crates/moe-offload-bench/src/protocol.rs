//! What is to be measured, as a value.

use std::collections::BTreeSet;
use std::path::PathBuf;

use moe_offload::tune::Candidate;
use moe_offload::{ContextOptions, LoadMode};
use serde::{Deserialize, Serialize};

use super::error::{BenchError, BenchResult};
use super::policy_spec::PolicyChoice;

/// The version of [`Protocol`]: it changes when the same values would mean another measurement.
pub const PROTOCOL_VERSION: u32 = 1;

/// Everything that a run measures: each model under each policy, for each context, number of threads
/// and micro-batch, so many times. Two runs of equal protocols did the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// The models.
    pub models: Vec<ModelChoice>,
    /// The policies.
    pub policies: Vec<PolicyChoice>,
    /// Which of them the others are compared with.
    pub baseline: PolicyChoice,
    /// The prompts; each is computed from its first token.
    pub prompts: Vec<Prompt>,
    /// Tokens of the context.
    pub context_tokens: Vec<u32>,
    /// Threads that compute on the CPU.
    pub threads: Vec<u32>,
    /// Tokens computed at once while a prompt is read.
    pub micro_batch_tokens: Vec<u32>,
    /// How often each is measured, in turn: A B A B.
    pub repetitions: u32,
    /// Rounds over all prompts, after each load, that are not measured.
    pub warm_up_rounds: u32,
    /// Most tokens of an answer.
    pub answer_tokens: u64,
    /// The sampler's seed. Sampling is greedy, so that every policy does the same work.
    pub seed: u32,
    /// How weights in CPU memory come from the file.
    pub load_mode: LoadMode,
    /// RPC servers whose devices are used, as `host:port`.
    pub rpc_servers: Vec<String>,
    /// Whether to look at the quality of the text.
    pub quality: Option<QualityProtocol>,
    /// Whether to count which experts the baseline uses, in a load of its own.
    pub expert_use: bool,
}

/// A model to measure.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelChoice {
    /// What reports call it.
    pub name: String,
    /// The GGUF file; of a split model the first.
    pub path: PathBuf,
}

/// A text to continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// What reports call it.
    pub name: String,
    /// The text, given to the model as it is, without a chat template.
    pub text: String,
}

/// How quality is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QualityProtocol {
    /// The text to predict.
    pub text: String,
    /// Most tokens of it.
    pub text_tokens: u32,
    /// Tokens of the greedy continuation.
    pub greedy_tokens: u32,
}

impl Default for QualityProtocol {
    fn default() -> Self {
        let text = include_str!("../../../src/tune/texts/quality.txt").to_owned();
        Self { text, text_tokens: 512, greedy_tokens: 1100 }
    }
}

impl Protocol {
    /// The default protocol for these models: four kinds of prompt, six policies, five repetitions.
    pub fn new(models: Vec<ModelChoice>) -> Self {
        let policy = |text: &str| PolicyChoice::try_from(text.to_owned());
        let policies = ["none", "all-experts", "half", "fit:25%", "fit:50%", "fit:75%"].map(policy);
        Self {
            version: PROTOCOL_VERSION,
            models,
            policies: policies.into_iter().flatten().collect(),
            baseline: PolicyChoice::none(),
            prompts: default_prompts(),
            context_tokens: vec![2048],
            threads: vec![Candidate::defaults().threads],
            micro_batch_tokens: vec![512],
            repetitions: 5,
            warm_up_rounds: 1,
            answer_tokens: 64,
            seed: 1,
            load_mode: LoadMode::Auto,
            rpc_servers: Vec::new(),
            quality: Some(QualityProtocol::default()),
            expert_use: false,
        }
    }

    /// Whether it can be run.
    ///
    /// # Errors
    /// [`BenchError::Protocol`] for another version, an empty list, a size of 0, a size or name that is there
    /// twice, or a baseline that is none of the policies.
    pub fn check(&self) -> BenchResult<()> {
        let bad = |what: String| Err(BenchError::Protocol { what });
        if self.version != PROTOCOL_VERSION {
            return bad(format!("its version is {}, not {PROTOCOL_VERSION}", self.version));
        }
        for (what, count) in [
            ("models", self.models.len()),
            ("policies", self.policies.len()),
            ("prompts", self.prompts.len()),
            ("context_tokens", self.context_tokens.len()),
            ("threads", self.threads.len()),
            ("micro_batch_tokens", self.micro_batch_tokens.len()),
            ("repetitions", self.repetitions as usize),
        ] {
            if count == 0 {
                return bad(format!("it has no {what}"));
            }
        }
        for (what, values) in [
            ("context_tokens", &self.context_tokens),
            ("threads", &self.threads),
            ("micro_batch_tokens", &self.micro_batch_tokens),
        ] {
            if values.contains(&0) {
                return bad(format!("{what} is 0 in it; the smallest is 1"));
            }
            let mut seen = BTreeSet::new();
            if let Some(value) = values.iter().find(|value| !seen.insert(**value)) {
                return bad(format!("{what} is {value} in it twice"));
            }
        }
        if self.answer_tokens == 0 {
            return bad("answer_tokens is 0; the smallest is 1".to_owned());
        }
        let names = |names: Vec<&str>| {
            let mut seen = BTreeSet::new();
            names.into_iter().find(|name| !seen.insert(*name)).map(str::to_owned)
        };
        let models = names(self.models.iter().map(|model| model.name.as_str()).collect());
        let policies = names(self.policies.iter().map(PolicyChoice::as_str).collect());
        let prompts = names(self.prompts.iter().map(|prompt| prompt.name.as_str()).collect());
        if let Some(name) = models.or(policies).or(prompts) {
            return bad(format!("`{name}` is in it twice"));
        }
        if !self.policies.contains(&self.baseline) {
            return bad(format!("its baseline `{}` is none of its policies", self.baseline));
        }
        Ok(())
    }

    /// The model of this name.
    pub fn model(&self, name: &str) -> Option<&ModelChoice> {
        self.models.iter().find(|model| model.name == name)
    }
}

/// One point of a protocol: a model under a policy with certain sizes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Setting {
    /// The model's name.
    pub model: String,
    /// The policy.
    pub policy: PolicyChoice,
    /// Tokens of the context.
    pub context_tokens: u32,
    /// Threads that compute on the CPU.
    pub threads: u32,
    /// Tokens computed at once while a prompt is read.
    pub micro_batch_tokens: u32,
}

impl Setting {
    /// The same under another policy.
    #[must_use]
    pub fn under(&self, policy: &PolicyChoice) -> Self {
        Self { policy: policy.clone(), ..self.clone() }
    }

    /// The sizes as a plan wants them.
    pub fn context(&self) -> ContextOptions {
        let mut context = ContextOptions::with_context_tokens(self.context_tokens);
        context.micro_batch_tokens = self.micro_batch_tokens;
        context.micro_batch_grows = false;
        context
    }
}

/// The four kinds of prompt: short, medium, code and long.
pub fn default_prompts() -> Vec<Prompt> {
    let prompt = |name: &str, text: &str| Prompt { name: name.into(), text: text.into() };
    vec![
        prompt("short", include_str!("prompts/short.txt")),
        prompt("medium", include_str!("prompts/medium.txt")),
        prompt("code", include_str!("prompts/code.txt")),
        prompt("long", include_str!("../../../src/tune/texts/long.txt")),
    ]
}
