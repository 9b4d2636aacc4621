//! What a plan knows of a device beside its free memory: how it pads, and what it takes for itself.

use std::collections::BTreeSet;
use std::path::PathBuf;

use moe_offload::gguf::GgmlType;
use moe_offload::plan::{DevicePlan, Overhead, pool_bytes};
use moe_offload::{ContextOptions, Device, Error, ExpertMap, GgufFile, OffloadPolicy, Plan};
use moe_offload_synth::{self as synth, SynthOptions};

use crate::support::engine_source;
use crate::support::model_files::demo;

const MIB: u64 = 1 << 20;

struct Model {
    _folder: tempfile::TempDir,
    gguf: GgufFile,
}

fn model(arch: &str, options: &SynthOptions) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("model.gguf");
    synth::family(arch).unwrap().build(options).unwrap().save_without_weights(&path, 1).unwrap();
    Model { gguf: GgufFile::open(&path).unwrap(), _folder: folder }
}

fn plan(gguf: &GgufFile, policy: &str, device: &Device) -> Result<Plan, Error> {
    let policy: OffloadPolicy = policy.parse().unwrap();
    policy.plan(gguf, std::slice::from_ref(device), &ContextOptions::default())
}

fn on_card(gguf: &GgufFile, policy: &str, device: &Device) -> DevicePlan {
    plan(gguf, policy, device).unwrap().devices()[0].clone()
}

fn cuda() -> Device {
    Device::new("CUDA0").of_backend("CUDA")
}

/// By hand: 2880 elements of MXFP4 are 1530 bytes, and 192 more to 3072 are 102; the biases need none.
#[test]
fn only_the_last_row_of_a_quantised_tensor_is_padded() {
    let Model { gguf, .. } = &model("gpt-oss-20b", &SynthOptions::default().layers(2));
    let of = |device: &Device, what: &str| {
        let policy = format!("regex:^{what}$=CUDA0;regex:.=cpu");
        let card = on_card(gguf, &policy, device);
        (card.weights_bytes, card.padding_bytes)
    };
    let experts = r"blk\.0\.ffn_up_exps\.weight";
    let bytes = 32 * 2880 * 1530;
    assert_eq!(of(&cuda(), experts), (bytes, 102 + (128 - (bytes + 102) % 128) % 128));
    // Of no type with blocks, and of one that another backend leaves as it is.
    assert_eq!(of(&cuda(), r"blk\.0\.ffn_up_exps\.bias"), (32 * 2880 * 4, 0));
    let vulkan = Device::new("CUDA0").of_backend("Vulkan");
    assert_eq!(of(&vulkan, experts), (bytes, 0));
}

/// What an H200 allocated for the weights of two files (CUDA 13.0): 650,240 bytes, and 11,648 beyond the file's
/// own.
#[test]
fn weights_are_what_a_card_was_seen_to_allocate() {
    let Model { gguf, .. } = &model("gpt-oss-20b", &SynthOptions::tiny());
    let card = on_card(gguf, "none", &cuda());
    assert_eq!((card.weights_bytes, card.weights_bytes + card.padding_bytes), (638_688, 650_240));
    let demo = GgufFile::open(demo()).unwrap();
    assert_eq!(on_card(&demo, "none", &cuda()).padding_bytes, 11_648);
}

#[test]
fn a_quantised_cache_is_padded_too() {
    let Model { gguf, .. } = &model("gpt-oss-20b", &SynthOptions::tiny());
    let context = |kv_type: &str| {
        let mut context = ContextOptions::with_context_tokens(256);
        context.kv_type = GgmlType::from_name(kv_type).unwrap();
        context
    };
    let bytes = |device: &Device, kv_type: &str| {
        let devices = std::slice::from_ref(device);
        let plan = OffloadPolicy::None.plan(gguf, devices, &context(kv_type)).unwrap();
        plan.devices()[0].context_bytes.unwrap()
    };
    let plain = Device::new("CUDA0");
    assert_eq!(bytes(&cuda(), "f16"), bytes(&plain, "f16"));
    // Keys and values of 4 layers, each with rows of 64 elements, of which the last is as long as 512.
    let rest = (512 - 64) / 32 * 34;
    let padded = (bytes(&plain, "q8_0") / 8 + rest).next_multiple_of(128) * 8;
    assert_eq!(bytes(&cuda(), "q8_0"), padded);
}

