//! What `fit` gives up when not even the parts fit that every token needs.

use super::problem::{Compute, Problem, Sizes};
use super::{Decision, Plan};
use crate::error::{Error, Result};
use crate::policy::{Fallback, Fit};

/// Steps by which a context shrinks: the engine's cells come in such numbers.
const CONTEXT_STEP: u32 = 256;

/// The plan that fits, giving up what the policy allows: as few of its fallbacks as possible,
/// from the first on, and of each as little as will do.
pub(super) fn fitted(
    problem: &Problem<'_>,
    fit: &Fit,
    sizes: &Sizes,
    compute: &mut Compute<'_>,
) -> Result<Plan> {
    let mut failure = match problem.fitted(sizes, fit, compute) {
        Err(failure @ Error::DoesNotFit { .. }) => failure,
        other => return other,
    };
    for used in 1..=fit.fallbacks.len() {
        let ladder = Ladder { problem, fit, sizes, fallbacks: &fit.fallbacks[..used] };
        // Buffers depend on what is given up, so they are measured anew.
        if let Err(less) = problem.fitted(&ladder.at(&ladder.all()), fit, compute) {
            // What is told is the least that would do.
            failure = least(failure, less)?;
        } else {
            let levels = ladder.lowest(&mut compute.assumed())?.unwrap_or_else(|| ladder.all());
            if let Some(plan) = ladder.climb(levels, compute)? {
                return Ok(plan);
            }
        }
    }
    Err(failure)
}

/// The one that lacks less; an error of another kind goes on as it is.
fn least(failure: Error, other: Error) -> Result<Error> {
    match (&failure, other) {
        (
            Error::DoesNotFit { needed_bytes: more, .. },
            other @ Error::DoesNotFit { needed_bytes, .. },
        ) => Ok(if needed_bytes <= *more { other } else { failure }),
        (_, other) => Err(other),
    }
}

/// Some fallbacks, each with levels from 0, nothing given up, to its highest.
struct Ladder<'a> {
    problem: &'a Problem<'a>,
    fit: &'a Fit,
    sizes: &'a Sizes,
    fallbacks: &'a [Fallback],
}

impl Ladder<'_> {
    fn highest(&self, fallback: Fallback) -> u32 {
        match fallback {
            // The output stays on a device.
            Fallback::FewerLayers => self.problem.experts.layers(),
            Fallback::CacheToHost => u32::from(!self.sizes.context.cache_on_host),
            Fallback::SmallerContext { at_least_tokens } => {
                self.asked_tokens().saturating_sub(at_least_tokens).div_ceil(CONTEXT_STEP)
            }
        }
    }

    /// Everything given up.
    fn all(&self) -> Vec<u32> {
        self.fallbacks.iter().map(|&fallback| self.highest(fallback)).collect()
    }

    fn asked_tokens(&self) -> u32 {
        self.sizes.context.context_tokens.unwrap_or(0)
    }

    fn at(&self, levels: &[u32]) -> Sizes {
        let mut sizes = self.sizes.clone();
        for (&fallback, &level) in self.fallbacks.iter().zip(levels).filter(|&(_, &n)| n > 0) {
            match fallback {
                Fallback::FewerLayers => sizes.host_layers = level,
                Fallback::CacheToHost => sizes.context.cache_on_host = true,
                Fallback::SmallerContext { at_least_tokens } => {
                    let less = self.asked_tokens().saturating_sub(level * CONTEXT_STEP);
                    sizes.context.context_tokens = Some(less.max(at_least_tokens));
                }
            }
        }
        sizes
    }

    /// The plan at these levels, if it fits.
    fn try_at(&self, levels: &[u32], compute: &mut Compute<'_>) -> Result<Option<Plan>> {
        match self.problem.fitted(&self.at(levels), self.fit, compute) {
            Ok(plan) => Ok(Some(plan)),
            Err(Error::DoesNotFit { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lowest levels that fit, by a guess at the compute buffers: first of the last resort.
    fn lowest(&self, guess: &mut Compute<'_>) -> Result<Option<Vec<u32>>> {
        let mut levels = self.all();
        if self.try_at(&levels, guess)?.is_none() {
            return Ok(None);
        }
        for i in (0..levels.len()).rev() {
            let (mut low, mut high) = (0, levels[i]);
            while low < high {
                levels[i] = low.midpoint(high);
                match self.try_at(&levels, guess)? {
                    Some(_) => high = levels[i],
                    None => low = levels[i] + 1,
                }
            }
            levels[i] = high;
        }
        Ok(Some(levels))
    }

    /// The first plan that really fits, from these levels upwards.
    fn climb(&self, mut levels: Vec<u32>, compute: &mut Compute<'_>) -> Result<Option<Plan>> {
        loop {
            if let Some(mut plan) = self.try_at(&levels, compute)? {
                plan.decisions = self.decisions(&levels);
                return Ok(Some(plan));
            }
            let can_rise = |&i: &usize| levels[i] < self.highest(self.fallbacks[i]);
            match (0..levels.len()).find(can_rise) {
                Some(i) => levels[i] += 1,
                None => return Ok(None),
            }
            // What was measured last may tell that much more is needed.
            let more = self.lowest(&mut compute.assumed())?;
            levels =
                more.filter(|more| more.iter().rev().gt(levels.iter().rev())).unwrap_or(levels);
        }
    }

    fn decisions(&self, levels: &[u32]) -> Vec<Decision> {
        let sizes = self.at(levels);
        let given_up = self.fallbacks.iter().zip(levels).filter(|&(_, &level)| level > 0);
        given_up
            .map(|(fallback, _)| match fallback {
                Fallback::FewerLayers => Decision::FewerLayers { host_layers: sizes.host_layers },
                Fallback::CacheToHost => Decision::CacheToHost,
                Fallback::SmallerContext { .. } => Decision::SmallerContext {
                    context_tokens: sizes.context.context_tokens.unwrap_or(0),
                    asked_tokens: self.asked_tokens(),
                },
            })
            .collect()
    }
}
