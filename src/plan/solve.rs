//! Solves for a plan: first where things go, then what stays on disk.

use super::kv_cache::KvCache;
use super::problem::{Compute, Setting, Task};
use super::{
    ContextOptions, Device, Plan, check_devices, check_offload, choice, homes, micro_batch, rules,
    summary,
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
    let context = context.resolve(choice::trained_tokens(gguf))?;
    check_offload(&context, devices)?;
    let experts = ExpertMap::new(gguf)?;
    let task = Task {
        rules: rules::compile(policy, gguf, &experts, devices)?,
        model: summary(gguf, &experts),
        cache: KvCache::new(gguf),
        policy,
        gguf,
        devices,
        experts,
    };
    let setting = Setting { context, host_layers: 0 };
    let fit = policy.fit();
    let mut plan = match fit {
        Some(fit) if !devices.is_empty() => {
            choice::choose(&task, fit, (open, grows), &setting, compute)?
        }
        _ => {
            let plan = task.as_the_engine_deals(&setting, compute)?;
            if grows { micro_batch::for_fixed(&task, &setting, plan, compute)? } else { plan }
        }
    };
    let (decided, _) = homes::decide_all(&task.experts, &task.rules, 0)?;
    let ram_bytes = fit.and_then(|fit| fit.ram_bytes);
    plan.settle_disk(&task.experts, &decided, ram_bytes)?;
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