#[test]
fn what_is_held_back_is_counted_everywhere() {
    let Model { gguf, .. } = &model("gpt-oss-20b", &SynthOptions::default());
    let free = 8 << 30;
    let card = |overhead| cuda().with_free_bytes(free).with_overhead(overhead);
    let [none, some] = [Overhead::NONE, Overhead::Bytes(700 * MIB)].map(card);
    let without = plan(gguf, "fit", &none).unwrap();
    let with = plan(gguf, "fit", &some).unwrap();
    let device = &with.devices()[0];
    assert_eq!(device.overhead_bytes, 700 * MIB);
    let parts = [device.weights_bytes, device.padding_bytes, device.context_bytes.unwrap()];
    let all = parts.iter().sum::<u64>() + device.reserved_bytes + device.overhead_bytes;
    assert!(device.total_bytes == all && all <= free, "{with}");
    let fewer = without.expert_bytes_on_devices() - with.expert_bytes_on_devices();
    // A whole expert tensor is 135 MiB here.
    assert!((500 * MIB..=900 * MIB).contains(&fewer), "{fewer}");

    // What does not fit for it alone is refused, with the sum.
    let lean = on_card(gguf, "all-experts", &none).weights_bytes;
    let tight = cuda().with_free_bytes(lean + 1024 * MIB);
    assert!(plan(gguf, "fit", &tight.clone().with_overhead(Overhead::NONE)).is_ok());
    let error = plan(gguf, "fit", &tight.with_overhead(Overhead::Bytes(1024 * MIB))).unwrap_err();
    assert!(
        matches!(error, Error::DoesNotFit { needed_bytes, .. } if needed_bytes > lean + 1024 * MIB),
        "{error}"
    );

    // A device that gets nothing takes nothing.
    let unused = on_card(gguf, "regex:.=cpu;fit:fewer-layers", &some);
    assert_eq!((unused.layers > 0, unused.overhead_bytes > 0), (true, true));
    let devices = [some.clone(), cuda().with_free_bytes(0)];
    let mut second = devices[1].clone();
    second.name = "CUDA1".into();
    let policy: OffloadPolicy = "fit".parse().unwrap();
    let two = policy.plan(gguf, &[some, second], &ContextOptions::default()).unwrap();
    assert_eq!(two.devices()[1].overhead_bytes, 0, "{two}");
}

#[test]
fn the_table_has_a_column_for_it_where_there_is_any() {
    let Model { gguf, .. } = &model("gpt-oss-20b", &SynthOptions::default().layers(2));
    let card = cuda().with_free_bytes(8 << 30).with_overhead(Overhead::Bytes(200 * MIB));
    let with = plan(gguf, "fit", &card).unwrap();
    insta::assert_snapshot!(with);
    let without = plan(gguf, "fit", &card.with_overhead(Overhead::NONE)).unwrap();
    assert!(!without.to_string().contains("overhead"), "{without}");
    let json = |plan: &Plan| serde_json::to_value(plan).unwrap()["devices"][0].clone();
    assert_eq!(json(&with)["overhead_bytes"], 200 * MIB);
    assert_eq!(json(&without).get("overhead_bytes"), None);
    let read: Plan = serde_json::from_value(serde_json::to_value(&with).unwrap()).unwrap();
    assert_eq!(read, with);
    assert!(read.check(gguf).is_ok());
}

/// What the free memory of an H100 (80 GB, CUDA 13.0, driver 580) fell by beyond the engine's account, in KiB, from
/// before the load to after a prompt that filled the context, in a process of its own each.
const MEASURED: [(&str, u32, u32, u32, &str, u64); 25] = [
    ("gpt-oss-20b", 6, 128, 4096, "f16", 4247 + 176_128),
    ("gpt-oss-20b", 6, 512, 4096, "f16", 6149 + 180_224),
    ("gpt-oss-20b", 6, 512, 4096, "f16", 13_161 + 180_224), // `all-experts`, read
    ("gpt-oss-20b", 6, 512, 4096, "q8_0", 7477 + 180_224),
    ("gpt-oss-20b", 6, 512, 32_768, "q8_0", 6197 + 180_224),
    ("gpt-oss-20b", 6, 512, 32_768, "f16", 6149 + 180_224),
    ("gpt-oss-20b", 6, 2048, 4096, "f16", 5053 + 196_608),
    ("gpt-oss-20b", 6, 2048, 4096, "f16", 12_095 + 196_608), // `all-experts`, read
    ("gpt-oss-20b", 6, 4096, 8192, "f16", 4957 + 225_280),
    ("qwen3-30b-a3b", 2, 512, 4096, "f16", 3599 + 180_224),
    ("qwen3-30b-a3b", 2, 512, 32_768, "f16", 3599 + 180_224),
    ("qwen3-30b-a3b", 2, 2048, 4096, "f16", 5352 + 206_848), // `all-experts`, read
    ("qwen3-30b-a3b", 2, 2048, 32_768, "q4_0", 3215 + 206_848),
    ("qwen3-next-80b-a3b", 4, 512, 4096, "f16", 5589 + 186_368),
    ("qwen3-next-80b-a3b", 4, 512, 4096, "f16", 12_513 + 186_368), // `all-experts`, read
    ("qwen3-next-80b-a3b", 4, 2048, 4096, "f16", 5285 + 215_040),
    ("qwen3-next-80b-a3b", 4, 2048, 4096, "f16", 11_477 + 215_040), // `all-experts`, read
    // Tiny shapes.
    ("grok-1", 0, 512, 1024, "f16", 2825 + 176_128),
    ("gemma-4-26b-a4b", 0, 512, 1024, "f16", 4281 + 176_128),
    ("llama-4-scout", 0, 512, 1024, "f16", 3014 + 176_128),
    ("deepseek-v3", 0, 512, 1024, "f16", 4240 + 176_128),
    ("jamba-1.5-mini", 0, 512, 1024, "f16", 3527 + 176_128),
    ("dbrx", 0, 512, 1024, "f16", 3341 + 176_128),
    ("lfm2-8b-a1b", 0, 512, 1024, "f16", 3954 + 176_128),
    ("arctic", 0, 512, 1024, "f16", 2869 + 178_176),
];

