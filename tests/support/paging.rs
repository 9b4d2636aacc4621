//! Models whose experts are paged.

use std::path::{Path, PathBuf};

use moe_offload::gguf::GgmlType;
use moe_offload::{Error, LoadMode, MoeModelBuilder};
use moe_offload_synth::{self as synth, SynthOptions};

use super::load::on_cpu;

/// A family's tiny model with experts large enough to be paged, in so many files; the first of them.
pub fn made(folder: &Path, family: &str, layers: Option<u32>, shards: u16) -> PathBuf {
    let path = folder.join(format!("{family}-in-{shards}.gguf"));
    let mut options = SynthOptions::tiny().expert_type(GgmlType::F32);
    if let Some(layers) = layers {
        options = options.layers(layers);
    }
    let model = synth::family(family).unwrap().build(&options).unwrap();
    model.save(&path, shards, |_| {}).unwrap().into_iter().next().unwrap()
}

/// One thread, and weights mapped, so that a baseline has the file's own layout and the same kernels.
pub fn builder(path: &Path, policy: &str) -> MoeModelBuilder {
    on_cpu(path)
        .policy(policy.parse().unwrap())
        .load_mode(LoadMode::Mapped)
        .threads(1)
        .context_tokens(256)
}

/// The smallest cache that will do, as the error of a load with one byte says.
pub fn least_cache(with_a_byte: MoeModelBuilder) -> u64 {
    match with_a_byte.load() {
        Err(Error::PagingBudget { budget_bytes: 1, needed_bytes }) => needed_bytes,
        other => panic!("{:?}", other.map(|_| ())),
    }
}
