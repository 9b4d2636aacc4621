//! `plan`, which has no engine, and `chat`, which loads, say the same of a file that cannot be run.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use moe_offload::gguf::{GgmlType, GgufWriter, WriteValue};
use moe_offload::synth::{self, SynthOptions};
use support::model_files::bytes_of;
use support::process::run;

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
    let family = synth::family("dbrx").unwrap();
    let mut writer = family.build(&SynthOptions::tiny()).unwrap().header().clone();
    bytes_of(writer.set(key, value))
}

/// The demo model, of which a download has got so much.
fn unfinished(bytes: usize) -> Vec<u8> {
    let mut file = std::fs::read(support::model_files::demo()).unwrap();
    file[bytes..].fill(0);
    file
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
