//! What the engine would not survive is refused, each with its own fault, and nothing else is.
#![allow(missing_docs)]

mod support;

use moe_offload::error::ModelFault;
use moe_offload::gguf::{GgmlType, GgufWriter, WriteValue};
use moe_offload::synth::{self, SynthOptions};
use moe_offload::{Error, GgufFile, preflight};
use support::model_files::{bytes_of, read};

/// Only the header; the data is said to be there.
fn header(writer: &GgufWriter) -> GgufFile {
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).unwrap();
    GgufFile::read(&bytes[..], 1 << 42, "header.gguf").unwrap()
}

fn tiny(family: &str) -> GgufWriter {
    let family = synth::family(family).unwrap();
    family.build(&SynthOptions::tiny()).unwrap().header().clone()
}

fn fault(writer: &GgufWriter) -> ModelFault {
    match preflight::check(&header(writer)) {
        Err(Error::UnsafeModel { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// The fault of a tiny file with one key changed.
fn with(family: &str, key: &str, value: impl Into<WriteValue>) -> ModelFault {
    fault(tiny(family).set(key, value))
}

#[test]
fn every_family_passes_in_both_scales() {
    for family in synth::families() {
        for options in [SynthOptions::tiny(), SynthOptions::default()] {
            let model = family.build(&options).unwrap();
            let checked = preflight::check(&header(model.header()));
            assert!(checked.is_ok(), "{}: {}", family.name, checked.unwrap_err());
        }
    }
}

#[test]
fn the_demo_model_passes() {
    preflight::check(&GgufFile::open(support::model_files::demo()).unwrap()).unwrap();
}

#[test]
fn more_than_the_engine_has_room_for() {
    for (key, value, most) in
        [("dbrx.block_count", 513_u32, 512), ("dbrx.expert_count", 1025, 1024)]
    {
        let expected = ModelFault::NoRoom { key: key.to_owned(), value: u64::from(value), most };
        assert_eq!(with("dbrx", key, value), expected);
    }
}

#[test]
fn types_without_code() {
    let mut writer = tiny("dbrx");
    writer.tensor("blk.0.extra.weight", &[32, 2], GgmlType::from_name("i32").unwrap());
    assert!(
        matches!(fault(&writer), ModelFault::TensorType { tensor, .. } if tensor.contains("extra"))
    );
    let mut writer = tiny("dbrx");
    writer.tensor("blk.0.extra_norm.weight", &[32], GgmlType::F16);
    assert!(matches!(fault(&writer), ModelFault::TensorType { expected: "f32", .. }));
    let mut writer = tiny("dbrx");
    writer.tensor("d2t", &[32], GgmlType::from_name("i64").unwrap());
    writer.tensor("cls.output.weight", &[32, 1], GgmlType::F16);
    preflight::check(&header(&writer)).unwrap();
}

#[test]
fn sizes_that_the_engine_divides_by() {
    for (family, key) in [
        ("phi-3.5-moe", "phimoe.attention.head_count"),
        ("qwen3-30b-a3b", "qwen3moe.expert_used_count"),
        ("glm-4.5", "glm4moe.rope.dimension_count"),
        ("jamba-1.5-mini", "jamba.ssm.time_step_rank"),
        ("qwen3-next-80b-a3b", "qwen3next.full_attention_interval"),
        ("ernie-4.5-21b-a3b", "ernie4_5-moe.interleave_moe_layer_step"),
        ("grovemoe", "grovemoe.experts_per_group"),
    ] {
        assert_eq!(with(family, key, 0_u32), ModelFault::Zero { key: key.into() }, "{family}");
    }
    let per_layer = with("qwen3-30b-a3b", "qwen3moe.expert_used_count", vec![2_u32, 2, 0, 2]);
    assert!(matches!(per_layer, ModelFault::Zero { .. }));
    let sections = with("qwen3.5-35b-a3b", "qwen35moe.rope.dimension_sections", vec![0, 0, 0, 0]);
    assert!(matches!(sections, ModelFault::Zero { .. }));
}

#[test]
fn sizes_out_of_proportion() {
    for (family, key, value) in [
        ("olmoe-1b-7b", "olmoe.attention.key_length", 32_000_u32),
        ("olmoe-1b-7b", "olmoe.attention.value_length", u32::MAX),
        ("dots1", "dots1.attention.head_count_kv", 1 << 24),
        ("qwen3-next-80b-a3b", "qwen3next.ssm.inner_size", 0xA152_AA66),
        ("lfm2-8b-a1b", "lfm2moe.shortconv.l_cache", 1 << 30),
        ("gpt-oss-20b", "gpt-oss.attention.sliding_window", i32::MAX.unsigned_abs()),
        ("dbrx", "dbrx.rope.dimension_count", 34),
        ("dbrx", "dbrx.expert_used_count", 9),
    ] {
        let is_right = match with(family, key, value) {
            ModelFault::TooLarge { key: found, .. } => found == key,
            ModelFault::NotDivisible { .. } => key.ends_with("head_count_kv"),
            _ => false,
        };
        assert!(is_right, "{family} {key}");
    }
    let sections = with("qwen3.5-35b-a3b", "qwen35moe.rope.dimension_sections", vec![1, -1, 0, 0]);
    assert!(matches!(sections, ModelFault::TooLarge { .. }));
}

#[test]
fn numbers_that_fail_an_assertion_on_another_thread() {
    let odd = with("dbrx", "dbrx.rope.dimension_count", 31_u32);
    assert!(matches!(odd, ModelFault::Odd { value: 31, .. }));
    for value in [-1.0, f32::NAN, f32::INFINITY] {
        let epsilon = with("dbrx", "dbrx.attention.layer_norm_epsilon", value);
        assert!(matches!(epsilon, ModelFault::BadEpsilon { .. }), "{value}");
    }
    let heads = with("dbrx", "dbrx.attention.head_count_kv", 3_u32);
    assert!(matches!(heads, ModelFault::NotDivisible { divisor: 3, .. }));
}

#[test]
fn made_up_vocabularies_are_as_large_as_the_embedding() {
    let mut writer = tiny("dbrx");
    writer.set("tokenizer.ggml.model", "none").set("dbrx.vocab_size", u32::MAX);
    assert!(matches!(fault(&writer), ModelFault::TooLarge { key, .. } if key == "dbrx.vocab_size"));
    writer.set("dbrx.vocab_size", 384_u32);
    preflight::check(&header(&writer)).unwrap();
}

#[test]
fn tensors_that_are_used_without_asking() {
    let full = tiny("qwen3-next-80b-a3b");
    let mut writer = GgufWriter::new();
    for key in ["block_count", "attention.head_count", "expert_used_count", "expert_count"] {
        writer.set(format!("qwen3next.{key}"), 4_u32);
    }
    writer.set("general.architecture", "qwen3next");
    for tensor in full.tensors().iter().filter(|tensor| !tensor.name.contains("attn_gate")) {
        writer.tensor(tensor.name.clone(), &tensor.shape, tensor.ggml_type);
    }
    assert!(matches!(fault(&writer), ModelFault::MissingTensor { .. }));
}

#[test]
fn more_names_than_a_pattern_can_hold() {
    let mut writer = tiny("dbrx");
    for i in 0..1100 {
        writer.tensor(format!("blk.0.made_up_{i}_exps.weight"), &[32, 1, 2], GgmlType::F32);
    }
    assert!(matches!(fault(&writer), ModelFault::TooManyNames { .. }));
}

#[test]
fn a_file_without_layers_is_the_engine_s_business() {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "bert").set("bert.block_count", 1_u32);
    writer.tensor("token_embd.weight", &[32, 100], GgmlType::F16);
    preflight::check(&header(&writer)).unwrap();
}

#[test]
fn a_file_without_an_architecture() {
    let gguf = read(&bytes_of(&GgufWriter::new())).unwrap();
    assert!(matches!(preflight::check(&gguf), Err(Error::MissingMetadata { .. })));
}
