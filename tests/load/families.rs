//! Every family under every policy: the plan is what the engine does, and the text stays the same.

use std::path::Path;

use moe_offload::MoeModel;
use moe_offload::gguf::GgmlType;
use moe_offload::plan::Decision;
use moe_offload_synth::{self as synth, Family};

use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::tiny;
use crate::support::process::Server;

const TOKENS: u64 = 12;

fn load(path: &Path, server: &Server, policy: &str) -> MoeModel {
    on_cpu(path)
        .rpc_server(&server.endpoint)
        .policy(policy.parse().unwrap())
        .threads(1)
        .context_tokens(256)
        .load()
        .unwrap_or_else(|error| panic!("{} under {policy}: {error}", path.display()))
}

fn text(model: &mut MoeModel) -> String {
    let options = greedy(TOKENS);
    model.generate("The quick brown fox jumps", &options).unwrap().text().unwrap()
}

/// Measured and planned bytes on the devices are the same, weights and cache.
fn check_memory(model: &MoeModel, name: &str, policy: &str) {
    for planned in model.plan().devices().iter().filter(|device| device.name != "cpu") {
        let measured = model.memory().iter().find(|memory| memory.name == planned.name);
        let bytes = measured.map_or(0, |memory| memory.weights_bytes);
        assert_eq!(bytes, planned.weights_bytes + planned.padding_bytes, "{name} under {policy}");
        let cache = measured.map(|memory| memory.context_bytes);
        assert_eq!(cache, planned.context_bytes, "the cache of {name} under {policy}");
    }
}

fn check(family: &Family, path: &Path, server: &Server) {
    let mut baseline = load(path, server, "none");
    check_memory(&baseline, family.name, "none");
    let expected = text(&mut baseline);
    let layers = baseline.plan().model().expert_layers;
    drop(baseline);
    let half = (layers / 2).max(1);
    let policies = [
        "all-experts".to_owned(),
        format!("first-layers:{half}"),
        format!("last-layers:{half}"),
        "regex:_down_exps=cpu".to_owned(),
    ];
    for policy in &policies {
        let mut model = load(path, server, policy);
        check_memory(&model, family.name, policy);
        assert_eq!(text(&mut model), expected, "{} under {policy}", family.name);
    }
}

/// The cache in contexts that are no multiples of the engine's steps, and beyond the windows.
fn check_contexts(family: &Family, path: &Path) {
    // Grok cannot use flash attention, which the engine wants for a quantised cache.
    let q8 = if family.architecture == "grok" { GgmlType::F32 } else { GgmlType::Q8_0 };
    for (tokens, micro_batch, kv_type) in [(700, 100, q8), (3000, 512, GgmlType::F16)] {
        let model = on_cpu(path)
            .threads(1)
            .context_tokens(tokens)
            .micro_batch_tokens(micro_batch)
            .kv_type(kv_type)
            .load()
            .unwrap();
        let planned = model.plan().device("cpu").unwrap().context_bytes.unwrap();
        let measured = model.memory().last().unwrap().context_bytes;
        assert_eq!(measured, planned, "{} with {tokens} tokens", family.name);
    }
}

/// Fit keeps within its budget, by the engine's account, and what was planned is what was done.
fn check_fit(family: &Family, path: &Path, server: &Server) {
    for context in [256, 1000] {
        let load = |policy: String| {
            on_cpu(path)
                .rpc_server(&server.endpoint)
                .policy(policy.parse().unwrap())
                .threads(1)
                .context_tokens(context)
                .micro_batch_tokens(64)
                .load()
                .unwrap_or_else(|error| panic!("{} under {policy}: {error}", family.name))
        };
        let total = |model: &MoeModel| model.memory()[0].total_bytes();
        let lean = total(&load("all-experts".to_owned()));
        let full = total(&load("none".to_owned()));
        for percent in [5, 35, 70, 100] {
            let budget = lean + 16_384 + full.saturating_sub(lean) * percent / 100;
            let model = load(format!("fit:{budget}B"));
            let used = total(&model);
            assert!(used <= budget, "{}: {used} of {budget}", family.name);
            assert!(model.verify().holds(), "{}\n{}", family.name, model.verify());
        }
        check_fallbacks(family, lean, &load);
    }
}

/// With less than what is used for every token takes, something is given up, and it still runs.
fn check_fallbacks(family: &Family, lean: u64, load: &dyn Fn(String) -> MoeModel) {
    for (fallbacks, given_up) in [
        ("fewer-layers", Decision::FewerLayers { host_layers: 1 }),
        ("cache-to-host", Decision::CacheToHost),
    ] {
        // A little more than the alignment and the buffers can make up for.
        let budget = lean - lean / 50;
        let mut model = load(
            format!("fit:{budget}B,{fallbacks},fewer-layers")
                .replace("fewer-layers,fewer-layers", "fewer-layers"),
        );
        let first = model.plan().decisions().first();
        assert_eq!(
            first.map(std::mem::discriminant),
            Some(std::mem::discriminant(&given_up)),
            "{}\n{}",
            family.name,
            model.plan()
        );
        assert!(model.memory()[0].total_bytes() <= budget, "{}", family.name);
        // Without flash attention, a dry run counts a cache on the host for the device too.
        let is_exact = family.architecture != "grok" || fallbacks != "cache-to-host";
        assert!(!is_exact || model.verify().holds(), "{}\n{}", family.name, model.verify());
        assert!(!text(&mut model).is_empty());
    }
}

#[test]
fn every_family_under_every_policy() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let mut checked = 0;
    for family in synth::families() {
        let path = tiny(folder.path(), family.name);
        check(family, &path, &server);
        check_contexts(family, &path);
        check_fit(family, &path, &server);
        checked += 1;
    }
    assert!(checked >= 30, "{checked}");
}
