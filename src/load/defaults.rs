//! What a load takes of the machine when nobody says how much: threads, and memory for experts on disk and for
//! checkpoints.

use crate::device::system_memory;
use crate::plan::{self, DiskPlan, Plan};

/// For checkpoints of one context, at most.
pub(crate) const CHECKPOINT_BYTES: u64 = 512 << 20;

/// How many bytes of experts to hold: what the plan says, less what the load took besides the plan, such
/// as the vocabulary, but never so little that the plan would have said no; or a part of what is free.
pub(crate) fn cache_budget(
    plan: &Plan,
    disk: &DiskPlan,
    before: Option<u64>,
    free: Option<u64>,
) -> u64 {
    let cpu = plan.device(plan::CPU);
    let later = cpu.map_or(0, |cpu| cpu.besides_disk_cache().saturating_sub(cpu.weights_bytes));
    let Some(cache) = disk.cache_bytes else {
        let free = free.unwrap_or(disk.weights_bytes).saturating_sub(later);
        // If four fifths are too little, then what is needed at least, as long as there is so much.
        let least = plan.least_cache_bytes().min(free);
        return (free / 5 * 4).min(disk.most_cache_bytes()).max(least);
    };
    let grown =
        before.zip(system_memory::anonymous_bytes()).map_or(0, |(a, b)| b.saturating_sub(a));
    let besides = grown.saturating_sub(cpu.map_or(0, |cpu| cpu.weights_bytes));
    cache.saturating_sub(besides).max(plan.least_cache_bytes().min(cache))
}

/// Threads that compute, where experts are read meanwhile or not.
pub(crate) fn threads_for(reads: bool) -> u32 {
    threads(cores(), reads)
}

/// Threads that compute where nothing has to be read.
pub(crate) fn default_threads() -> u32 {
    threads(cores(), false)
}

fn threads(cores: usize, reads: bool) -> u32 {
    let threads = if cores > 8 { cores / 2 } else { cores - 1 };
    let least = if reads { cores.min(2) } else { 1 };
    u32::try_from(threads.clamp(least, 64)).unwrap_or(1)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_thread_where_experts_are_read() {
        let expected = [(1, 1, 1), (2, 1, 2), (3, 2, 2), (8, 7, 7), (16, 8, 8), (200, 64, 64)];
        for (cores, computing, reading) in expected {
            assert_eq!((threads(cores, false), threads(cores, true)), (computing, reading));
        }
    }
}
