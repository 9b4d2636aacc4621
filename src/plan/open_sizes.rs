//! What `fit` chooses where it is left open: the KV cache's type, the micro-batch, the context.

use super::estimate::answer_seconds;
use super::problem::{Compute, Problem, Sizes};
use super::{ContextOptions, Decision, OpenChoices, Plan, fallback, micro_batch};
use crate::context::MAX_CONTEXT_TOKENS;
use crate::error::{Error, Result};
use crate::gguf::{GgmlType, GgufFile, Value};
use crate::policy::Fit;

/// Micro-batches to choose from.
const MICRO_BATCHES: [u32; 5] = [512, 2048, 1024, 256, 128];
/// Another type of cache than the given one must make an answer faster by so much.
const KV_TYPE_HURDLE: f64 = 1.05;
/// Contexts grow in such steps.
const CONTEXT_STEP: u32 = 256;

/// The plan of a `fit`, with everything chosen that is left open.
pub(super) fn choose(
    problem: &Problem<'_>,
    fit: &Fit,
    (open, grows): (OpenChoices, bool),
    sizes: &Sizes,
    compute: &mut Compute<'_>,
) -> Result<Plan> {
    let (mut plan, mut sizes) = choose_types(problem, fit, open, sizes, compute)?;
    if grows
        && !open.micro_batch_tokens
        && let Some(larger) = micro_batch::for_fit(problem, fit, &sizes, &plan, compute)?
    {
        (plan, sizes) = larger;
    }
    if open.kv_type {
        plan.decisions.push(Decision::KvType { kv_type: sizes.context.kv_type });
    }
    if open.micro_batch_tokens {
        let micro_batch_tokens = sizes.context.micro_batch_tokens;
        plan.decisions.push(Decision::MicroBatch { micro_batch_tokens });
    }
    // A cache of unknown size has no room that could be known.
    let is_known = plan.devices().iter().all(|device| device.context_bytes.is_some());
    if open.context_tokens && is_known && plan.context() == &sizes.context {
        plan = grow(problem, fit, &sizes, plan, compute)?;
    }
    Ok(plan)
}

fn choose_types(
    problem: &Problem<'_>,
    fit: &Fit,
    open: OpenChoices,
    sizes: &Sizes,
    compute: &mut Compute<'_>,
) -> Result<(Plan, Sizes)> {
    let given_type = sizes.context.kv_type;
    let mut ranked: Vec<(f64, Sizes)> = Vec::new();
    let all = all_sizes(problem, open, sizes);
    if let [only] = &all[..] {
        return Ok((fallback::fitted(problem, fit, only, compute)?, only.clone()));
    }
    for sizes in &all {
        if let Ok(plan) = problem.fitted(sizes, fit, &mut Compute::Formula) {
            // A smaller type changes the text a little, so it has to be worth it.
            let is_given = sizes.context.kv_type == given_type;
            let weight = if is_given { 1.0 } else { KV_TYPE_HURDLE };
            ranked.push((answer_seconds(&plan) * weight, sizes.clone()));
        }
    }
    // Stable: of equals the one that comes nearest to the defaults.
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, sizes) in ranked {
        // The engine may refuse a type of cache, or need more than the formula says.
        if let Ok(plan) = problem.fitted(&sizes, fit, compute) {
            return Ok((plan, sizes));
        }
    }
    let smallest = all.last().unwrap_or(sizes);
    Ok((fallback::fitted(problem, fit, smallest, compute)?, smallest.clone()))
}

/// All sizes that may be chosen, those with the smallest buffers last.
fn all_sizes(problem: &Problem<'_>, open: OpenChoices, sizes: &Sizes) -> Vec<Sizes> {
    let given = &sizes.context;
    let mut micro_batches = vec![given.micro_batch_tokens];
    if open.micro_batch_tokens {
        let most = given.context_tokens.unwrap_or(u32::MAX).max(128);
        micro_batches = MICRO_BATCHES.into_iter().filter(|&tokens| tokens <= most).collect();
    }
    let mut kv_types = vec![given.kv_type];
    // The engine needs flash attention for it, which Grok cannot have.
    if open.kv_type && problem.experts.architecture() != "grok" {
        kv_types.extend(GgmlType::from_name("q8_0").filter(|&q8| is_smaller(problem, given, q8)));
    }
    let mut all = Vec::new();
    for kv_type in kv_types {
        for &micro_batch_tokens in &micro_batches {
            let batch_tokens = given.batch_tokens.max(micro_batch_tokens);
            let context =
                ContextOptions { batch_tokens, micro_batch_tokens, kv_type, ..given.clone() };
            all.push(Sizes { context, ..sizes.clone() });
        }
    }
    all
}

/// Whether a cache of this type takes less memory; not if the type does not divide its rows.
fn is_smaller(problem: &Problem<'_>, given: &ContextOptions, kv_type: GgmlType) -> bool {
    let block = |kv_type: GgmlType| kv_type.tensor_bytes(&[256]);
    let other = ContextOptions { kv_type, ..given.clone() };
    let is_possible = problem.cache.as_ref().is_none_or(|cache| cache.bytes(&other).is_some());
    is_possible && block(kv_type) < block(given.kv_type)
}

/// The same plan with as many context tokens as fit without taking an expert's place.
fn grow(
    problem: &Problem<'_>,
    fit: &Fit,
    sizes: &Sizes,
    plan: Plan,
    compute: &mut Compute<'_>,
) -> Result<Plan> {
    let default_tokens = plan.context_tokens();
    let most = trained_tokens(problem.gguf).unwrap_or(default_tokens);
    let on_devices = |plan: &Plan| plan.expert_bytes_on_devices();
    let experts = on_devices(&plan);
    let attempt = |steps: u32, compute: &mut Compute<'_>| -> Result<Option<Plan>> {
        let tokens = default_tokens.saturating_add(steps.saturating_mul(CONTEXT_STEP)).min(most);
        let mut sizes = sizes.clone();
        sizes.context.context_tokens = Some(tokens);
        match problem.fitted(&sizes, fit, compute) {
            Ok(plan) => Ok(Some(plan).filter(|plan| on_devices(plan) >= experts)),
            Err(Error::DoesNotFit { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let mut guess = compute.assumed();
    let (mut low, mut high) = (0, most.saturating_sub(default_tokens).div_ceil(CONTEXT_STEP));
    while low < high {
        let middle = high - (high - low) / 2;
        match attempt(middle, &mut guess)? {
            Some(_) => low = middle,
            None => high = middle - 1,
        }
    }
    // The attention mask grows with the context, so the guess may have been too good.
    while low > 0 {
        if let Some(mut grown) = attempt(low, compute)? {
            let context_tokens = grown.context_tokens();
            grown.decisions = plan.decisions;
            grown.decisions.push(Decision::LargerContext { context_tokens, default_tokens });
            return Ok(grown);
        }
        low = low * 7 / 8;
    }
    Ok(plan)
}

/// The longest context that the model was trained for, where its file says it.
pub(super) fn trained_tokens(gguf: &GgufFile) -> Option<u32> {
    let trained = gguf.hyper_parameter("context_length").and_then(Value::as_u64)?;
    u32::try_from(trained).ok().filter(|&n| n > 0 && n <= MAX_CONTEXT_TOKENS)
}
