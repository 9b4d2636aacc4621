//! What makes a dry run quick: the engine counts what it would allocate, without the vocabulary.

use std::ffi::c_char;

use super::ffi;
use crate::gguf::GgufFile;

/// What is read in place of the file's metadata. For sizes that is a vocabulary of as many nameless tokens, which
/// takes no time: sizes depend on their number alone, and reading the real one is nearly all of a dry run.
pub(crate) struct DryRun {
    /// What the engine reads instead of the file's metadata, ended by an entry without a key.
    overrides: Vec<ffi::llama_model_kv_override>,
}

impl DryRun {
    /// For sizes.
    pub(crate) fn of(gguf: &GgufFile) -> Self {
        let tokens =
            gguf.metadata().get("tokenizer.ggml.tokens").and_then(|value| value.as_array());
        let size = gguf.architecture().ok().zip(tokens).and_then(|(architecture, tokens)| {
            let tokens = i64::try_from(tokens.len()).ok()?;
            let value = ffi::llama_model_kv_override__bindgen_ty_1 { val_i64: tokens };
            entry(&format!("{architecture}.vocab_size"), ffi::LLAMA_KV_OVERRIDE_TYPE_INT, value)
        });
        let model = text(b"no_vocab").and_then(|val_str| {
            let value = ffi::llama_model_kv_override__bindgen_ty_1 { val_str };
            entry("tokenizer.ggml.model", ffi::LLAMA_KV_OVERRIDE_TYPE_STR, value)
        });
        let mut overrides: Vec<_> = size.zip(model).map_or_else(Vec::new, |(a, b)| vec![a, b]);
        overrides.push(end());
        Self { overrides }
    }

    /// For what the engine says of the file: its own vocabulary is read.
    pub(crate) fn with_vocabulary() -> Self {
        Self { overrides: vec![end()] }
    }

    /// The array; valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *const ffi::llama_model_kv_override {
        self.overrides.as_ptr()
    }
}

/// The entry without a key.
fn end() -> ffi::llama_model_kv_override {
    ffi::llama_model_kv_override {
        tag: ffi::LLAMA_KV_OVERRIDE_TYPE_INT,
        key: [0; 128],
        __bindgen_anon_1: ffi::llama_model_kv_override__bindgen_ty_1 { val_i64: 0 },
    }
}

/// `None` if the key is too long for the engine, which then reads the vocabulary.
fn entry(
    key: &str,
    tag: ffi::llama_model_kv_override_type,
    value: ffi::llama_model_kv_override__bindgen_ty_1,
) -> Option<ffi::llama_model_kv_override> {
    Some(ffi::llama_model_kv_override { tag, key: text(key.as_bytes())?, __bindgen_anon_1: value })
}

/// The text with a NUL after it.
fn text(bytes: &[u8]) -> Option<[c_char; 128]> {
    let mut field = [0; 128];
    if bytes.len() >= field.len() || bytes.contains(&0) {
        return None;
    }
    for (to, &from) in field.iter_mut().zip(bytes) {
        *to = from.cast_signed() as c_char;
    }
    Some(field)
}
