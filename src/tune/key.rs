//! Which question a tuning answers.

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use crate::OffloadPolicy;

/// What a tuning holds for: this question, on this machine, for this file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TuneKey {
    /// The machine, the build and the model.
    pub environment: Environment,
    /// Tokens of the context.
    pub context_tokens: u32,
    /// Tokens of the prompt that is measured.
    pub prompt_tokens: u32,
    /// Tokens of the answer that is measured.
    pub answer_tokens: u32,
    /// Bytes that may be used of each device; `None` for all that are free.
    pub budget_bytes: Option<u64>,
    /// The policies that were tried.
    pub policies: Vec<OffloadPolicy>,
    /// RPC servers whose devices are used.
    pub rpc_servers: Vec<String>,
}

impl TuneKey {
    /// Whether both ask the same on the same machine. The time does not matter, nor does free memory: a
    /// stored answer is looked at again for that, and not used if what did not fit then may fit now, or
    /// what it chose does not.
    pub fn is_for(&self, other: &Self) -> bool {
        let sizes = |environment: &Environment| -> Vec<Option<u64>> {
            environment.devices.iter().map(|device| device.total_bytes).collect()
        };
        let (ours, theirs) = (&self.environment, &other.environment);
        let question = |key: &Self| {
            let Self { context_tokens, prompt_tokens, answer_tokens, budget_bytes, .. } = *key;
            (context_tokens, prompt_tokens, answer_tokens, budget_bytes)
        };
        ours.differs(theirs).is_none()
            && ours.memory_bytes == theirs.memory_bytes
            && sizes(ours) == sizes(theirs)
            && question(self) == question(other)
            && self.policies == other.policies
            && self.rpc_servers == other.rpc_servers
    }
}
