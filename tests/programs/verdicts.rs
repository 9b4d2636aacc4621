//! `plan`, which has no engine, and `chat`, which loads, say the same of a file that cannot be run.

#[allow(dead_code, unreachable_pub)] // no file is made wrong on purpose
#[path = "../support/mutation/raw.rs"]
mod raw;
use std::io::Write;
use std::process::Stdio;

use moe_offload::GgufFile;
use moe_offload::gguf::GgmlType;
use moe_offload_synth::{self as synth, GgufWriter, SynthOptions, WriteValue};
use raw::{RawFile, RawValue};

use crate::support::model_files::{bytes_of, demo};
use crate::support::process::{program, run};

/// The one line that the program ends with.
fn verdict(program: &str, path: &str) -> String {
    let mut arguments = vec!["--model", path, "--policy", "none"];
    if program == "chat" {
        arguments.extend(["--prompt", "x"]);
    }
    let output = run(program, &arguments);
    assert_eq!(output.status.code(), Some(1), "{program}: {output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().last().unwrap().to_owned()
}

/// A small model that the engine runs, but for one key.
fn with(key: &str, value: impl Into<WriteValue>) -> Vec<u8> {
    of_family("dbrx", key, value)
}

/// The same of another family.
fn of_family(family: &str, key: &str, value: impl Into<WriteValue>) -> Vec<u8> {
    let family = synth::family(family).unwrap();
    let mut writer = family.build(&SynthOptions::tiny()).unwrap().header().clone();
    bytes_of(writer.set(key, value))
}

/// The demo model, of which a download has got so much.
fn unfinished(bytes: usize) -> Vec<u8> {
    let mut file = std::fs::read(demo()).unwrap();
    file[bytes..].fill(0);
    file
}

/// The demo model with another value of a key.
fn demo_with(key: &str, value: RawValue) -> Vec<u8> {
    let mut file = RawFile::parse(&std::fs::read(demo()).unwrap());
    let key = key.as_bytes();
    match file.pairs.iter_mut().find(|(name, _)| name == key) {
        Some((_, old)) => *old = value,
        None => file.pairs.push((key.to_vec(), value)),
    }
    file.bytes().0
}

fn number(value: u32) -> RawValue {
    RawValue::One(4, value.to_le_bytes().to_vec())
}

fn text(value: &str) -> RawValue {
    RawValue::One(raw::TEXT, value.as_bytes().to_vec())
}

/// So much for each of the demo model's tokens.
fn token_types(of_each: i32) -> RawValue {
    RawValue::Many(5, vec![of_each.to_le_bytes().to_vec(); 1280])
}

fn of_architecture(architecture: &str) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", architecture);
    writer.set(format!("{architecture}.block_count"), 1_u32);
    bytes_of(writer.tensor("blk.0.ffn_up_exps.weight", &[32, 32, 4], GgmlType::F32))
}

#[test]
fn plan_and_chat_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (file, phrase) in [
        (of_architecture("dbrx2"), "`dbrx2`, which the pinned engine"),
        (of_architecture("nomic-bert-moe"), "embeddings"),
        (of_architecture("rnd1"), "diffusion model"),
        (of_architecture("clip"), "is a projector"),
        (with("general.type", "adapter"), "is an adapter"),
        (with("split.count", 1_u32), "`split.count` only as u16"),
        (with("dbrx.expert_count", vec![8_u32; 4]), "`dbrx.expert_count` is a list"),
        (with("dbrx.expert_used_count", vec![2_u32; 3]), "is a list of 3"),
        (with("dbrx.block_count", 4_u16), "`dbrx.block_count` is u16"),
        (with("dbrx.rope.freq_base", f32::NAN), "`dbrx.rope.freq_base` is NaN, but must be"),
        (with("dbrx.expert_count", 16_u32), "one side must be 16 by `dbrx.expert_count`"),
        (with("dbrx.block_count", 5_u32), "layer 4 has no tensors"),
        (with("tokenizer.ggml.pre", "mine"), "`mine`, which the pinned engine does not know"),
        (with("tokenizer.ggml.tokens", vec!["a".to_owned()]), "has 1 tokens"),
        (unfinished(2_000_000), "looks like a download that was not finished"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 7\n".to_vec(), "Git LFS pointer"),
    ] {
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let plan = verdict("plan", path);
        assert!(plan.contains(phrase), "{plan}");
        assert_eq!(plan, verdict("chat", path));
    }
}

