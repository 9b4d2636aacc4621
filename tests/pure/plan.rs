//! What a policy makes of a file: places, bytes, rules, patterns, errors.

use std::collections::BTreeMap;

use moe_offload::gguf::GgmlType;
use moe_offload::plan::{CPU, Decision, Overhead};
use moe_offload::{ContextOptions, Device, Error, ExpertMap, GgufFile, OffloadPolicy, Plan};
use moe_offload_synth::{self as synth, GgufWriter, SynthOptions};
use proptest::prelude::*;
use regex::Regex;

use crate::support;
use crate::support::model_files::{Shape, bytes_of, read};

fn plan(shape: &Shape, policy: &str, devices: &[&str]) -> Result<Plan, Error> {
    let devices: Vec<Device> = devices.iter().map(|name| Device::new(*name)).collect();
    let policy: OffloadPolicy = policy.parse().unwrap();
    policy.plan(&shape.open(), &devices, &ContextOptions::default())
}

fn deepseek() -> Shape {
    Shape { layers: 6, dense: 1, shared: true, biases: true, ..Shape::default() }
}

/// Layers whose experts are on the CPU.
fn offloaded(plan: &Plan) -> Vec<u32> {
    let mut layers: Vec<u32> = plan
        .tensors()
        .iter()
        .filter(|placement| placement.tensor.kind.is_expert() && placement.device == CPU)
        .filter_map(|placement| placement.tensor.layer)
        .collect();
    layers.dedup();
    layers
}

