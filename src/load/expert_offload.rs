//! Where the experts in CPU memory are computed for a single token: by the CPU where they are, or by a device to which
//! those are copied that the token uses. Which is faster depends on the CPU's kernels and the bus, so it is tried.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::engine::Context;
use crate::error::Result;
use crate::limits::Limits;
use crate::trial;

/// How long trying takes, if it need not take longer.
const BUDGET: Duration = Duration::from_millis(500);
/// Of a machine on which the first round takes so long it is the only one.
const LONG_ROUND: Duration = Duration::from_secs(2);
/// Most rounds, for models whose tokens take next to nothing.
const MOST_ROUNDS: usize = 8;
/// Tokens that are timed in each round but the first, which times one.
const TIMED_TOKENS: u32 = 3;
/// A device must be faster by so much, as what changes is also where a token's last bits come from.
const HURDLE: f64 = 1.05;
/// Tokens that a round leaves in the context.
pub(crate) const NEEDED_TOKENS: u32 = 2 + TIMED_TOKENS;

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

impl OffloadTimes {
    /// Where a single token's experts are best computed, in tokens from which a device does. A device that is faster
    /// with one token is so with more: they use as many experts as each of them alone at most, each copied once, and
    /// the CPU computes with all of them. Where the CPU is faster, the engine's number stays.
    fn best_from_tokens(self) -> Option<u32> {
        (self.device_seconds * HURDLE < self.cpu_seconds).then_some(1)
    }
}

impl ExpertOffload {
    /// As it was set.
    pub(crate) fn fixed(from_tokens: Option<u32>) -> Self {
        Self { from_tokens, measured: None }
    }

    /// Tries both on this model, whose context must be empty, and is so afterwards.
    ///
    /// # Errors
    /// That of the limits, or what the engine reports.
    pub(crate) fn measure(context: &mut Context, limits: &Limits) -> Result<Self> {
        context.watch(limits);
        let chosen = measure(context).and_then(|times| {
            let from_tokens = times.best_from_tokens();
            context.offload_from(from_tokens);
            // The last graph of what was tried shall not be used again.
            side_of_round(context, 0).map(|_| (from_tokens, times))
        });
        context.watch(&Limits::default());
        let (from_tokens, times) = chosen?;
        Ok(Self { from_tokens, measured: Some(times) })
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

/// Both sides in turn, so that what else the machine does meets both.
fn measure(context: &mut Context) -> Result<OffloadTimes> {
    let started = Instant::now();
    let mut least = [Duration::MAX; 2];
    for round in 0..MOST_ROUNDS {
        let timed = if round == 0 { 1 } else { TIMED_TOKENS };
        for (side, from) in [None, Some(1)].into_iter().enumerate() {
            context.offload_from(from);
            for time in side_of_round(context, timed)? {
                least[side] = least[side].min(time);
            }
        }
        let spent = started.elapsed();
        if spent > LONG_ROUND || (round > 0 && spent > BUDGET) {
            break;
        }
    }
    let [cpu, device] = least.map(|time| time.as_secs_f64());
    Ok(OffloadTimes { cpu_seconds: cpu, device_seconds: device })
}

/// How long each of some tokens takes, from an empty context on.
fn side_of_round(context: &mut Context, timed: u32) -> Result<Vec<Duration>> {
    // The engine uses a graph again as long as batches have the same size, and would not ask where to compute it.
    trial::compute(context, &trial::tokens(context, 2))?;
    let tokens = trial::tokens(context, timed);
    let times = tokens.iter().map(|&token| {
        let started = Instant::now();
        trial::compute(context, &[token])?;
        Ok(started.elapsed())
    });
    let times = times.collect::<Result<_>>()?;
    context.keep(0, None)?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_chosen_where_it_is_clearly_faster() {
        let best = |cpu_seconds, device_seconds| {
            OffloadTimes { cpu_seconds, device_seconds }.best_from_tokens()
        };
        // An H200 over PCIe 5 beside 8 threads: 16.7 against 29.8 tokens/s.
        assert_eq!(best(1.0 / 16.7, 1.0 / 29.8), Some(1));
        assert_eq!(best(0.060, 0.058), None);
        assert_eq!(best(0.060, 0.060 / 1.05), None);
        assert_eq!(best(0.060, 0.057), Some(1));
        assert_eq!(best(0.030, 0.060), None);
    }

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