#[test]
fn what_is_elsewhere_is_not_downloaded() {
    for (path, how) in [
        ("https://huggingface.co/x/y.gguf", "curl -LO"),
        ("TheBloke/Mixtral-8x7B-GGUF", "https://huggingface.co/TheBloke/Mixtral-8x7B-GGUF"),
    ] {
        let plan = verdict("plan", path);
        assert!(plan.contains("nothing is downloaded") && plan.contains(how), "{plan}");
        assert_eq!(plan, verdict("chat", path));
    }
}

#[test]
fn a_file_to_plan_with_is_planned_with_and_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hole.gguf");
    let model = synth::family("dbrx").unwrap().build(&SynthOptions::tiny()).unwrap();
    model.save_without_weights(&path, 1).unwrap();
    let path = path.to_str().unwrap();
    assert!(run("plan", &["--model", path, "--policy", "none"]).status.success());
    assert!(verdict("chat", path).contains("has no weights"));
}

/// What only the engine knows of a file, it is asked also where nothing is loaded.
#[test]
fn plan_and_chat_say_the_same_of_keys_that_do_not_match_the_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let (deepseek, qwen, lfm, glm) =
        ("deepseek-v3", "qwen3-next-80b-a3b", "lfm2-8b-a1b", "glm-4.5-air");
    let list = |values: [u32; 4]| {
        RawValue::Many(4, values.map(|value| value.to_le_bytes().to_vec()).to_vec())
    };
    for (what, file) in [
        ("kv_lora_rank", of_family(deepseek, "deepseek2.attention.kv_lora_rank", 3_u32)),
        ("q_lora_rank", of_family(deepseek, "deepseek2.attention.q_lora_rank", 3_u32)),
        ("key_length_mla", of_family(deepseek, "deepseek2.attention.key_length_mla", 3_u32)),
        ("value_length_mla", of_family(deepseek, "deepseek2.attention.value_length_mla", 3_u32)),
        ("shared_count", of_family(deepseek, "deepseek2.expert_shared_count", 3_u32)),
        ("gating_func", of_family(deepseek, "deepseek2.expert_gating_func", 99_u32)),
        ("leading_dense", of_family(deepseek, "deepseek2.leading_dense_block_count", 0_u32)),
        ("conv_kernel", of_family(qwen, "qwen3next.ssm.conv_kernel", 3_u32)),
        ("state_size", of_family(qwen, "qwen3next.ssm.state_size", 3_u32)),
        ("inner_size", of_family(qwen, "qwen3next.ssm.inner_size", 3_u32)),
        ("time_step_rank", of_family(qwen, "qwen3next.ssm.time_step_rank", 3_u32)),
        ("group_count", of_family(qwen, "qwen3next.ssm.group_count", 3_u32)),
        ("l_cache", of_family(lfm, "lfm2moe.shortconv.l_cache", 2_u32)),
        ("expert_groups", of_family(glm, "glm4moe.expert_group_count", 3_u32)),
        ("expert_ff", of_family(glm, "glm4moe.expert_feed_forward_length", 3_u32)),
        ("value_length", of_family("gpt-oss-20b", "gpt-oss.attention.value_length", 3_u32)),
        ("expert_groups of the demo", demo_with("llama.expert_group_count", number(3))),
        ("feed_forward", demo_with("llama.feed_forward_length", number(0))),
        ("feed_forward list", demo_with("llama.feed_forward_length", list([1, 2, 3, 4]))),
        ("bytes", demo_with("tokenizer.ggml.token_type", token_types(6))),
        ("tokenizer llama", demo_with("tokenizer.ggml.model", text("llama"))),
        ("tokenizer rwkv", demo_with("tokenizer.ggml.model", text("rwkv"))),
        ("tokenizer none", demo_with("tokenizer.ggml.model", text("none"))),
    ] {
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(verdict("plan", path), verdict("chat", path), "{what}");
    }
}

/// It is no reason to refuse a file: texts that are no conversations need no template.
#[test]
fn a_template_that_cannot_be_used_or_leaves_something_out_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    for (template, part) in [
        ("{% if %}", "does not parse in line 1"),
        ("{{ messages|nosuch }}", "filter nosuch is unknown"),
        ("{{ 1 }}", "leaves out the question"),
        ("{{ raise_exception('not so') }}", ""),
        (
            "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            "leaves out instructions",
        ),
        ("{{ messages[-1].content }}", "leaves out questions"),
        (
            "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}",
            "leaves out earlier answers",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ""),
    ] {
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, demo_with("tokenizer.chat_template", text(template))).unwrap();
        let path = path.to_str().unwrap();
        let plan = run("plan", &["--model", path, "--cpu-only"]);
        assert!(plan.status.success(), "{plan:?}");
        let chat = run("chat", &["--model", path, "--prompt", "Hello", "--max-tokens", "1"]);
        for said in [plan.stderr, chat.stderr] {
            let said = String::from_utf8(said).unwrap();
            let is_warned = said.contains("warning: the model's chat template");
            assert_eq!(is_warned, !part.is_empty(), "{template}: {said}");
            assert!(said.contains(part), "{template}: {said}");
        }
    }
}

