//! What the engine would not survive is refused, each with its own fault, and nothing else is.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use moe_offload::error::{FilePurpose, ModelFault};
use moe_offload::gguf::GgmlType;
use moe_offload::{Error, GgufFile, preflight};
use moe_offload_synth::{self as synth, GgufWriter, SynthOptions, WriteTensor, WriteValue};

use crate::support;
use crate::support::engine_source;
use crate::support::model_files::{bytes_of, read};

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

/// Nothing but what every file must have is missing in a header that has little.
fn survives(writer: &GgufWriter) {
    match preflight::check(&header(writer)) {
        Ok(()) | Err(Error::UnsafeModel { fault: ModelFault::MissingKey { .. }, .. }) => {}
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
    for value in [-1.0, f32::NAN, f32::INFINITY, 1e38] {
        let epsilon = with("dbrx", "dbrx.attention.layer_norm_epsilon", value);
        assert!(matches!(epsilon, ModelFault::BadNumber { .. }), "{value}");
    }
    let heads = with("dbrx", "dbrx.attention.head_count_kv", 3_u32);
    assert!(matches!(heads, ModelFault::NotDivisible { divisor: 3, .. }));
}

#[test]
fn scores_are_not_divided_by_zero() {
    for (family, key) in [
        ("granite-3.1-3b-a800m", "granitemoe.logit_scale"),
        ("grok-1", "grok.logit_scale"),
        ("grok-1", "grok.attn_logit_softcapping"),
    ] {
        let fault = with(family, key, 0.0_f32);
        assert!(
            matches!(&fault, ModelFault::BadNumber { key: found, .. } if found == key),
            "{fault}"
        );
    }
}

/// It would compute with the logarithm of a number below 0.
#[test]
fn yarn_stretches_a_context_of_31_bits() {
    let key = "rope.scaling.original_context_length";
    for (family, architecture) in [("gpt-oss-20b", "gpt-oss"), ("deepseek-v3", "deepseek2")] {
        let fault = with(family, &format!("{architecture}.{key}"), 1_u32 << 31);
        assert!(
            matches!(&fault, ModelFault::NoRoom { key: found, .. } if found.ends_with(key)),
            "{fault}"
        );
    }
    let mut writer = tiny("dbrx");
    writer.set("dbrx.context_length", 1_u32 << 31);
    preflight::check(&header(&writer)).unwrap();
    writer.set("dbrx.rope.scaling.type", "yarn");
    assert!(matches!(fault(&writer), ModelFault::NoRoom { .. }));
}

#[test]
fn without_a_vocabulary_there_is_no_text() {
    for model in ["none", "no_vocab"] {
        let fault = with("dbrx", "tokenizer.ggml.model", model);
        assert!(matches!(fault, ModelFault::NoVocabulary { .. }), "{fault}");
    }
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
    writer.set("general.architecture", "olmo").set("olmo.block_count", 1_u32);
    writer.tensor("token_embd.weight", &[32, 100], GgmlType::F16);
    survives(&writer);
}

#[test]
fn a_file_without_an_architecture() {
    let gguf = read(&bytes_of(&GgufWriter::new())).unwrap();
    assert!(matches!(preflight::check(&gguf), Err(Error::MissingMetadata { .. })));
}

/// A header of this architecture that holds little more than these tensors.
fn of(architecture: &str, layers: u32, next_token: u32, tensors: &[&str]) -> GgufWriter {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", architecture)
        .set(format!("{architecture}.block_count"), layers)
        .set(format!("{architecture}.nextn_predict_layers"), next_token);
    for tensor in tensors {
        writer.tensor(*tensor, &[32], GgmlType::F32);
    }
    writer
}

fn purpose(writer: &GgufWriter) -> FilePurpose {
    match preflight::check(&header(writer)) {
        Err(Error::NotATextModel { purpose, .. }) => purpose,
        other => panic!("{other:?}"),
    }
}

#[test]
fn architectures_are_those_of_the_engine() {
    let model = engine_source::read("llama-model.cpp");
    let create = engine_source::between(&model, "llama_model_mapping(", "llama_model_create(");
    let mut expected = engine_source::named_in(create);
    expected.remove("clip"); // a class that refuses to be a model
    let ours: BTreeSet<String> = preflight::ARCHITECTURES.iter().map(ToString::to_string).collect();
    assert_eq!(ours, expected);
    assert!(preflight::ARCHITECTURES.is_sorted());
}

#[test]
fn an_architecture_that_the_engine_does_not_know() {
    let near_of = |architecture: &str| {
        let writer = of(architecture, 1, 0, &["blk.0.attn_norm.weight"]);
        match preflight::check(&header(&writer)) {
            Err(Error::UnknownArchitecture { near, architecture: found, .. }) => {
                assert_eq!(found, architecture);
                near
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(near_of("qwen3_moe")[0], "qwen3moe");
    assert_eq!(near_of("GPT-OSS")[0], "gpt-oss");
    // The engine has its name, and no code for it.
    assert!(!near_of("gptj").contains(&"gptj"));
    assert!(near_of("zzzz").is_empty());
    let writer = of("qwen3_moe", 1, 0, &["blk.0.attn_norm.weight"]);
    let error = preflight::check(&header(&writer)).unwrap_err().to_string();
    assert!(error.contains("`qwen3_moe`, which the pinned engine"), "{error}");
    assert!(error.contains("`qwen3moe`"), "{error}");
}

#[test]
fn architectures_that_write_no_text_are_those_of_the_engine() {
    let model = engine_source::read("llama-model.cpp");
    let create = engine_source::between(&model, "::create_memory(", "res = nullptr;");
    let encoder = engine_source::between(&model, "llama_model_has_encoder(", "return true;");
    let arch = engine_source::read("llama-arch.cpp");
    let diffusion = engine_source::between(&arch, "llm_arch_is_diffusion(", "return true;");
    let diffusion = engine_source::named_in(diffusion);
    let mut all = engine_source::named_in(create);
    all.extend(engine_source::named_in(encoder));
    all.extend(diffusion.iter().cloned());
    assert!(all.len() > 15, "{all:?}");
    for architecture in &all {
        let purpose = purpose(&of(architecture, 1, 0, &["blk.0.attn_norm.weight"]));
        let is_diffusion = matches!(purpose, FilePurpose::Diffusion { .. });
        assert_eq!(is_diffusion, diffusion.contains(architecture), "{architecture}: {purpose}");
        assert!(purpose.to_string().contains(architecture.as_str()), "{purpose}");
    }
    for (architecture, phrase) in [
        ("nomic-bert-moe", "embeddings"),
        ("llada-moe", "diffusion"),
        ("rnd1", "diffusion"),
        ("t5", "encoder-decoder"),
        ("qwen3tts", "speech"),
        ("clef", "decides"),
        ("eagle3", "draft head"),
    ] {
        let purpose = purpose(&of(architecture, 1, 0, &["blk.0.attn_norm.weight"])).to_string();
        assert!(purpose.contains(phrase), "{purpose}");
    }
}

#[test]
fn models_that_say_themselves_that_they_write_no_text() {
    let mut writer = tiny("qwen3-30b-a3b");
    writer.set("qwen3moe.pooling_type", 3_u32);
    let by = |key: &str| FilePurpose::Embeddings {
        architecture: "qwen3moe".into(),
        key: Some(format!("qwen3moe.{key}")),
    };
    assert_eq!(purpose(&writer), by("pooling_type"));
    assert_eq!(purpose(writer.set("qwen3moe.attention.causal", false)), by("attention.causal"));
    writer.set("qwen3moe.attention.causal", true).set("qwen3moe.pooling_type", 0_u32);
    preflight::check(&header(&writer)).unwrap();
}

#[test]
fn files_that_go_with_a_model() {
    let mut projector = of("clip", 1, 0, &["v.blk.0.ln1.weight"]);
    assert_eq!(purpose(&projector), FilePurpose::Projector);
    assert_eq!(purpose(projector.set("general.type", "mmproj")), FilePurpose::Projector);

    let mut adapter = of("llama", 1, 0, &["blk.0.attn_q.weight.lora_a"]);
    adapter.set("general.type", "adapter").set("adapter.type", "lora");
    assert_eq!(purpose(&adapter), FilePurpose::Adapter { kind: "lora".into() });
    let control = of("controlvector", 1, 0, &["direction.1"]);
    assert_eq!(purpose(&control), FilePurpose::Adapter { kind: "control vector".into() });

    // It names no architecture.
    let mut matrix = GgufWriter::new();
    matrix.set("general.type", "imatrix").tensor("a.in_sum2", &[32], GgmlType::F32);
    assert_eq!(purpose(&matrix), FilePurpose::ImportanceMatrix);

    let images = of("flux", 1, 0, &["double_blocks.0.img_attn.norm.key_norm.scale"]);
    assert_eq!(purpose(&images), FilePurpose::Images { architecture: "flux".into() });
    let mut nameless = GgufWriter::new();
    nameless.tensor("model.diffusion_model.out.0.bias", &[32], GgmlType::F32);
    assert!(matches!(purpose(&nameless), FilePurpose::Images { .. }));

    let mut vocabulary = of("llama", 4, 0, &[]);
    assert_eq!(purpose(&vocabulary), FilePurpose::NoWeights);
    vocabulary.set("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    assert_eq!(purpose(&vocabulary), FilePurpose::Vocabulary);

    for (purpose, phrase) in [
        (FilePurpose::Projector, "general.type `mmproj`"),
        (FilePurpose::Adapter { kind: "lora".into() }, "general.type `adapter`"),
        (FilePurpose::ImportanceMatrix, "general.type `imatrix`"),
        (FilePurpose::Vocabulary, "only a vocabulary"),
        (FilePurpose::Images { architecture: "flux".into() }, "images or video"),
    ] {
        assert!(purpose.to_string().contains(phrase), "{purpose}");
    }
}

/// The architectures whose layers the engine lets be missing where one tensor is, and that tensor.
fn optional_layers() -> &'static [(String, &'static str)] {
    static FOUND: OnceLock<Vec<(String, &'static str)>> = OnceLock::new();
    FOUND.get_or_init(read_optional_layers)
}

fn read_optional_layers() -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(engine_source::folder().join("models")).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let condition = source.lines().find(|line| line.contains("bool mtp_only"));
        let Some(condition) = condition else { continue };
        let tensor = match condition {
            line if line.contains("blk.0.attn_norm.weight") => "attn_norm.weight",
            line if line.contains("LLM_TENSOR_HC_ATTN_NORM") => "hc_attn_norm.weight",
            other => panic!("another condition: {other}"),
        };
        let class =
            engine_source::all(r"void llama_model_([a-z0-9_]+)::load_arch_tensors", &source);
        assert_eq!(class.len(), 1, "{class:?}");
        let architectures = class.iter().flat_map(|class| engine_source::run_by(class));
        found.extend(architectures.map(|architecture| (architecture, tensor)));
    }
    found
}

#[test]
fn a_file_of_next_token_layers_alone_is_a_draft_head() {
    let architectures = optional_layers();
    assert!(architectures.len() > 15, "{architectures:?}");
    for (architecture, _) in architectures {
        let architecture = architecture.clone();
        let tensors = ["blk.2.nextn.eh_proj.weight", "blk.2.attn_norm.weight", "output.weight"];
        let head = of(&architecture, 3, 1, &tensors);
        let expected = match architecture.as_str() {
            "clef" => FilePurpose::Decisions { architecture },
            _ => FilePurpose::DraftHead { architecture },
        };
        assert_eq!(purpose(&head), expected);
    }
    let error = preflight::check(&header(&of("qwen35moe", 1, 1, &["blk.0.nextn.eh_proj.weight"])));
    let text = error.unwrap_err().to_string();
    assert!(text.contains("is a draft head") && text.contains("main model's file"), "{text}");
}

#[test]
fn a_whole_file_without_the_tensor_that_makes_others_optional() {
    for (architecture, probe) in optional_layers() {
        if architecture == "clef" {
            continue; // writes no text
        }
        let with = format!("blk.0.{probe}");
        let tensors =
            ["blk.0.ffn_up.weight", "blk.1.attn_norm.weight", "blk.2.nextn.eh_proj.weight"];
        let fault = fault(&of(architecture, 3, 1, &tensors));
        assert_eq!(fault, ModelFault::OptionalLayers { tensor: with.clone(), layer: 0 });
        assert!(fault.to_string().contains("layer 0 has no tensor"), "{fault}");
        let whole = [tensors[0], tensors[1], tensors[2], &with];
        survives(&of(architecture, 3, 1, &whole));
        // Without next-token layers every tensor is asked for.
        survives(&of(architecture, 3, 0, &tensors[..2]));
    }
}

#[test]
fn a_norm_that_one_layer_lacks() {
    for architecture in ["glm4moe", "step35"] {
        let all =
            ["blk.0.attn_q_norm.weight", "blk.1.attn_q_norm.weight", "blk.0.attn_norm.weight"];
        survives(&of(architecture, 2, 0, &all));
        survives(&of(architecture, 2, 0, &all[2..]));
        let fault = fault(&of(architecture, 2, 0, &[all[1], all[2]]));
        let expected = ModelFault::MissingInLayer { tensor: all[0].into(), layer: 0, other: 1 };
        assert_eq!(fault, expected);
        assert!(fault.to_string().contains("compute without it"), "{fault}");
    }
}

#[test]
fn next_token_layers_that_are_ordinary_ones() {
    let mut writer = tiny("dots1");
    let key = "dots1.nextn_predict_layers";
    let layers = 4;
    match fault(writer.set(key, 1_u32)) {
        ModelFault::NotForPrediction { key: found, value: 1, layer: 3, tensor } => {
            assert_eq!(found, key);
            assert!(tensor.starts_with("blk.3."), "{tensor}");
        }
        other => panic!("{other}"),
    }
    for value in [layers, layers + 1, u32::MAX] {
        let expected = ModelFault::NoLayersLeft {
            key: key.into(),
            value: value.into(),
            layers: layers.into(),
        };
        assert_eq!(fault(writer.set(key, value)), expected);
    }
    preflight::check(&header(writer.set(key, 0_u32))).unwrap();
}

#[test]
fn keys_in_a_type_that_the_engine_does_not_take() {
    let list = with("dbrx", "dbrx.expert_count", vec![8_u32; 4]);
    assert!(
        matches!(&list, ModelFault::KeyType { key, found: "a list", .. } if key == "dbrx.expert_count")
    );
    assert!(list.to_string().contains("the engine takes only one number"), "{list}");
    let narrow = with("dbrx", "dbrx.block_count", 4_u16);
    assert!(matches!(narrow, ModelFault::KeyType { found: "u16", .. }), "{narrow}");
    let signed = with("dbrx", "dbrx.expert_used_count", 2_i32);
    assert!(matches!(signed, ModelFault::KeyType { found: "i32", .. }), "{signed}");
    let short = with("dbrx", "dbrx.expert_used_count", vec![2_u32; 3]);
    assert_eq!(
        short,
        ModelFault::ListLength { key: "dbrx.expert_used_count".into(), length: 3, layers: 4 }
    );
    let mut writer = tiny("dbrx");
    writer.set("dbrx.expert_used_count", vec![2_u32, 1, 2, 1]);
    preflight::check(&header(&writer)).unwrap();
}

/// A tiny file with its table of tensors changed, laid out anew.
fn with_tensors(family: &str, change: impl Fn(&mut Vec<WriteTensor>)) -> ModelFault {
    let full = tiny(family);
    let mut tensors = full.tensors().to_vec();
    change(&mut tensors);
    let mut writer = without_tensors(&full);
    for tensor in tensors {
        writer.tensor(tensor.name, &tensor.shape, tensor.ggml_type);
    }
    fault(&writer)
}

/// Its metadata alone.
fn without_tensors(full: &GgufWriter) -> GgufWriter {
    let mut writer = GgufWriter::new();
    for (key, value) in full.metadata() {
        writer.set(key.clone(), value.clone());
    }
    writer
}

/// The same file without one key.
fn without_key(family: &str, key: &str) -> ModelFault {
    let full = tiny(family);
    let mut writer = GgufWriter::new();
    for (name, value) in full.metadata().iter().filter(|(name, _)| name != key) {
        writer.set(name.clone(), value.clone());
    }
    for tensor in full.tensors() {
        writer.tensor(tensor.name.clone(), &tensor.shape, tensor.ggml_type);
    }
    fault(&writer)
}

#[test]
fn keys_that_every_file_needs() {
    for (family, key) in [
        ("dbrx", "dbrx.context_length"),
        ("dbrx", "dbrx.embedding_length"),
        ("dbrx", "dbrx.attention.layer_norm_epsilon"),
        ("mixtral-8x7b", "llama.attention.layer_norm_rms_epsilon"),
        ("dbrx", "tokenizer.ggml.model"),
        ("dbrx", "tokenizer.ggml.tokens"),
        ("dbrx", "tokenizer.ggml.merges"),
    ] {
        assert_eq!(without_key(family, key), ModelFault::MissingKey { key: key.into() });
    }
}

#[test]
fn norms_need_the_key_that_the_engine_asks_for() {
    let mut seen = 0;
    for entry in std::fs::read_dir(engine_source::folder().join("models")).unwrap() {
        let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let classes =
            engine_source::all(r"void llama_model_([a-z0-9_]+)::load_arch_hparams", &source);
        let asks = |key: &str| {
            source.contains(&format!("_{key}, ")) && {
                let asked = format!(r"LAYERNORM_{key},\s*hparams\.(f_norm_\w*eps)\)");
                !engine_source::all(&asked, &source).is_empty()
            }
        };
        let expected = match (asks("RMS_EPS"), asks("EPS")) {
            (true, false) => "attention.layer_norm_rms_epsilon",
            (false, true) => "attention.layer_norm_epsilon",
            _ => continue,
        };
        for architecture in classes.iter().flat_map(|class| engine_source::run_by(class)) {
            if ["nemotron_h", "nemotron_h_moe"].contains(&architecture.as_str()) {
                continue; // either is enough for what follows the key that is asked for
            }
            let mut writer = of(&architecture, 1, 0, &["blk.0.attn_norm.weight"]);
            writer
                .set(format!("{architecture}.context_length"), 8_u32)
                .set(format!("{architecture}.embedding_length"), 32_u32);
            match preflight::check(&header(&writer)) {
                Err(Error::NotATextModel { .. }) => {}
                Err(Error::UnsafeModel { fault: ModelFault::MissingKey { key }, .. }) => {
                    assert_eq!(key, format!("{architecture}.{expected}"));
                    seen += 1;
                }
                other => panic!("{architecture}: {other:?}"),
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn numbers_with_which_the_engine_computes_nonsense() {
    for (key, value) in [
        ("rope.freq_base", f32::NAN),
        ("rope.freq_base", 0.0),
        ("rope.freq_base", -1.0),
        ("rope.scaling.factor", f32::INFINITY),
        ("rope.scaling.factor", -2.0),
        ("expert_weights_scale", f32::NAN),
        ("attention.layer_norm_epsilon", 1.5),
    ] {
        let key = format!("dbrx.{key}");
        let fault = with("dbrx", &key, value);
        assert!(
            matches!(&fault, ModelFault::BadNumber { key: found, .. } if *found == key),
            "{fault}"
        );
    }
    // 0 stands for no scaling, and somebody else's key is nobody's business.
    let mut writer = tiny("dbrx");
    writer.set("dbrx.rope.scaling.factor", 0.0_f32).set("mine.number", f32::NAN);
    preflight::check(&header(&writer)).unwrap();
}

#[test]
fn values_that_the_engine_does_not_know() {
    for (key, value) in [
        ("tokenizer.ggml.model", "mine"),
        ("tokenizer.ggml.pre", "mine"),
        ("dbrx.rope.scaling.type", "banana"),
    ] {
        let fault = with("dbrx", key, value);
        assert!(
            matches!(&fault, ModelFault::UnknownValue { key: found, value: v, .. } if found == key && v == value),
            "{fault}"
        );
    }
    let template = with("dbrx", "tokenizer.chat_template", 7_u32);
    assert!(matches!(template, ModelFault::KeyType { expected: "a text", .. }), "{template}");
    for key in ["tokenizer.ggml.add_bos_token", "dbrx.attention.causal"] {
        let fault = with("dbrx", key, 1_u32);
        assert!(
            matches!(&fault, ModelFault::KeyType { key: found, .. } if found == key),
            "{fault}"
        );
    }
    let numbers = with("dbrx", "tokenizer.ggml.tokens", vec![1_u32, 2]);
    assert!(matches!(numbers, ModelFault::KeyType { found: "a list of numbers", .. }), "{numbers}");
}

#[test]
fn tokenizers_are_those_of_the_engine() {
    let source = engine_source::read("llama-vocab.cpp");
    for (variable, ours) in
        [("model", &preflight::tokenizers::MODELS[..]), ("pre", &preflight::tokenizers::SPLITS[..])]
    {
        let expected =
            engine_source::all(&format!(r#"tokenizer_{variable} == "([^"]+)""#), &source);
        assert_eq!(ours.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn vocabularies_that_do_not_fit() {
    let mut words: Vec<String> = (0..10).map(|i| format!("w{i}")).collect();
    let few = with("dbrx", "tokenizer.ggml.tokens", words.clone());
    assert!(matches!(few, ModelFault::WrongVocabulary { tokens: 10, .. }), "{few}");
    let types = with("dbrx", "tokenizer.ggml.token_type", vec![1_i32; 3]);
    assert!(matches!(types, ModelFault::TooShort { length: 3, .. }), "{types}");

    let rows =
        tiny("dbrx").tensors().iter().find(|t| t.name == "token_embd.weight").unwrap().shape[1];
    words = (0..rows).map(|i| format!("w{i}")).collect();
    words[7] = "w3".into();
    let twice = with("dbrx", "tokenizer.ggml.tokens", words.clone());
    assert_eq!(twice, ModelFault::DuplicateToken { text: "w3".into(), id: 7, other: 3 });
    words[7] = "w3\0x".into();
    let cut = with("dbrx", "tokenizer.ggml.tokens", words.clone());
    assert_eq!(cut, ModelFault::CutToken { text: "w3".into(), id: 7, other: 3 });
    words.swap(3, 7);
    let cut = with("dbrx", "tokenizer.ggml.tokens", words);
    assert_eq!(cut, ModelFault::CutToken { text: "w3".into(), id: 3, other: 7 });
    let empty = vec![String::new(); usize::try_from(rows).unwrap()];
    let empty = with("dbrx", "tokenizer.ggml.tokens", empty);
    assert_eq!(empty, ModelFault::NoTexts { tokens: rows });
}

#[test]
fn tensors_that_every_file_needs() {
    let without = |name: &'static str| {
        with_tensors("dbrx", |tensors| tensors.retain(|tensor| tensor.name != name))
    };
    for name in ["token_embd.weight", "output_norm.weight"] {
        assert_eq!(without(name), ModelFault::NoTensor { tensor: name.into() });
    }
    for name in ["ffn_down_exps", "ffn_up_exps", "ffn_gate_inp"] {
        let tensor = format!("blk.1.{name}.weight");
        let fault = with_tensors("dbrx", |tensors| tensors.retain(|other| other.name != tensor));
        assert!(
            matches!(&fault, ModelFault::MissingTensor { tensor: found, .. } if *found == tensor),
            "{fault}"
        );
    }
    let layers = with("dbrx", "dbrx.block_count", 5_u32);
    assert!(matches!(layers, ModelFault::NoLayer { layer: 4, layers: 5, .. }), "{layers}");
}

#[test]
fn shapes_that_the_keys_or_other_tensors_contradict() {
    let of = |key: &str, value: u32| match with("dbrx", key, value) {
        ModelFault::WrongShape { tensor, by, .. } => {
            assert_eq!(by, key);
            tensor
        }
        other => panic!("{other}"),
    };
    assert_eq!(of("dbrx.embedding_length", 96), "token_embd.weight");
    assert!(of("dbrx.expert_count", 16).ends_with("_exps.weight"));
    let swapped = with_tensors("dbrx", |tensors| {
        let down = tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_down_exps.weight");
        down.unwrap().shape.swap(0, 1);
    });
    assert!(matches!(swapped, ModelFault::WrongShape { .. }), "{swapped}");
    let no_heads = with("mixtral-8x7b", "llama.attention.head_count_kv", 0_u32);
    assert!(matches!(no_heads, ModelFault::Zero { .. }), "{no_heads}");
}

#[test]
fn data_that_does_not_lie_where_the_engine_looks() {
    let mut bytes = bytes_of(&tiny("dbrx"));
    let second = tiny("dbrx").tensors()[1].name.clone();
    let at = bytes.windows(second.len()).position(|window| window == second.as_bytes()).unwrap();
    let shape = tiny("dbrx").tensors()[1].shape.len();
    let offset = at + second.len() + 4 + 8 * shape + 4;
    let old = u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap());
    // Behind everything else, where there is room.
    let end = bytes.len() as u64;
    bytes.resize(bytes.len() + (1 << 20), 0);
    let moved = end.next_multiple_of(32);
    assert_ne!(old, moved);
    bytes[offset..offset + 8].copy_from_slice(&moved.to_le_bytes());
    match preflight::check(&read(&bytes).unwrap()) {
        Err(Error::UnsafeModel { fault: ModelFault::Gap { tensor, .. }, .. }) => {
            assert_eq!(tensor, second);
        }
        other => panic!("{other:?}"),
    }
}