#[test]
fn counts_are_of_layers_with_experts() {
    let shape = deepseek();
    assert_eq!(offloaded(&plan(&shape, "none", &["gpu"]).unwrap()), [0_u32; 0]);
    assert_eq!(offloaded(&plan(&shape, "all-experts", &["gpu"]).unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(offloaded(&plan(&shape, "first-layers:2", &["gpu"]).unwrap()), [1, 2]);
    assert_eq!(offloaded(&plan(&shape, "last-layers:2", &["gpu"]).unwrap()), [4, 5]);
    assert_eq!(offloaded(&plan(&shape, "layers:0-2,5", &["gpu"]).unwrap()), [1, 2, 5]);
}

#[test]
fn llama_flags_count_blocks() {
    let gguf = deepseek().open();
    let policy = OffloadPolicy::from_llama_flags(["--n-cpu-moe", "3"]).unwrap();
    let plan = policy.plan(&gguf, &[Device::new("gpu")], &ContextOptions::default()).unwrap();
    assert_eq!(offloaded(&plan), [1, 2]);
    let all = OffloadPolicy::from_llama_flags(["-ncmoe", "999"]).unwrap();
    let plan = all.plan(&gguf, &[Device::new("gpu")], &ContextOptions::default()).unwrap();
    assert_eq!(offloaded(&plan), [1, 2, 3, 4, 5]);
}

#[test]
fn all_experts_takes_what_llama_cpp_takes() {
    let llama_cpp = Regex::new(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps").unwrap();
    for shape in [deepseek(), Shape { fused: true, biases: true, ..deepseek() }] {
        let plan = plan(&shape, "all-experts", &["gpu"]).unwrap();
        for placement in plan.tensors() {
            let expert = llama_cpp.is_match(&placement.tensor.name);
            assert_eq!(placement.tensor.kind.is_expert(), expert, "{placement:?}");
            let on_cpu = expert || placement.tensor.name == "token_embd.weight";
            assert_eq!(placement.device == CPU, on_cpu, "{placement:?}");
        }
    }
}

#[test]
fn the_first_rule_that_matches_wins() {
    let plan = plan(&deepseek(), r"regex:blk\.2\..*_up_exps=gpu;all-experts", &["gpu"]).unwrap();
    let of =
        |name: &str| plan.tensors().iter().find(|p| p.tensor.name == name).unwrap().device.clone();
    assert_eq!(of("blk.2.ffn_up_exps.weight"), "gpu");
    assert_eq!(of("blk.2.ffn_up_exps.bias"), "gpu");
    assert_eq!(of("blk.2.ffn_down_exps.weight"), CPU);
    let matched: Vec<u64> = plan.rules().iter().map(|rule| rule.matched_tensors).collect();
    assert_eq!(matched, [2, 28]);
}

#[test]
fn a_rule_may_name_its_device() {
    let plan = plan(&deepseek(), "layers:5=b;all-experts=A", &["a", "b"]).unwrap();
    let device =
        |name: &str| plan.tensors().iter().find(|p| p.tensor.name == name).unwrap().device.clone();
    assert_eq!(device("blk.5.ffn_up_exps.weight"), "b");
    assert_eq!(device("blk.1.ffn_up_exps.weight"), "a");
    assert_eq!(device("blk.4.ffn_up_exps.weight"), "a");
    assert_eq!((device("blk.0.attn_q.weight"), device("output.weight")), ("a".into(), "b".into()));
}

#[test]
fn without_devices_all_is_on_the_cpu() {
    let plan = plan(&deepseek(), "first-layers:2", &[]).unwrap();
    assert!(plan.tensors().iter().all(|placement| placement.device == CPU));
    assert!(plan.overrides().is_empty());
    assert_eq!(plan.devices().len(), 1);
}

#[test]
fn a_tied_embedding_is_counted_on_both_sides() {
    let shape = Shape { tied: true, rope_factors: true, ..deepseek() };
    let tied = plan(&shape, "none", &["a", "b"]).unwrap();
    let copies: Vec<(&str, &str)> =
        tied.copies().iter().map(|copy| (copy.name.as_str(), copy.device.as_str())).collect();
    assert_eq!(copies, [("token_embd.weight", "b"), ("rope_freqs.weight", "b")]);
    let total: u64 = tied.devices().iter().map(|device| device.weights_bytes).sum();
    let copied: u64 = tied.copies().iter().map(|copy| copy.bytes).sum();
    assert_eq!(total, tied.model().tensor_bytes + copied);
    // A rule that takes the embedding takes it for both uses.
    let moved = plan(&shape, "regex:token_embd=gpu", &["gpu"]).unwrap();
    assert!(moved.copies().is_empty());
    assert_eq!(moved.device(CPU).unwrap().weights_bytes, 0);
}

#[test]
fn errors_name_cause_and_remedy() {
    let error = |shape: &Shape, policy: &str| plan(shape, policy, &["CUDA0"]).unwrap_err();
    let dense = Shape { experts: 0, ..Shape::default() };
    assert!(matches!(error(&dense, "all-experts"), Error::NoExperts { .. }));
    assert!(plan(&dense, "regex:ffn_up=cpu", &["CUDA0"]).is_ok());
    // The default is for every model.
    let context = ContextOptions::default();
    let fitted = OffloadPolicy::default().plan(&dense.open(), &[card("gpu", 1 << 30)], &context);
    assert_eq!(fitted.unwrap().device(CPU).unwrap().layers, 0);
    let little = OffloadPolicy::default().plan(&dense.open(), &[card("gpu", 1000)], &context);
    assert!(matches!(little, Err(Error::DoesNotFit { .. })));

    let too_many = error(&deepseek(), "first-layers:6");
    assert!(matches!(too_many, Error::TooManyLayers { requested: 6, available: 5, .. }));
    let beyond = error(&deepseek(), "layers:2,6-9");
    assert!(matches!(beyond, Error::NoSuchLayer { layer: 6, layers: 6, .. }), "{beyond}");
    let far_beyond = error(&deepseek(), "layers:99").to_string();
    assert!(far_beyond.contains("the model has 6 layers, numbered from 0"), "{far_beyond}");
    let only_dense = error(&deepseek(), "layers:0");
    assert!(
        matches!(&only_dense, Error::NotAnExpertLayer { layer: 0, layers, .. } if layers == "1-5")
    );

    let near = error(&deepseek(), "regex:ffn_up_expz=cpu").to_string();
    assert!(near.contains("did you mean `blk.1.ffn_up_exps.weight`"), "{near}");
    assert!(!near.contains("lower case"), "{near}");
    let shouted = error(&deepseek(), "regex:FFN_UP_EXPS=cpu").to_string();
    assert!(shouted.contains("did you mean `blk.1.ffn_up_exps.weight`"), "{shouted}");
    assert!(shouted.contains("Upper and lower case"), "{shouted}");
    let far = error(&deepseek(), "regex:zzzz=cpu");
    assert!(matches!(&far, Error::NoMatch { near, .. } if near.is_empty()), "{far}");

    // The name is right, the layer is not.
    let error_of = |policy: OffloadPolicy| {
        let devices = [card("CUDA0", 1 << 30)];
        policy.plan(&deepseek().open(), &devices, &ContextOptions::default()).unwrap_err()
    };
    for policy in [
        OffloadPolicy::regex(r"blk\.99\.ffn_up_exps", "cpu").unwrap(),
        OffloadPolicy::regex(r"^blk.(6|7).ffn_up_exps", "cpu").unwrap(),
        OffloadPolicy::from_llama_flags(["--n-cpu-moe", "1"]).unwrap(),
    ] {
        let error = error_of(policy);
        assert!(
            matches!(&error, Error::NoMatch { layers: Some(layers), .. } if layers == "1-5"),
            "{error}"
        );
        assert!(error.to_string().contains("the same names are in layers 1-5"), "{error}");
    }

    let device = error(&deepseek(), "all-experts=CUDA1");
    assert_eq!(
        device.to_string(),
        "there is no device `CUDA1`; there is CUDA0, and the cpu; experts can also stay on `disk`"
    );
    let gpu = plan(&deepseek(), "regex:.=gpu", &[]).unwrap_err();
    assert_eq!(
        gpu.to_string(),
        "there is no device `gpu`; there is only the CPU; experts can also stay on `disk`"
    );
    let twice = plan(&deepseek(), "none", &["a", "A"]).unwrap_err();
    assert!(matches!(twice, Error::DuplicateDevice { .. }));
    let reserved = plan(&deepseek(), "none", &["disk"]).unwrap_err().to_string();
    assert!(reserved.starts_with("no device can be called `disk`"), "{reserved}");
    for (text, begins) in
        [("", "a device's name has"), ("a,b", "`a,b` is no device's name: a device")]
    {
        let error = plan(&deepseek(), "none", &[text]).unwrap_err().to_string();
        assert!(error.starts_with(begins), "{error}");
    }
    for tokens in [0, u32::MAX] {
        let context = ContextOptions::with_context_tokens(tokens);
        let error = OffloadPolicy::None.plan(&deepseek().open(), &[], &context).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { option: "context_tokens", .. }));
    }
}

/// The engine reserves room for one result of each sequence, out of one batch.
#[test]
fn a_batch_holds_one_token_of_each_sequence() {
    let gguf = deepseek().open();
    for (sequences, batch, is_taken) in [(8, 4, false), (8, 8, true), (2, 1, false)] {
        let context: ContextOptions = serde_json::from_value(serde_json::json!({
            "context_tokens": 512, "batch_tokens": batch, "micro_batch_tokens": 1,
            "sequences": sequences,
        }))
        .unwrap();
        let planned = OffloadPolicy::AllExperts.plan(&gguf, &[Device::new("gpu")], &context);
        match planned {
            Err(Error::InvalidOption { option: "sequences", .. }) => assert!(!is_taken),
            other => assert!(other.is_ok() && is_taken, "{other:?}"),
        }
    }
}

#[test]
fn values_that_no_text_makes_are_refused() {
    let gguf = deepseek().open();
    let nothing = OffloadPolicy::Layers(std::iter::empty().collect());
    for policy in [OffloadPolicy::FirstLayers(0), OffloadPolicy::LastLayers(0), nothing] {
        let error = policy.plan(&gguf, &[], &ContextOptions::default()).unwrap_err();
        assert!(matches!(error, Error::InvalidPolicy { .. }), "{error}");
    }
}

#[test]
fn files_that_contradict_themselves() {
    let mut writer = Shape::default().writer();
    writer.set("deepseek2.block_count", 3_u32);
    let gguf = support::model_files::read(&support::model_files::bytes_of(&writer)).unwrap();
    let error = ExpertMap::new(&gguf).unwrap_err();
    assert!(matches!(error, Error::LayerOutOfRange { layer: 3, layers: 3, .. }), "{error}");

    let mut legacy = Shape { layers: 1, ..Shape::default() }.writer();
    legacy.tensor("blk.0.ffn_up.3.weight", &[64, 64], moe_offload::gguf::GgmlType::F32);
    let gguf = support::model_files::read(&support::model_files::bytes_of(&legacy)).unwrap();
    let error = ExpertMap::new(&gguf).unwrap_err();
    assert!(error.to_string().contains("convert"), "{error}");

    let mut absurd = Shape::default().writer();
    absurd.set("deepseek2.block_count", u32::MAX);
    let gguf = support::model_files::read(&support::model_files::bytes_of(&absurd)).unwrap();
    assert!(matches!(ExpertMap::new(&gguf).unwrap_err(), Error::MissingMetadata { .. }));

    let empty = moe_offload_synth::GgufWriter::new();
    let gguf = support::model_files::read(&support::model_files::bytes_of(&empty)).unwrap();
    assert!(matches!(ExpertMap::new(&gguf).unwrap_err(), Error::MissingMetadata { .. }));
}

#[test]
fn a_plan_is_for_one_file() {
    let plan = plan(&deepseek(), "all-experts", &["gpu"]).unwrap();
    assert!(plan.is_for(&deepseek().open()));
    assert!(!plan.is_for(&Shape { layers: 5, ..deepseek() }.open()));
}

#[test]
fn plans_serialise() {
    let plan = plan(&deepseek(), "first-layers:2", &["gpu"]).unwrap();
    let json = serde_json::to_value(&plan).unwrap();
    let first = &json["tensors"][1];
    assert_eq!(first["name"], "blk.0.attn_q.weight");
    assert_eq!((&first["layer"], &first["device"]), (&0.into(), &"gpu".into()));
    assert_eq!(json["rules"][0]["text"], "first-layers:2");
    assert_eq!(json["rules"][0]["matched_tensors"], 12);
    assert_eq!(json["devices"][1]["name"], "cpu");
    let back: Plan = serde_json::from_value(json).unwrap();
    assert_eq!(back, plan);
}

#[test]
fn more_devices_than_the_engine_takes_are_refused() {
    let shape = Shape { layers: 40, ..deepseek() };
    let names: Vec<String> = (0..40).map(|i| format!("dev{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let too_many = |policy: &str, devices: usize| match plan(&shape, policy, &names[..devices]) {
        Err(Error::TooManyDevices { count, most: 15 }) => Some(count),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    };
    for policy in ["none", "all-experts", "first-layers:3=dev2"] {
        assert_eq!(too_many(policy, 15), None, "{policy}");
        assert_eq!(too_many(policy, 16), Some(16), "{policy}");
        assert_eq!(too_many(policy, 18), Some(18), "{policy}");
    }
    let roomy: Vec<Device> = names[..16].iter().map(|name| card(name, 1 << 20)).collect();
    let fit = OffloadPolicy::default().plan(&shape.open(), &roomy, &ContextOptions::default());
    assert!(matches!(fit, Err(Error::TooManyDevices { count: 16, .. })), "{fit:?}");
    // What gets nothing is not handed on.
    let few = Shape { layers: 6, ..deepseek() };
    assert!(plan(&few, "none", &names).is_ok());
    assert!(plan(&few, "layers:5=dev20;layers:4=dev21", &names).is_ok());

    // Nor is a stored plan believed: the last layers moved to one more device.
    let fifteen = plan(&shape, "none", &names[..15]).unwrap();
    let mut json = serde_json::to_value(&fifteen).unwrap();
    let mut extra = json["devices"][0].clone();
    extra["name"] = "one-more".into();
    for figure in ["weights_bytes", "expert_bytes", "total_bytes", "context_bytes"] {
        extra[figure] = 0.into();
    }
    let moved = extra.clone();
    json["devices"].as_array_mut().unwrap().insert(15, moved);
    *json["layer_devices"].as_array_mut().unwrap().last_mut().unwrap() = 15.into();
    let stored: Plan = serde_json::from_value(json).unwrap();
    let error = stored.check(&shape.open()).unwrap_err();
    assert!(matches!(error, Error::TooManyDevices { count: 16, .. }), "{error}");
}

/// The plan with one value changed, as somebody might edit the stored file.
fn edited(plan: &Plan, pointer: &str, value: serde_json::Value) -> Plan {
    let mut json = serde_json::to_value(plan).unwrap();
    *json.pointer_mut(pointer).unwrap() = value;
    serde_json::from_value(json).unwrap()
}

#[test]
fn a_stored_plan_that_was_changed_is_refused() {
    use serde_json::json;
    let gguf = deepseek().open();
    let plan = plan(&deepseek(), "first-layers:2", &["a", "b"]).unwrap();
    plan.check(&gguf).unwrap();
    for (pointer, value) in [
        ("/tensors", json!([])),
        ("/tensors/3/bytes", json!(1)),
        ("/tensors/3/kind", json!("router")),
        ("/tensors/3/device", json!("c")),
        ("/tensors/3/device", json!("not-loaded")),
        ("/devices", json!([])),
        ("/devices/0/name", json!("CPU")),
        ("/devices/0/name", json!("b")),
        ("/devices/0/weights_bytes", json!(1)),
        ("/layer_devices", json!([0, 0, 0])),
        ("/layer_devices/0", json!(99)),
        ("/layer_devices/0", json!(1)),
        ("/layer_devices/1", json!(null)),
        ("/context/context_tokens", json!(null)),
        ("/context/context_tokens", json!(0)),
        ("/context/batch_tokens", json!(0)),
        ("/context/micro_batch_tokens", json!(0)),
        ("/context/kv_type", json!("i8")),
        ("/model/fingerprint", json!("")),
        ("/policy", json!("none")),
        ("/rules", json!([])),
        ("/policy", json!("first-layers:1")),
        ("/policy", json!("regex:attn=cpu;first-layers:2")),
    ] {
        let error = edited(&plan, pointer, value.clone()).check(&gguf);
        assert!(error.is_err(), "{pointer} = {value}");
    }
}

/// Every figure of every device of a stored plan, as large as it can be: refused, or printed as it is.
#[test]
fn figures_that_no_number_adds_up_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::default().layers(2));
    model.unwrap().save_without_weights(&path, 1).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let policy: OffloadPolicy = "layers:1=disk".parse().unwrap();
    let devices = [card("a", 8 << 30), card("b", 8 << 30)];
    let tied = Shape { tied: true, rope_factors: true, ..deepseek() };
    let with_copies = plan(&tied, "none", &["a", "b"]).unwrap();
    assert!(!with_copies.copies().is_empty());
    let with_disk = policy.plan(&gguf, &devices, &ContextOptions::default()).unwrap();
    for (plan, gguf) in [(&with_disk, &gguf), (&with_copies, &tied.open())] {
        plan.check(gguf).unwrap();
        let mut numbers = Vec::new();
        find_numbers(&serde_json::to_value(plan).unwrap(), String::new(), &mut numbers);
        let bytes = |pointer: &&String| pointer.ends_with("bytes") && !pointer.contains("free");
        let bytes: Vec<&String> = numbers.iter().filter(bytes).collect();
        assert!(bytes.len() > 30, "{bytes:?}");
        for pointer in bytes {
            let all = edited(plan, pointer, u64::MAX.into());
            let _ = (all.to_string(), all.picture().to_string(), all.expert_bytes_on_devices());
            let _ = (all.verify(&[]), all.clone().with_expert_cache(1));
            // These follow from others, are only shown, or are asked for and then not there.
            let derived = ["short_by", "rules", "unpaged", "token_bytes", "disk/cache", "host"];
            if !derived.iter().any(|name| pointer.contains(name)) {
                assert!(all.check(gguf).is_err(), "{pointer}");
            }
        }
        for pointer in ["/model/experts", "/model/active_experts"] {
            let all = edited(plan, pointer, u64::MAX.into());
            assert!(all.check(gguf).is_err(), "{pointer}");
            let _ = all.with_expert_cache(1);
        }
    }
    // Two that wrap around to the sum that was.
    let half = edited(&with_copies, "/copies/0/bytes", (1_u64 << 63).into());
    let other = edited(&half, "/copies/1/bytes", (1_u64 << 63).into());
    assert!(other.check(&tied.open()).is_err());
}

