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
        let free = free.unwrap_or(disk.weights_bytes).saturating_sub(later);
        // If four fifths are too little, then what is needed at least, as long as there is so much.
        let least = plan.least_cache_bytes().min(free);
        return (free / 5 * 4).min(disk.most_cache_bytes()).max(least);
    };
    let grown = before.zip(memory::anonymous_bytes()).map_or(0, |(a, b)| b.saturating_sub(a));
    let besides = grown.saturating_sub(cpu.map_or(0, |cpu| cpu.weights_bytes));
    cache.saturating_sub(besides).max(plan.least_cache_bytes().min(cache))
}

/// Threads that compute by such a plan.
pub(crate) fn threads_for(plan: &Plan) -> u32 {
    let reads = |disk: &DiskPlan| disk.even_hit_rate().is_none_or(|rate| rate < 1.0);
    threads(cores(), plan.disk().is_some_and(reads))
}

/// Threads that compute where nothing has to be read.
#[cfg(feature = "bench")]
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
    use crate::gguf::GgufFile;
    use crate::plan::ContextOptions;
    use crate::policy::OffloadPolicy;
    use crate::synth::{self, SynthOptions};

    #[test]
    fn more_than_one_thread_where_experts_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let options = SynthOptions::default().layers(2);
        let model = synth::family("gpt-oss-20b").unwrap().build(&options).unwrap();
        model.save_without_weights(&path, 1).unwrap();
        let gguf = GgufFile::open(&path).unwrap();
        let of_plan = |policy: &str, cache: Option<u64>| {
            let policy: OffloadPolicy = policy.parse().unwrap();
            let mut plan = policy.plan(&gguf, &[], &ContextOptions::default()).unwrap();
            if let Some(bytes) = cache {
                plan = plan.with_expert_cache(bytes).unwrap();
            }
            threads_for(&plan)
        };
        let reading = threads(cores(), true);
        let computing = threads(cores(), false);
        assert_eq!(of_plan("none", None), computing);
        assert_eq!(of_plan("all-experts=disk", None), reading);
        assert_eq!(of_plan("all-experts=disk", Some(400 << 20)), reading);
        assert_eq!(of_plan("all-experts=disk", Some(1 << 40)), computing, "all is there");
        let expected = [(1, 1, 1), (2, 1, 2), (3, 2, 2), (8, 7, 7), (16, 8, 8), (200, 64, 64)];
        for (cores, else_, while_reading) in expected {
            assert_eq!((threads(cores, false), threads(cores, true)), (else_, while_reading));
        }
    }
}
