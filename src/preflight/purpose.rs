//! What a file is for: a model that writes text, or something else.
//!
//! The file's own word counts first, then what the engine says of its architecture.

use crate::error::FilePurpose;
use crate::gguf::{GgufFile, Value};

use super::next_token;

/// The architectures for which the engine keeps no memory of tokens (`llama_model::create_memory`
/// is null for them) or has only an encoder (`llama_model_has_decoder`), without those of
/// `DIFFUSION` and `DECISIONS`; and `llama-embed`, whose attention has no cache.
const EMBEDDINGS: [&str; 11] = [
    "bert",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "t5encoder",
];
/// `llm_arch_is_diffusion`.
const DIFFUSION: [&str; 4] = ["dream", "llada", "llada-moe", "rnd1"];
/// `llama_model_has_encoder`, and a decoder that goes on from what it read.
const ENCODER_DECODER: [&str; 1] = ["t5"];
/// `llama_model_has_encoder`, or a context that needs another one: they read the main model's states.
const DRAFT_HEADS: [&str; 3] = ["dflash", "eagle3", "gemma4-assistant"];
/// Their tokens are sound; the last has no output of its own.
const SPEECH: [&str; 3] = ["qwen3tts", "wavtokenizer-dec", "pockettts"];
/// No memory of tokens, and one score for each as output.
const DECISIONS: [&str; 1] = ["clef"];
/// What ComfyUI-GGUF's converter writes as architecture, and converters that follow it.
const IMAGES: [&str; 16] = [
    "aura",
    "chroma",
    "cosmos",
    "flux",
    "flux2",
    "hidream",
    "hyvid",
    "ltxv",
    "lumina2",
    "pig",
    "qwen_image",
    "sd1",
    "sd3",
    "sdxl",
    "wan",
    "z_image",
];
/// How the tensors of image models begin that stable-diffusion.cpp converted, which name no architecture.
const IMAGE_TENSORS: [&str; 3] = ["model.diffusion_model.", "first_stage_model.", "double_blocks."];
/// `LLAMA_POOLING_TYPE_NONE`.
const NO_POOLING: u64 = 0;

/// What the file is for, or `None` for a model that writes text, as far as its header tells.
///
/// ```
/// use moe_offload::error::FilePurpose;
/// use moe_offload::{GgufFile, preflight};
///
/// # let mut writer = moe_offload_synth::GgufWriter::new();
/// # writer.set("general.type", "mmproj").set("general.architecture", "clip");
/// # let mut file = Vec::new();
/// # writer.write(&mut file, |_, _| Ok(()))?;
/// let gguf = GgufFile::read(&file[..], file.len() as u64, "mmproj.gguf")?;
/// assert_eq!(preflight::purpose(&gguf), Some(FilePurpose::Projector));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn purpose(gguf: &GgufFile) -> Option<FilePurpose> {
    let architecture = gguf.architecture().unwrap_or_default();
    by_type(gguf, architecture)
        .or_else(|| images(gguf, architecture))
        .or_else(|| without_weights(gguf))
        .or_else(|| by_architecture(architecture))
        .or_else(|| by_key(gguf, architecture))
        .or_else(|| next_token::draft_head(gguf, architecture))
}

fn text<'a>(gguf: &'a GgufFile, key: &str) -> Option<&'a str> {
    gguf.metadata().get(key).and_then(Value::as_str)
}

/// What the file calls itself.
fn by_type(gguf: &GgufFile, architecture: &str) -> Option<FilePurpose> {
    let has = |key: &str| gguf.metadata().contains_key(key);
    let adapter = |kind: &str| Some(FilePurpose::Adapter { kind: kind.to_owned() });
    match text(gguf, "general.type") {
        _ if architecture == "controlvector" => adapter("control vector"),
        Some("mmproj") => Some(FilePurpose::Projector),
        Some("adapter") => adapter(text(gguf, "adapter.type").unwrap_or("lora")),
        Some("imatrix") => Some(FilePurpose::ImportanceMatrix),
        // Files of before there was a type.
        _ if architecture == "clip" => Some(FilePurpose::Projector),
        _ if has("adapter.type") => adapter(text(gguf, "adapter.type").unwrap_or("lora")),
        _ if has("imatrix.chunk_count") => Some(FilePurpose::ImportanceMatrix),
        _ => None,
    }
}

fn images(gguf: &GgufFile, architecture: &str) -> Option<FilePurpose> {
    let by_name = || IMAGES.contains(&architecture).then_some(architecture);
    let by_tensors = || {
        let begins = |start: &&str| gguf.tensors().iter().any(|t| t.name.starts_with(*start));
        IMAGE_TENSORS.iter().copied().find(|start| architecture.is_empty() && begins(start))
    };
    let architecture = by_name().or_else(by_tensors)?.trim_end_matches('.').to_owned();
    Some(FilePurpose::Images { architecture })
}

fn without_weights(gguf: &GgufFile) -> Option<FilePurpose> {
    let names_model = gguf.architecture().is_ok();
    let has_vocabulary = gguf.metadata().contains_key("tokenizer.ggml.tokens");
    match gguf.tensors() {
        [] if has_vocabulary => Some(FilePurpose::Vocabulary),
        [] if names_model => Some(FilePurpose::NoWeights),
        _ => None,
    }
}

fn by_architecture(architecture: &str) -> Option<FilePurpose> {
    let is_among = |names: &[&str]| names.contains(&architecture);
    let architecture = architecture.to_owned();
    Some(match () {
        () if is_among(&EMBEDDINGS) => FilePurpose::Embeddings { architecture, key: None },
        () if is_among(&DIFFUSION) => FilePurpose::Diffusion { architecture },
        () if is_among(&ENCODER_DECODER) => FilePurpose::EncoderDecoder { architecture },
        () if is_among(&DRAFT_HEADS) => FilePurpose::DraftHead { architecture },
        () if is_among(&SPEECH) => FilePurpose::Speech { architecture },
        () if is_among(&DECISIONS) => FilePurpose::Decisions { architecture },
        () => return None,
    })
}

/// A decoder that was trained further to make vectors has the architecture of one that writes.
fn by_key(gguf: &GgufFile, architecture: &str) -> Option<FilePurpose> {
    const CAUSAL: &str = "attention.causal";
    const POOLING: &str = "pooling_type";
    let is_two_sided = gguf.hyper_parameter(CAUSAL).and_then(Value::as_bool) == Some(false);
    let pools =
        gguf.hyper_parameter(POOLING).and_then(Value::as_u64).is_some_and(|n| n != NO_POOLING);
    let key = if is_two_sided {
        CAUSAL
    } else if pools {
        POOLING
    } else {
        return None;
    };
    let key = Some(format!("{architecture}.{key}"));
    Some(FilePurpose::Embeddings { architecture: architecture.to_owned(), key })
}
