//! Policies by names that mean something for every model.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{BenchError, BenchResult};
use crate::plan::{CPU, ContextOptions, Device};
use crate::{ExpertMap, GgufFile, OffloadPolicy};

/// A policy as the bench names it: any text of [`OffloadPolicy`], or one that depends on the model.
///
/// - `half`: the experts of the first half of the layers that have experts stay in CPU memory;
/// - `fit:50%`: `fit` with a budget of so many percent of what `none` needs on the devices for
///   weights, cache and the reserve for buffers (by the plan, without the engine).
///
/// ```
/// use moe_offload::bench::PolicyChoice;
/// let choice: PolicyChoice = "fit:50%".parse()?;
/// assert_eq!(choice.to_string(), "fit:50%");
/// assert!("fit:150%".parse::<PolicyChoice>().is_err());
/// # Ok::<(), moe_offload::bench::BenchError>(())
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

    /// The budget of `fit:50%`.
    pub(super) fn fit_percent(&self) -> Option<u64> {
        Self::percent(&self.0)?.parse().ok()
    }

    fn percent(text: &str) -> Option<&str> {
        text.strip_prefix("fit:")?.strip_suffix('%')
    }

    /// The policy for this file on these devices.
    ///
    /// # Errors
    /// What planning `none` returns; [`BenchError::PolicyName`] if the model is too small for `half`.
    pub fn resolve(
        &self,
        gguf: &GgufFile,
        devices: &[Device],
        context: &ContextOptions,
    ) -> BenchResult<OffloadPolicy> {
        if self.0 == "half" {
            let layers = ExpertMap::new(gguf)?.expert_layers().len() / 2;
            let reason = || "the model has fewer than two layers with experts".to_owned();
            let bad = || BenchError::PolicyName { text: self.0.clone(), reason: reason() };
            return match u32::try_from(layers) {
                Ok(layers) if layers > 0 => Ok(format!("first-layers:{layers}").parse()?),
                _ => Err(bad()),
            };
        }
        let Some(percent) = self.fit_percent() else {
            return Ok(self.0.parse()?);
        };
        let everything = OffloadPolicy::None.plan(gguf, devices, context)?;
        let on_devices = everything.devices().iter().filter(|device| device.name != CPU);
        let bytes: u64 = on_devices.map(|device| device.total_bytes).sum();
        let budget = u128::from(bytes) * u128::from(percent) / 100;
        Ok(format!("fit:{budget}").parse()?)
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