fn find_numbers(value: &serde_json::Value, pointer: String, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| {
                find_numbers(value, format!("{pointer}/{key}"), found);
            });
        }
        // The first ones of a list stand for all.
        serde_json::Value::Array(values) => {
            for (i, value) in values.iter().enumerate().take(3) {
                find_numbers(value, format!("{pointer}/{i}"), found);
            }
        }
        serde_json::Value::Number(_) => found.push(pointer),
        _ => {}
    }
}

#[test]
fn what_is_missing_is_told() {
    // A fixed policy asks for what it asks for, whatever there is.
    let policy: OffloadPolicy = "none".parse().unwrap();
    let context = ContextOptions::default();
    let plan = policy.plan(&deepseek().open(), &[card("gpu", 300_000)], &context).unwrap();
    let gpu = &plan.devices()[0];
    assert!(!plan.fits());
    assert_eq!(gpu.short_by_bytes, gpu.total_bytes - 300_000);
    assert_eq!(gpu.left_over_bytes(), Some(0));
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["devices"][0]["short_by_bytes"], gpu.short_by_bytes);
    assert_eq!(json["devices"][0]["total_is_at_least"], true, "compute buffers are not known");
    insta::assert_snapshot!(plan);
    let enough = policy.plan(&deepseek().open(), &[card("gpu", 1 << 30)], &context).unwrap();
    assert!(enough.fits() && !enough.to_string().contains("FIT"), "{enough}");

    // The CPU's memory: what is mapped may be dropped, a cache may not.
    let context = ContextOptions::with_context_tokens(4_000_000);
    let large = policy.plan(&deepseek().open(), &[], &context).unwrap();
    let needed = large.devices()[0].context_bytes.unwrap();
    let short = large.clone().with_cpu_memory(needed - 1);
    assert_eq!(short.devices()[0].short_by_bytes, 1);
    assert!(short.to_string().contains("DOES NOT FIT: cpu is short by at least 1 B"), "{short}");
    let enough = large.with_cpu_memory(needed);
    assert!(enough.fits(), "{enough}");
    assert!(enough.to_string().contains("of what is mapped find no room"), "{enough}");
}