/// Else the model reads the pieces of it, which it was not trained on, and answers something.
#[test]
fn a_marker_of_the_template_that_is_no_token_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let demo = GgufFile::open(demo()).unwrap();
    let types = demo.metadata()["tokenizer.ggml.token_type"].as_array().unwrap();
    let mut types: Vec<Vec<u8>> = types
        .iter()
        .map(|kind| i32::try_from(kind.as_u64().unwrap()).unwrap().to_le_bytes().to_vec())
        .collect();
    let words = demo.metadata()["tokenizer.ggml.tokens"].as_array().unwrap();
    let marker = words.iter().position(|word| word.as_str() == Some("<|im_start|>")).unwrap();
    let said = |types: Vec<Vec<u8>>| {
        let file = demo_with("tokenizer.ggml.token_type", RawValue::Many(5, types));
        std::fs::write(&path, file).unwrap();
        let path = path.to_str().unwrap();
        let plan = run("plan", &["--model", path, "--cpu-only"]);
        let chat = run("chat", &["--model", path, "--prompt", "Hello", "--max-tokens", "1"]);
        [plan, chat].map(|output| {
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("writes `<|im_start|>`, which the model reads as")
        })
    };
    assert_eq!(said(types.clone()), [false, false]);
    types[marker] = 1_i32.to_le_bytes().to_vec(); // a normal one
    assert_eq!(said(types), [true, true]);
}

/// The model's own template may fail at a later turn only.
#[test]
fn chat_says_so_where_another_format_than_the_model_s_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let first_only = "{% if messages|length > 1 %}{{ nothing() }}{% endif %}<|im_start|>{{ messages[0].content }}";
    std::fs::write(&path, demo_with("tokenizer.chat_template", text(first_only))).unwrap();
    let mut chat = program("chat");
    chat.args(["--model", path.to_str().unwrap(), "--max-tokens", "2"]);
    let mut chat =
        chat.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"Hello\nAnd you?\n").unwrap();
    let output = chat.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.matches("in a format that llama.cpp knows").count(), 1, "{said}");
}

#[test]
fn chat_takes_the_variables_that_a_template_asks_for_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let asks = "{{ effort }}{{ date }}{{ x }}{% for m in messages %}{{ m.content }}{% endfor %}";
    std::fs::write(&path, demo_with("tokenizer.chat_template", text(asks))).unwrap();
    let chat = |variable: &str| {
        let path = path.to_str().unwrap();
        run(
            "chat",
            &["--model", path, "--prompt", "Hello", "--max-tokens", "2", "--template", variable],
        )
    };
    for variable in ["effort=high", "date=26 Jul 2024", "x=\"False\"", "x=3", "x=[1, 2]"] {
        let output = chat(variable);
        assert!(output.status.success(), "{variable}: {output:?}");
    }
    let output = chat("effor=high");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("asks for no `effor`"), "{said}");
}

/// The name of a format in place of a template, as llama.cpp knows it.
#[test]
fn chat_knows_a_format_by_its_name_and_refuses_one_without_the_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let chat = |template: &str| {
        std::fs::write(&path, demo_with("tokenizer.chat_template", text(template))).unwrap();
        let path = path.to_str().unwrap();
        let output = run("chat", &["--model", path, "--prompt", "Hello", "--temperature", "0"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), output.stdout)
    };
    let (status, said, by_name) = chat("chatml");
    assert_eq!(status, Some(0), "{said}");
    let written = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                   <|im_start|>assistant{{ '\n' }}";
    assert_eq!(by_name, chat(written).2);
    let system = "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}x";
    let (status, said, _) = chat(system);
    assert!(status == Some(1) && said.contains("leaves out the question"), "{said}");
}

#[test]
fn chat_says_so_where_no_token_has_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    // Control tokens.
    std::fs::write(&path, demo_with("tokenizer.ggml.token_type", token_types(3))).unwrap();
    let path = path.to_str().unwrap();
    let output = run("chat", &["--model", path, "--prompt", "Hello", "--max-tokens", "5"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("(5 tokens without text"), "{said}");
}