#[test]
fn the_estimate_for_cuda_is_what_a_card_was_seen_to_take_and_little_more() {
    for (arch, layers, micro_batch_tokens, tokens, kv_type, kib) in MEASURED {
        let options = match layers {
            0 => SynthOptions::tiny(),
            layers => SynthOptions::default().layers(layers),
        };
        let Model { gguf, .. } = &model(arch, &options);
        let mut context = ContextOptions::with_context_tokens(tokens);
        context.micro_batch_tokens = micro_batch_tokens;
        context.batch_tokens = context.batch_tokens.max(micro_batch_tokens);
        context.kv_type = GgmlType::from_name(kv_type).unwrap();
        let estimate = Overhead::CUDA.bytes(gguf, &context).unwrap();
        let measured = kib << 10;
        let what = format!("{arch}, {micro_batch_tokens} of {tokens}: {estimate} for {measured}");
        assert!((measured..=measured + 32 * MIB).contains(&estimate), "{what}");
    }
}

/// What `src/plan/overhead.rs` and `Device::of_backend` took from the engine's source is still there.
#[test]
fn the_rules_are_the_engine_s() {
    let source = |path: &str| engine_source::read(&format!("../ggml/src/{path}"));
    let cuda = source("ggml-cuda/common.cuh");
    for padding in [&cuda, &source("ggml-sycl/presets.hpp"), &source("ggml-cann/common.h")] {
        let found = engine_source::all(r"#define MATRIX_ROW_PADDING +([0-9]+)", padding);
        assert_eq!(found, BTreeSet::from(["512".to_owned()]));
    }
    let workspace = engine_source::between(&cuda, "cc >= GGML_CUDA_CC_HOPPER) ?", ":");
    assert_eq!(workspace.trim(), "32 * 1024 * 1024");
    let scan = source("ggml-cuda/ssm-scan.cu");
    assert!(scan.contains("#define SSM_SSD_CHUNK_SIZE 256"));
    // Types that the device multiplies with directly; all others are dequantised first.
    let mmq = source("ggml-cuda/mmq.cu");
    let list = engine_source::between(&mmq, "bool ggml_cuda_should_use_mmq", "default:");
    let direct = engine_source::all("case GGML_TYPE_([A-Z0-9_]+):", list);
    let quantised = GgmlType::all().filter(|ggml_type| ggml_type.is_quantised());
    let others = quantised.filter(|t| !direct.contains(&t.name().to_ascii_uppercase()));
    let others: BTreeSet<&str> = others.map(GgmlType::name).collect();
    assert_eq!(others, BTreeSet::from(["iq1_m", "tq1_0", "tq2_0", "q8_1", "q8_K"]));
}

/// The pool follows the micro-batch, and is what the device's overhead is made of.
#[test]
fn a_larger_micro_batch_needs_a_larger_pool() {
    let Model { gguf, .. } = &model("gpt-oss-20b", &SynthOptions::default().layers(2));
    let experts = ExpertMap::new(gguf).unwrap();
    let context = |micro_batch_tokens| {
        let mut context = ContextOptions::with_context_tokens(4096);
        context.micro_batch_tokens = micro_batch_tokens;
        context
    };
    let pool = |tokens| pool_bytes(gguf, &experts, &context(tokens));
    assert!(pool(2048) - pool(512) >= 1536 * 4 * 3072 * 9 / 8 - 2 * MIB);
    let devices = [cuda().with_free_bytes(24 << 30)];
    let plan = OffloadPolicy::AllExperts.plan(gguf, &devices, &context(2048)).unwrap();
    assert_eq!(
        plan.devices()[0].overhead_bytes,
        Overhead::CUDA.bytes(gguf, &context(2048)).unwrap()
    );
}