#[test]
fn a_cache_that_is_not_known_makes_totals_the_least() {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "unheard-of").set("unheard-of.block_count", 1_u32);
    writer.tensor("blk.0.ffn_up_exps.weight", &[32, 32, 4], GgmlType::Q8_0);
    let gguf = read(&bytes_of(&writer)).unwrap();
    let policy: OffloadPolicy = "fit".parse().unwrap();
    let plan = policy.plan(&gguf, &[card("gpu", 1 << 30)], &ContextOptions::default()).unwrap();
    let gpu = &plan.devices()[0];
    assert_eq!((gpu.context_bytes, gpu.total_is_at_least), (None, true));
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["devices"][0]["total_is_at_least"], true);
    assert!(plan.to_string().contains("≥ at least, ≤ at most: without KV cache"), "{plan}");
    // A cache that is known, and a reserve for the rest: nothing is open on the card.
    let known = fit_plan("fit", 1 << 30, &ContextOptions::default()).unwrap();
    assert!(!known.devices()[0].total_is_at_least, "{known}");
}

#[test]
fn memory_for_experts_on_disk_is_the_cpu_s() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::default().layers(3));
    model.unwrap().save_without_weights(&path, 1).unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let plan = |policy: &str| {
        let policy: OffloadPolicy = policy.parse().unwrap();
        policy.plan(&gguf, &[], &ContextOptions::default()).unwrap()
    };
    let ram = 1_u64 << 30;
    let held = plan("fit:ram:1GiB");
    let (cpu, disk) = (&held.devices()[0], held.disk().unwrap());
    assert_eq!(cpu.total_bytes, ram, "all of it is spoken for\n{held}");
    assert!(cpu.disk_cache_bytes >= disk.cache_bytes && cpu.disk_cache_bytes > Some(0), "{held}");
    insta::assert_snapshot!(held);
    let by_hand = plan("all-experts=disk").with_expert_cache(200 << 20).unwrap();
    assert_eq!(by_hand.devices()[0].disk_cache_bytes, Some(200 << 20), "{by_hand}");
    let open = plan("all-experts=disk");
    assert_eq!(open.devices()[0].disk_cache_bytes, None);
    assert!(
        open.devices()[0].total_is_at_least && open.to_string().contains("when loaded"),
        "{open}"
    );
    assert_eq!(plan("none").devices()[0].disk_cache_bytes, Some(0));
}

