//! Policies by names that mean something for every model.

use std::fmt;
use std::str::FromStr;

use moe_offload::{ExpertMap, GgufFile, OffloadPolicy};
use serde::{Deserialize, Serialize};

use super::error::{BenchError, BenchResult};

/// A policy as the bench names it: any text of [`OffloadPolicy`], or one that depends on the model.
///
/// - `half`: the experts of the first half of the layers that have experts stay in CPU memory;
/// - `fit:50%`: `fit` with a budget, for each device, of what `all-experts` needs on the device where
///   it needs most, by a dry run of the engine, and so many percent of all experts' bytes besides.
///
/// ```
/// use moe_offload_bench::PolicyChoice;
/// let choice: PolicyChoice = "fit:50%".parse()?;
/// assert_eq!(choice.to_string(), "fit:50%");
/// assert!("fit:150%".parse::<PolicyChoice>().is_err());
/// # Ok::<(), moe_offload_bench::BenchError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PolicyChoice(String);

impl PolicyChoice {
    /// The baseline of the default protocol: nothing but the token embedding in CPU memory.
    pub fn none() -> Self {
        Self("none".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it places anything differently from other policies only where there is a device: all but
    /// those that leave experts on disk.
    pub fn needs_device(&self) -> bool {
        !self.0.contains("disk") && !self.0.contains("ram:")
    }

    /// The budget of `fit:50%`.
    pub(super) fn fit_percent(&self) -> Option<u64> {
        Self::percent(&self.0)?.parse().ok()
    }

    fn percent(text: &str) -> Option<&str> {
        text.strip_prefix("fit:")?.strip_suffix('%')
    }

    /// The policy for this file; `all_experts` tells what `all-experts` needs on the device where it
    /// needs most, which only the engine knows.
    pub(super) fn resolve(
        &self,
        gguf: &GgufFile,
        all_experts: impl FnOnce() -> BenchResult<u64>,
    ) -> BenchResult<OffloadPolicy> {
        let experts = ExpertMap::new(gguf)?;
        if self.0 == "half" {
            let layers = u32::try_from(experts.expert_layers().len() / 2).unwrap_or(0);
            if layers == 0 {
                let reason = "the model has fewer than two layers with experts".to_owned();
                return Err(BenchError::PolicyName { text: self.0.clone(), reason });
            }
            return Ok(format!("first-layers:{layers}").parse()?);
        }
        let Some(percent) = self.fit_percent() else {
            return Ok(self.0.parse()?);
        };
        let bytes = u128::from(experts.expert_bytes()) * u128::from(percent) / 100;
        let budget = u128::from(all_experts()?) + bytes;
        Ok(format!("fit:{budget}B").parse()?)
    }
}

impl fmt::Display for PolicyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PolicyChoice {
    type Err = BenchError;

    fn from_str(text: &str) -> BenchResult<Self> {
        let bad = |reason: String| BenchError::PolicyName { text: text.to_owned(), reason };
        if let Some(percent) = Self::percent(text) {
            let number = percent.parse::<u8>().ok().filter(|n| (1..=100).contains(n));
            number.ok_or_else(|| bad("a percentage is from 1 to 100".to_owned()))?;
        } else if text != "half" {
            text.parse::<OffloadPolicy>().map_err(|error| bad(error.to_string()))?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<PolicyChoice> for String {
    fn from(choice: PolicyChoice) -> Self {
        choice.0
    }
}

impl TryFrom<String> for PolicyChoice {
    type Error = BenchError;

    fn try_from(text: String) -> BenchResult<Self> {
        text.parse()
    }
}
