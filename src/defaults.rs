//! What a load takes of the machine when nobody says how much: threads, and memory for experts on disk.

use crate::memory;
use crate::plan::{self, DiskPlan, Plan};

/// How many bytes of experts to hold: what the plan says, less what the load took besides the plan, such
/// as the vocabulary, but never so little that the plan would have said no; or a part of what is free.
pub(crate) fn cache_budget(
    plan: &Plan,
    disk: &DiskPlan,
    before: Option<u64>,
    free: Option<u64>,
) -> u64 {
    let cpu = plan.device(plan::CPU);
    let later = cpu.map_or(0, |cpu| cpu.total_bytes.saturating_sub(cpu.weights_bytes));
    let Some(cache) = disk.cache_bytes else {
        let free = free.unwrap_or(disk.weights_bytes);
        return (free.saturating_sub(later) / 5 * 4).min(disk.most_cache_bytes());
    };
    let grown = before.zip(memory::anonymous_bytes()).map_or(0, |(a, b)| b.saturating_sub(a));
    let besides = grown.saturating_sub(cpu.map_or(0, |cpu| cpu.weights_bytes));
    cache.saturating_sub(besides).max(plan.least_cache_bytes().min(cache))
}

/// Threads that compute by such a plan.
pub(crate) fn threads_for(plan: &Plan) -> u32 {
    let least = if plan.disk().is_some() && cores() > 1 { 2 } else { 1 };
    default_threads().max(least)
}

/// Threads that compute where nothing has to be read.
pub(crate) fn default_threads() -> u32 {
    let cores = cores();
    let threads = if cores > 8 { cores / 2 } else { cores - 1 };
    u32::try_from(threads.clamp(1, 64)).unwrap_or(1)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
