//! Where a token's experts in CPU memory are computed, as data.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where experts in CPU memory are computed, and how that came about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExpertOffload {
    /// Tokens from which a device computes them, to which they are copied for it. `None`: from the engine's own number,
    /// which is 32 unless the environment variable `GGML_OP_OFFLOAD_MIN_BATCH` says otherwise.
    pub from_tokens: Option<u32>,
    /// What a measurement while loading found; `None` where
    /// [`expert_offload_tokens`](crate::MoeModelBuilder::expert_offload_tokens) was set, or it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<OffloadTimes>,
}

/// How long a token takes, the least that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OffloadTimes {
    /// Seconds with the experts computed by the CPU, where they are.
    pub cpu_seconds: f64,
    /// Seconds with the experts that it uses copied to a device and computed there.
    pub device_seconds: f64,
}

impl ExpertOffload {
    /// As it was set.
    pub(crate) fn fixed(from_tokens: Option<u32>) -> Self {
        Self { from_tokens, measured: None }
    }
}

impl fmt::Display for ExpertOffload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from_tokens {
            Some(tokens) => {
                let s = if tokens == 1 { "" } else { "s" };
                write!(
                    f,
                    "experts in CPU memory are computed on a device from {tokens} token{s} on"
                )?;
            }
            None => {
                f.write_str("experts in CPU memory are computed by the CPU, but for prompts")?;
            }
        }
        if let Some(OffloadTimes { cpu_seconds, device_seconds }) = self.measured {
            let (device, cpu) = (device_seconds * 1e3, cpu_seconds * 1e3);
            write!(f, " (a token: {device:.2} ms on the device, {cpu:.2} ms on the CPU)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_chosen_and_what_was_measured() {
        let measured = Some(OffloadTimes { cpu_seconds: 0.0602, device_seconds: 0.0312 });
        let chosen = ExpertOffload { from_tokens: Some(1), measured };
        assert_eq!(
            chosen.to_string(),
            "experts in CPU memory are computed on a device from 1 token on (a token: 31.20 ms on the device, 60.20 ms on the CPU)"
        );
        assert!(ExpertOffload::fixed(Some(8)).to_string().ends_with("from 8 tokens on"));
        assert!(ExpertOffload::fixed(None).to_string().ends_with("by the CPU, but for prompts"));
        let json = serde_json::to_string(&chosen).unwrap();
        assert_eq!(serde_json::from_str::<ExpertOffload>(&json).unwrap(), chosen);
    }
}
