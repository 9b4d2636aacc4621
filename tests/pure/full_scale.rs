//! Headers of all families at their published size: classified as the table says, planned at once.

use std::collections::BTreeSet;

use moe_offload::{ContextOptions, Device, ExpertMap, GgufFile, OffloadPolicy};
use moe_offload_synth::{self as synth, Family, SynthOptions};

fn header(family: &Family) -> GgufFile {
    let model = family.build(&SynthOptions::default()).unwrap();
    let mut bytes = Vec::new();
    model.header().write_header(&mut bytes).unwrap();
    GgufFile::read(&bytes[..], model.file_bytes(), family.name).unwrap()
}

#[test]
fn experts_are_found_where_they_are() {
    for family in synth::families() {
        let gguf = header(family);
        let map = ExpertMap::new(&gguf).unwrap();
        let expected: BTreeSet<u32> =
            (0..family.layers).filter(|&layer| family.has_experts(layer)).collect();
        assert_eq!(map.expert_layers(), expected, "{}", family.name);
        assert_eq!(map.layers(), family.blocks(), "{}", family.name);
        assert_eq!(map.experts(), Some(family.experts.count.into()), "{}", family.name);
        assert_eq!(map.active_experts(), Some(family.experts.active.into()), "{}", family.name);
        // Nearly all bytes of a mixture of experts are experts.
        assert!(map.expert_bytes() * 2 > map.total_bytes(), "{}", family.name);
    }
}

#[test]
fn every_policy_plans_every_family() {
    let card = [Device::new("CUDA0").with_free_bytes(12 << 30)];
    for family in synth::families() {
        let gguf = header(family);
        for policy in ["none", "all-experts", "first-layers:3", "last-layers:3", "regex:_exps=cpu"]
        {
            let policy: OffloadPolicy = policy.parse().unwrap();
            let plan = policy.plan(&gguf, &card, &ContextOptions::default()).unwrap();
            let placed: u64 = plan.devices().iter().map(|device| device.weights_bytes).sum();
            let copied: u64 = plan.copies().iter().map(|copy| copy.bytes).sum();
            let unused = plan.tensors().iter().filter(|tensor| tensor.device == "not-loaded");
            let unused: u64 = unused.map(|tensor| tensor.tensor.bytes).sum();
            assert_eq!(placed + unused, plan.model().tensor_bytes + copied, "{}", family.name);
            assert!(plan.devices().iter().all(|d| d.context_bytes.is_some()), "{}", family.name);
            assert!(plan.overrides().len() <= 4, "{}: {:?}", family.name, plan.overrides());
        }
    }
}

#[test]
fn published_cache_sizes() {
    // Of 8192 tokens, from the models' descriptions: heads × length × 2 × 2 bytes and so on.
    let mib = |name: &str, tokens: u32| {
        let gguf = header(synth::family(name).unwrap());
        let context = ContextOptions::with_context_tokens(tokens);
        let plan = OffloadPolicy::None.plan(&gguf, &[Device::new("gpu")], &context).unwrap();
        plan.devices()[0].context_bytes.unwrap() >> 20
    };
    assert_eq!(mib("mixtral-8x7b", 8192), (32 * 8192 * 2 * 8 * 128 * 2) >> 20);
    assert_eq!(mib("deepseek-v3", 8192), (61 * 8192 * 576 * 2) >> 20);
    // 12 layers see everything, 12 only 128 tokens and those of a micro-batch.
    assert_eq!(mib("gpt-oss-20b", 8192), (12 * (8192 + 768) * 2 * 8 * 64 * 2) >> 20);
}
