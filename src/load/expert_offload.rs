//! Where the experts in CPU memory are computed for a single token: by the CPU where they are, or by a device to which
//! those are copied that the token uses. Which is faster depends on the CPU's kernels and the bus, so it is tried.

use std::time::{Duration, Instant};

use super::trial;
use crate::engine::Context;
use crate::error::Result;
use crate::limits::Limits;
use crate::model::{ExpertOffload, OffloadTimes};

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

impl OffloadTimes {
    /// Where a single token's experts are best computed, in tokens from which a device does. A device that is faster
    /// with one token is so with more: they use as many experts as each of them alone at most, each copied once, and
    /// the CPU computes with all of them. Where the CPU is faster, the engine's number stays.
    fn best_from_tokens(self) -> Option<u32> {
        (self.device_seconds * HURDLE < self.cpu_seconds).then_some(1)
    }
}

impl ExpertOffload {
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
    context.truncate(0, None)?;
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
}