#[test]
fn long_names_print() {
    let long = "n".repeat(255);
    let plan = plan(&deepseek(), "none", &[&long]).unwrap();
    assert!(plan.to_string().contains(&long) && plan.picture().to_string().contains(&long));
    let longer = edited(&plan, "/devices/0/name", "n".repeat(100_000).into());
    assert!(longer.to_string().len() > 100_000);
    let error = OffloadPolicy::None.plan(
        &deepseek().open(),
        &[Device::new("n".repeat(256))],
        &ContextOptions::default(),
    );
    assert!(error.is_err());
}

#[test]
fn plans_print_as_tables() {
    insta::assert_snapshot!(plan(&deepseek(), "first-layers:2", &["CUDA0"]).unwrap());
    insta::assert_snapshot!(plan(&deepseek(), "none", &[]).unwrap());
}

#[test]
fn experts_on_disk_are_shown_and_what_stays_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let model = synth::family("gpt-oss-20b").unwrap().build(&SynthOptions::default().layers(3));
    model.unwrap().save_without_weights(&path, 1).unwrap();
    let policy: OffloadPolicy = "layers:0=cpu;layers:1=disk".parse().unwrap();
    let gguf = GgufFile::open(&path).unwrap();
    let plan = policy.plan(&gguf, &[Device::new("CUDA0")], &ContextOptions::default()).unwrap();
    let stays = |p: &&moe_offload::plan::Placement| {
        p.tensor.layer == Some(1) && p.tensor.kind.is_expert() && p.device == CPU
    };
    let bytes = plan.tensors().iter().filter(stays).map(|placed| placed.tensor.bytes).sum::<u64>();
    assert_eq!([plan.rules()[0].unpaged_bytes, plan.rules()[1].unpaged_bytes], [0, bytes]);
    assert!(bytes > 0, "biases");
    insta::assert_snapshot!(format!("{plan}\n{}", plan.picture()));
}

/// Applies the override array as the engine does: the first pattern that is found.
fn apply(plan: &Plan) -> BTreeMap<String, Option<String>> {
    let overrides: Vec<(Regex, String)> = plan
        .overrides()
        .into_iter()
        .map(|entry| (Regex::new(&entry.pattern).unwrap(), entry.device))
        .collect();
    let find = |name: &str| {
        overrides.iter().find(|(regex, _)| regex.is_match(name)).map(|(_, device)| device.clone())
    };
    plan.tensors().iter().map(|p| (p.tensor.name.clone(), find(&p.tensor.name))).collect()
}

