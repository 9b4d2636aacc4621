//! Solves for a plan: first where things go, then what stays on disk.

use super::kv_cache::KvCache;
use super::problem::{Compute, Problem, Sizes};
use super::{
    ContextOptions, Device, Plan, check_devices, check_offload, default_place, micro_batch,
    open_sizes, rules, summary,
};
use crate::error::Result;
use crate::experts::ExpertMap;
use crate::gguf::GgufFile;
use crate::policy::OffloadPolicy;

/// Makes the plan of a policy.
pub(crate) fn plan(
    policy: &OffloadPolicy,
    gguf: &GgufFile,
    devices: &[Device],
    context: &ContextOptions,
    compute: &mut Compute<'_>,
) -> Result<Plan> {
    solve(policy, gguf, devices, context, compute).map_err(|error| error.under(policy))
}

fn solve(
    policy: &OffloadPolicy,
    gguf: &GgufFile,
    devices: &[Device],
    context: &ContextOptions,
    compute: &mut Compute<'_>,
) -> Result<Plan> {
    check_devices(devices)?;
    let (open, grows) = (context.open, context.micro_batch_grows);
    if policy.fit().is_none() {
        open.check_none()?;
    }
    let context = context.resolve(open_sizes::trained_tokens(gguf))?;
    check_offload(&context, devices)?;
    let experts = ExpertMap::new(gguf)?;
    let problem = Problem {
        rules: rules::compile(policy, gguf, &experts, devices)?,
        model: summary(gguf, &experts),
        cache: KvCache::new(gguf),
        policy,
        gguf,
        devices,
        experts,
    };
    let sizes = Sizes { context, host_layers: 0 };
    let fit = policy.fit();
    let mut plan = match fit {
        Some(fit) if !devices.is_empty() => {
            open_sizes::choose(&problem, fit, (open, grows), &sizes, compute)?
        }
        _ => {
            let plan = problem.as_the_engine_deals(&sizes, compute)?;
            if grows { micro_batch::for_fixed(&problem, &sizes, plan, compute)? } else { plan }
        }
    };
    let (resolved, _) = default_place::resolve_all(&problem.experts, &problem.rules, 0)?;
    let ram_bytes = fit.and_then(|fit| fit.ram_bytes);
    plan.settle_disk(&problem.experts, &resolved, ram_bytes)?;
    if plan.disk.is_some()
        && let Some(exact) = compute.dry_run(&plan)?
    {
        // Experts on disk are computed on the CPU alone, whose buffers may be others.
        plan.refine(&exact);
        plan.size_cache(ram_bytes)?;
    }
    plan.check_device_count()?;
    Ok(plan)
}
