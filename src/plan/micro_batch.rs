//! How large a micro-batch pays where nobody says it.
//!
//! Where experts are in CPU memory and a device computes prompts, it is given each expert once for every micro-batch.
//! So twice the tokens at once halve what crosses the bus, and take as much more of the device for intermediate
//! results, of which the scores of the vocabulary are the most.

use super::estimate::answer_seconds;
use super::problem::{Compute, Problem, Sizes};
use super::{CPU, ContextOptions, Decision, DevicePlan, Plan};
use crate::error::{Error, Result};
use crate::policy::Fit;

/// The sizes to grow to. On an H200 with GPT-OSS 20B's experts in CPU memory 2048 read prompts 2.8 to 4 times as fast as
/// 512; more than the default batch would take memory for tokens that are never there at once.
const LARGER: [u32; 2] = [2048, 1024];

/// The same sizes with larger micro-batches, the largest first.
fn larger(sizes: &Sizes) -> impl Iterator<Item = Sizes> {
    let given = &sizes.context;
    let most = given.batch_tokens.min(given.context_tokens.unwrap_or(u32::MAX));
    let tokens = LARGER.into_iter().filter(move |&n| n > given.micro_batch_tokens && n <= most);
    tokens.map(|micro_batch_tokens| Sizes {
        context: ContextOptions { micro_batch_tokens, ..given.clone() },
        ..sizes.clone()
    })
}

/// Under a fixed policy: the largest with which every device has the memory. `plan` is the one for `sizes`.
pub(super) fn for_fixed(
    problem: &Problem<'_>,
    sizes: &Sizes,
    plan: Plan,
    compute: &mut Compute<'_>,
) -> Result<Plan> {
    if !plan.offloads_experts(problem.devices) {
        return Ok(plan);
    }
    for larger in larger(sizes) {
        let mut candidate = problem.as_the_engine_deals(&larger, compute)?;
        if surely_fits(problem, &larger, &candidate) {
            candidate.decisions.push(decision(&larger));
            return Ok(candidate);
        }
    }
    Ok(plan)
}

/// Whether every device has the memory for what it gets, which is known of all of them.
fn surely_fits(problem: &Problem<'_>, sizes: &Sizes, plan: &Plan) -> bool {
    let unknown = super::compute_reserve(problem.gguf, &sizes.context);
    let is_idle = |device: &DevicePlan| device.layers == 0 && device.weights_bytes == 0;
    let fits = |device: &DevicePlan| {
        let buffers = if device.knows_compute() { 0 } else { unknown };
        let needed = device.total_bytes.saturating_add(buffers);
        device.context_bytes.is_some() && device.free_bytes.is_some_and(|free| needed <= free)
    };
    plan.devices()
        .iter()
        .filter(|device| device.name != CPU)
        .all(|device| is_idle(device) || fits(device))
}

/// Under `fit`: the one with which a long prompt and its answer take least time by the estimate, experts that leave the
/// device for larger buffers counted. `None` where that is the given one, or something had to be given up.
pub(super) fn for_fit(
    problem: &Problem<'_>,
    fit: &Fit,
    sizes: &Sizes,
    plan: &Plan,
    compute: &mut Compute<'_>,
) -> Result<Option<(Plan, Sizes)>> {
    let is_whole = plan.context() == &sizes.context && plan.decisions().is_empty();
    if !is_whole || fit.ram_bytes.is_some() || !plan.offloads_experts(problem.devices) {
        return Ok(None);
    }
    let guessed = |sizes: &Sizes| {
        let plan = problem.fitted(sizes, fit, &mut Compute::Formula).ok()?;
        Some(answer_seconds(&plan))
    };
    let Some(now) = guessed(sizes) else { return Ok(None) };
    let mut ranked: Vec<(f64, Sizes)> = larger(sizes)
        .filter_map(|larger| Some((guessed(&larger)?, larger)))
        .filter(|(seconds, _)| *seconds < now)
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, larger) in ranked {
        match problem.fitted(&larger, fit, compute) {
            // The engine's own figures have the last word.
            Ok(mut candidate) if answer_seconds(&candidate) < answer_seconds(plan) => {
                candidate.decisions.push(decision(&larger));
                return Ok(Some((candidate, larger)));
            }
            Ok(_) | Err(Error::DoesNotFit { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn decision(sizes: &Sizes) -> Decision {
    Decision::MicroBatch { micro_batch_tokens: sizes.context.micro_batch_tokens }
}