fn any_rule() -> impl Strategy<Value = String> {
    let device = || prop::sample::select(vec!["", "=gpu", "=a", "=b"]);
    prop_oneof![
        (1_u32..12, device()).prop_map(|(n, device)| format!("first-layers:{n}{device}")),
        (1_u32..12, device()).prop_map(|(n, device)| format!("last-layers:{n}{device}")),
        (0_u32..12, device()).prop_map(|(n, device)| format!("layers:{n}{device}")),
        Just("all-experts".to_owned()),
        (
            r"blk\\\.[0-9]{1,2}\\\.|ffn_(up|down)_exps|attn|output|weight|bias",
            prop::sample::select(vec!["cpu", "gpu", "a", "b"])
        )
            .prop_map(|(pattern, device)| format!("regex:{pattern}={device}")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn figures_add_up(
        layers in 1_u32..12,
        tied: bool,
        rules in prop::collection::vec(any_rule(), 0..3),
        free in prop::collection::vec(prop::option::of(0_u64..1 << 20), 2..4),
        cpu in 0_u64..1 << 20,
        tokens in 1_u32..10_000,
        cache_on_host: bool,
        row_padding in prop::option::of(1_u64..600),
        overhead in 0_u64..1 << 16,
    ) {
        let shape = Shape { layers, tied, rope_factors: tied, ..Shape::default() };
        let device = |(name, free): (&str, &Option<u64>)| {
            let mut device = free.map_or_else(|| Device::new(name), |free| card(name, free));
            device.row_padding_elements = row_padding;
            device.with_overhead(Overhead::Bytes(overhead))
        };
        let devices: Vec<Device> = ["a", "b", "c"].into_iter().zip(&free).map(device).collect();
        let text = if rules.is_empty() { "none".to_owned() } else { rules.join(";") };
        let mut context = ContextOptions::with_context_tokens(tokens);
        context.cache_on_host = cache_on_host;
        let policy: OffloadPolicy = text.parse().unwrap();
        let Ok(plan) = policy.plan(&shape.open(), &devices, &context) else { return Ok(()) };
        let plan = plan.with_cpu_memory(cpu);
        prop_assert!(plan.check(&shape.open()).is_ok());
        let mut weights = 0;
        for device in plan.devices() {
            let compute = device.compute_bytes.unwrap_or(device.reserved_bytes);
            let context = device.context_bytes.unwrap();
            let parts = [device.padding_bytes, context, compute, device.overhead_bytes];
            let sum = parts.into_iter().try_fold(device.weights_bytes, u64::checked_add);
            prop_assert_eq!(Some(device.total_bytes), sum);
            weights += device.weights_bytes;
            let Some(free) = device.free_bytes else {
                prop_assert_eq!((device.left_over_bytes(), device.short_by_bytes), (None, 0));
                continue;
            };
            let left = device.left_over_bytes().unwrap();
            prop_assert!(left == 0 || device.short_by_bytes == 0);
            prop_assert_eq!(device.resident_bytes() + left, free + device.short_by_bytes);
        }
        let copied: u64 = plan.copies().iter().map(|copy| copy.bytes).sum();
        prop_assert_eq!(weights, plan.model().tensor_bytes + copied);
        let short = plan.devices().iter().any(|device| device.short_by_bytes > 0);
        prop_assert_eq!(plan.fits(), !short);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn overrides_do_exactly_what_the_plan_says(
        layers in 1_u32..40,
        dense in 0_u32..3,
        biases: bool,
        fused: bool,
        rules in prop::collection::vec(any_rule(), 0..4),
    ) {
        let shape = Shape { layers, dense, biases, fused, ..Shape::default() };
        let text = if rules.is_empty() { "none".to_owned() } else { rules.join(";") };
        let baseline = match plan(&shape, "none", &["a", "b"]) {
            Ok(plan) => plan,
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        let Ok(plan) = plan(&shape, &text, &["a", "b"]) else { return Ok(()) };
        let found = apply(&plan);
        for (placement, own) in std::iter::zip(plan.tensors(), baseline.tensors()) {
            let engine = found[&placement.tensor.name].as_ref().unwrap_or(&own.device);
            prop_assert_eq!(engine, &placement.device, "{}", placement.tensor.name);
        }
        let placed: u64 = plan.devices().iter().map(|device| device.weights_bytes).sum();
        prop_assert_eq!(placed, plan.model().tensor_bytes);
        prop_assert!(plan.overrides().len() <= 12, "{:?}", plan.overrides());
    }

    #[test]
    fn fit_never_exceeds_and_leaves_nothing_out_that_fits(
        layers in 1_u32..24,
        dense in 0_u32..3,
        biases: bool,
        fused: bool,
        // About the compute reserve, dense weights and some of the experts.
        free in prop::collection::vec(2_330_000_u64..3_100_000, 1..4),
        rule in prop::option::of(any_rule()),
        context_tokens in 1_u32..600,
        fallbacks in prop::sample::select(vec!["", ":fewer-layers", ":cache-to-host,fewer-layers"]),
    ) {
        let shape = Shape { layers, dense, biases, fused, ..Shape::default() };
        let gguf = shape.open();
        let devices: Vec<Device> = std::iter::zip(["a", "b", "c"], &free)
            .map(|(name, &free)| card(name, free))
            .collect();
        let context = ContextOptions::with_context_tokens(context_tokens);
        let text = rule.map_or("fit".to_owned(), |rule| format!("{rule};fit")) + fallbacks;
        let policy: OffloadPolicy = text.parse().unwrap();
        let Ok(plan) = policy.plan(&gguf, &devices, &context) else { return Ok(()) };
        prop_assert_eq!(&policy.plan(&gguf, &devices, &context).unwrap(), &plan);
        prop_assert!(plan.check(&gguf).is_ok());
        check_fit(&plan);
    }
}

#[test]
fn devices_with_room_are_filled_by_their_size() {
    let gguf = Shape { layers: 24, ..Shape::default() }.open();
    let layers = |sizes: &[u64]| {
        let devices: Vec<Device> =
            sizes.iter().enumerate().map(|(i, size)| card(&format!("d{i}"), size << 24)).collect();
        let policy: OffloadPolicy = "fit".parse().unwrap();
        let context = ContextOptions::with_context_tokens(64);
        let plan = policy.plan(&gguf, &devices, &context).unwrap();
        assert_eq!(plan.expert_bytes_on_devices(), plan.model().expert_bytes);
        plan.devices().iter().map(|device| device.layers).collect::<Vec<_>>()
    };
    assert_eq!(layers(&[1, 1]), [12, 12, 0]);
    assert_eq!(layers(&[1, 1, 1]), [8, 8, 8, 0]);
    let by_size = layers(&[1, 2, 1]);
    assert!(by_size[1] > by_size[0] + 3 && by_size[1] > by_size[2] + 3, "{by_size:?}");
}

/// A device with a small alignment that does not divide every tensor's size.
fn card(name: &str, free: u64) -> Device {
    let mut device = Device::new(name).with_free_bytes(free);
    device.alignment_bytes = Some(96);
    device
}

/// Every device keeps its limit, and what was left out would not have fitted.
fn check_fit(plan: &Plan) {
    for device in plan.devices().iter().filter(|device| device.name != CPU) {
        let left = device.free_bytes.unwrap().checked_sub(device.total_bytes);
        let left = left.unwrap_or_else(|| panic!("over its limit\n{plan}"));
        let layers: Vec<Option<u32>> = plan
            .tensors()
            .iter()
            .filter(|p| p.tensor.name.ends_with("attn_q.weight") && p.device == device.name)
            .map(|p| p.tensor.layer)
            .collect();
        // What `fit` decided over is what the last rule matched.
        let earlier = plan.rules().iter().rev().skip(1).any(|rule| rule.matched_tensors > 0);
        // Weights and their bias are one.
        let mut left_out: BTreeMap<&str, u64> = BTreeMap::new();
        for p in plan.tensors().iter().filter(|p| p.tensor.kind.is_expert() && !earlier) {
            if p.device == CPU && layers.contains(&p.tensor.layer) {
                let stem = p.tensor.name.rsplit_once('.').unwrap().0;
                *left_out.entry(stem).or_default() += p.tensor.bytes.next_multiple_of(96);
            }
        }
        let smallest = left_out.values().min();
        assert!(smallest.is_none_or(|&bytes| bytes > left), "{left} bytes are left\n{plan}");
    }
}

fn fit_plan(policy: &str, free: u64, context: &ContextOptions) -> Result<Plan, Error> {
    let policy: OffloadPolicy = policy.parse().unwrap();
    policy.plan(&deepseek().open(), &[card("gpu", free)], context)
}

/// The fewest bytes for which the policy makes a plan.
fn least(policy: &str, context: &ContextOptions) -> u64 {
    let (mut low, mut high) = (0_u64, 1 << 32);
    while low < high {
        let middle = low.midpoint(high);
        match fit_plan(policy, middle, context) {
            Ok(_) => high = middle,
            Err(Error::DoesNotFit { .. }) => low = middle + 1,
            Err(error) => panic!("{error}"),
        }
    }
    high
}

#[test]
fn fallbacks_are_used_in_order_and_no_more_than_needed() {
    let context = ContextOptions::with_context_tokens(4096);
    let plain = least("fit", &context);
    assert_eq!(fit_plan("fit:fewer-layers", plain, &context).unwrap().decisions(), []);

    // One byte less, and the first fallback gives up one step.
    let plan = fit_plan("fit:fewer-layers,cache-to-host", plain - 1, &context).unwrap();
    assert_eq!(plan.decisions(), [Decision::FewerLayers { host_layers: 1 }]);
    let layer = |plan: &Plan, name: &str| {
        plan.tensors().iter().find(|p| p.tensor.name == name).unwrap().device.clone()
    };
    assert_eq!(layer(&plan, "blk.0.attn_q.weight"), CPU);
    assert_eq!(layer(&plan, "blk.1.attn_q.weight"), "gpu");
    assert_eq!((plan.device("gpu").unwrap().layers, plan.device(CPU).unwrap().layers), (5, 1));

    let plan = fit_plan("fit:cache-to-host,fewer-layers", plain - 1, &context).unwrap();
    assert_eq!(plan.decisions(), [Decision::CacheToHost]);
    assert_eq!(plan.device("gpu").unwrap().context_bytes, Some(0));
    let all = fit_plan("fit", 1 << 32, &context).unwrap();
    let cache = all.device("gpu").unwrap().context_bytes;
    // All but the padding is on the CPU.
    let host = plan.device(CPU).unwrap().context_bytes;
    assert!(host > Some(0) && host <= cache, "{host:?} of {cache:?}");

    let plan = fit_plan("fit:smaller-context:1000", plain - 1, &context).unwrap();
    let decision = Decision::SmallerContext { context_tokens: 3840, asked_tokens: 4096 };
    assert_eq!(plan.decisions(), [decision]);
    assert_eq!(plan.context_tokens(), 3840);

    // Too little for one alone: the second is added, and the first is used no more than needed.
    let host = least("fit:cache-to-host", &context);
    assert!(matches!(
        fit_plan("fit:cache-to-host", host - 1, &context),
        Err(Error::DoesNotFit { .. })
    ));
    let plan = fit_plan("fit:cache-to-host,fewer-layers", host - 1, &context).unwrap();
    let both = [Decision::CacheToHost, Decision::FewerLayers { host_layers: 1 }];
    assert_eq!(plan.decisions(), both);
    assert!(plan.to_string().contains("gave up: the first layer is"), "{plan}");
    check_fit(&plan);

    // Nothing helps: the error tells what is enough with all fallbacks, and recommends no more of them.
    let told = |policy: &str| match fit_plan(policy, 1000, &context).unwrap_err() {
        error @ Error::DoesNotFit { needed_bytes, .. } => (needed_bytes, error.to_string()),
        error => panic!("{error}"),
    };
    let policy = "fit:cache-to-host,fewer-layers";
    let (needed_bytes, message) = told(policy);
    assert!(fit_plan(policy, needed_bytes, &context).is_ok());
    let (plain, plain_message) = told("fit");
    assert!(needed_bytes < plain, "{needed_bytes} of {plain}");
    for fallback in ["`cache-to-host`", "`fewer-layers`"] {
        assert!(plain_message.contains(fallback), "{plain_message}");
        assert!(!message.contains(fallback), "{message}");
    }
    let (_, message) = told("fit:cache-to-host");
    assert!(message.contains("`fewer-layers`") && !message.contains("`cache-to"), "{message}");
}

#[test]
fn open_sizes_are_chosen_and_given_ones_kept() {
    let mut context = ContextOptions::with_context_tokens(512);
    let roomy = fit_plan("fit", 1 << 30, &context).unwrap();
    assert_eq!(roomy.decisions(), []);
    context.open.micro_batch_tokens = true;
    context.open.kv_type = true;
    // Plenty of room: the type stays, as it costs nothing.
    let plan = fit_plan("fit", 1 << 30, &context).unwrap();
    assert!(plan.context().micro_batch_tokens <= 512);
    // Little room: small buffers make place for experts.
    let tight = fit_plan("fit", least("fit", &context) + 60_000, &context).unwrap();
    assert_eq!(tight.context().micro_batch_tokens, 128, "{tight}");
    assert_eq!(tight.decisions().len(), 2);
    let given = ContextOptions::with_context_tokens(512);
    assert!(fit_plan("fit", tight.device("gpu").unwrap().free_bytes.unwrap(), &given).is_err());

    // The context takes what experts leave, and nothing of theirs.
    let mut context = ContextOptions::with_context_tokens(512);
    context.open.context_tokens = true;
    let plan = fit_plan("fit", 1 << 30, &context).unwrap();
    let trained = Decision::LargerContext { context_tokens: 2048, default_tokens: 512 };
    assert_eq!(plan.decisions(), [trained]);
    let some = ContextOptions::with_context_tokens(512);
    let free = least("fit", &some) + 30_000;
    let (grown, plain) =
        (fit_plan("fit", free, &context).unwrap(), fit_plan("fit", free, &some).unwrap());
    assert_eq!(grown.expert_bytes_on_devices(), plain.expert_bytes_on_devices());
    check_fit(&grown);
}

#[test]
fn fit_composes_with_rules_on_either_side() {
    let context = ContextOptions::with_context_tokens(64);
    // Rules win over fit, whether they keep experts off a device with room or force them on one.
    let plan = fit_plan("layers:1;fit", 1 << 30, &context).unwrap();
    assert_eq!(offloaded(&plan), [1]);
    let plan = fit_plan("layers:5=gpu;fit", least("layers:5=gpu;fit", &context), &context).unwrap();
    assert_eq!(offloaded(&plan), [1, 2, 3, 4]);
    // Added to a fit it is refused, not ignored.
    let error = "fit;layers:1".parse::<OffloadPolicy>().unwrap_err();
    assert!(matches!(error, Error::InvalidPolicy { .. }), "{error}");
    let joined = "fit".parse::<OffloadPolicy>().unwrap().then(OffloadPolicy::AllExperts);
    let error = joined.plan(&deepseek().open(), &[card("gpu", 1 << 30)], &context).unwrap_err();
    assert!(matches!(error, Error::InvalidPolicy { .. }), "{error}");
}

#[test]
fn fit_without_devices_is_a_plan() {
    let plan = plan(&deepseek(), "fit:1GiB,cache-to-host", &[]).unwrap();
    assert!(plan.tensors().iter().all(|placement| placement.device == CPU));
    assert!(plan.decisions().is_empty());
}

#[test]
fn what_was_asked_for_is_not_given_up() {
    let mut context = ContextOptions::with_context_tokens(4096);
    context.cache_on_host = true;
    let free = least("fit", &context) - 1;
    let plan = fit_plan("fit:cache-to-host,fewer-layers", free, &context).unwrap();
    assert_eq!(plan.decisions(), [Decision::FewerLayers { host_layers: 1 }]);
    let alone = fit_plan("fit:cache-to-host", free, &context);
    assert!(matches!(alone, Err(Error::DoesNotFit { .. })));
}

#[test]
fn only_a_smaller_type_that_the_cache_can_have_is_chosen() {
    let mut context = ContextOptions::with_context_tokens(4096);
    context.open.kv_type = true;
    // Rows of 4 elements cannot be in blocks of 32.
    for extra in [0, 100_000, 300_000] {
        let plan = fit_plan("fit:fewer-layers", least("fit", &context) + extra, &context).unwrap();
        assert_eq!(plan.context().kv_type, GgmlType::F16);
    }
    let mut writer = deepseek().writer();
    for key in ["key_length", "value_length"] {
        writer.set(format!("deepseek2.attention.{key}"), 32_u32);
    }
    let gguf = read(&bytes_of(&writer)).unwrap();
    context.kv_type = GgmlType::from_name("q4_0").unwrap();
    let policy: OffloadPolicy = "fit:fewer-layers".parse().unwrap();
    // So little that everything is given up.
    let plan = policy.plan(&gguf, &[card("gpu", 2_330_000)], &context).unwrap();
    assert_eq!(plan.context().kv_type, context.kv_type);
}

#[test]
fn a_cache_of_unknown_size_does_not_grow() {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "unheard-of").set("unheard-of.block_count", 1_u32);
    writer.set("unheard-of.context_length", 1_000_000_u32);
    writer.tensor("blk.0.ffn_up_exps.weight", &[32, 32, 4], GgmlType::Q8_0);
    let gguf = read(&bytes_of(&writer)).unwrap();
    let mut context = ContextOptions::default();
    context.open.context_tokens = true;
    let policy: OffloadPolicy = "fit".parse().unwrap();
    let plan = policy.plan(&gguf, &[card("gpu", 1 << 30)], &context).unwrap();
    assert_eq!((plan.context_tokens(), plan.decisions()), (4096, &[][..]));
}
