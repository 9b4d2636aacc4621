//! The vocabulary, of which the engine makes as much as the embedding has rows.

use std::collections::HashMap;

use super::Checked;
use super::keys::Keys;
use super::tokenizers::{MODELS, SPLITS};
use crate::error::ModelFault;
use crate::gguf::{Array, Value};

const MODEL: &str = "tokenizer.ggml.model";
const SPLIT: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const TEMPLATE: &str = "tokenizer.chat_template";
/// Tokenizers that merge pairs.
const MERGING: [&str; 4] = ["gpt2", "hybriddna", "whitespace", "gemma4"];
/// Whose tokens are made otherwise.
const WITHOUT_MERGES: &str = "kimi-k2";
/// Lists with a value for each token, and the types of which they may be.
const FOR_EACH: [(&str, &[&str]); 2] =
    [("tokenizer.ggml.scores", &["f32", "i32"]), ("tokenizer.ggml.token_type", &["i32"])];
const FLAGS: [&str; 5] = [
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces",
];

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let model = text(keys, MODEL)?.ok_or_else(|| ModelFault::MissingKey { key: MODEL.into() })?;
    known(MODEL, model, &MODELS)?;
    let rows = keys.tensor("token_embd.weight").and_then(|tensor| tensor.shape.get(1).copied());
    let rows = rows.unwrap_or(0);
    if matches!(model, "none" | "no_vocab") {
        return Err(ModelFault::NoVocabulary { model: model.to_owned() });
    }
    check_merges(keys, model)?;
    let tokens = list(keys, TOKENS, &["str"])?;
    let tokens = tokens.ok_or_else(|| ModelFault::MissingKey { key: TOKENS.into() })?;
    for (key, types) in FOR_EACH {
        match list(keys, key, types)? {
            Some(values) if values.len() < tokens.len() => {
                let (key, length) = (key.to_owned(), values.len());
                return Err(ModelFault::TooShort { key, length, tokens: tokens.len() });
            }
            _ => {}
        }
    }
    text(keys, TEMPLATE)?;
    for key in FLAGS {
        match keys.gguf.metadata().get(key) {
            Some(value) if value.as_bool().is_none() => {
                let expected = "true or false (bool)";
                return Err(ModelFault::KeyType { key: key.into(), found: value.kind(), expected });
            }
            _ => {}
        }
    }
    if rows > 0 && tokens.len() != rows {
        return Err(ModelFault::WrongVocabulary { tokens: tokens.len(), rows });
    }
    check_texts(tokens)
}

fn check_merges(keys: &Keys<'_>, model: &str) -> Checked {
    if !MERGING.contains(&model) {
        return Ok(());
    }
    let split = text(keys, SPLIT)?.unwrap_or_default();
    if model != "gemma4" && !split.is_empty() {
        known(SPLIT, split, &SPLITS)?;
    }
    match list(keys, MERGES, &["str"])? {
        None if split != WITHOUT_MERGES => Err(ModelFault::MissingKey { key: MERGES.into() }),
        _ => Ok(()),
    }
}

/// No text is that of two tokens, but for none, to which the engine gives names; and some are not empty. The engine
/// reads texts up to a NUL.
fn check_texts(tokens: &Array) -> Checked {
    let mut first = HashMap::with_capacity(usize::try_from(tokens.len()).unwrap_or(0));
    let read = |text: &'_ [u8]| text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    for (id, text) in (0_u64..).zip(tokens.iter_bytes()) {
        let is_cut = read(text) < text.len();
        let read = &text[..read(text)];
        if read.is_empty() {
            continue;
        }
        if let Some((other, other_is_cut)) = first.insert(read, (id, is_cut)) {
            let text = String::from_utf8_lossy(read).into_owned();
            return Err(if is_cut || other_is_cut {
                let (with_nul, other) = if is_cut { (id, other) } else { (other, id) };
                ModelFault::CutToken { text, id: with_nul, other }
            } else {
                ModelFault::DuplicateToken { text, id, other }
            });
        }
    }
    if first.is_empty() { Err(ModelFault::NoTexts { tokens: tokens.len() }) } else { Ok(()) }
}

fn known(key: &str, value: &str, all: &[&str]) -> Checked {
    if all.contains(&value) {
        return Ok(());
    }
    let near = all.iter().map(|name| (strsim::jaro_winkler(value, name), *name));
    let mut near: Vec<(f64, &str)> = near.collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> = near.into_iter().take(4).map(|(_, name)| name).collect();
    let known =
        if all.len() > 12 { format!("{} and others", near.join(", ")) } else { all.join(", ") };
    Err(ModelFault::UnknownValue { key: key.into(), value: value.into(), known })
}

fn text<'a>(keys: &Keys<'a>, key: &str) -> Result<Option<&'a str>, ModelFault> {
    match keys.gguf.metadata().get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(value) => {
            Err(ModelFault::KeyType { key: key.into(), found: value.kind(), expected: "a text" })
        }
    }
}

fn list<'a>(keys: &Keys<'a>, key: &str, types: &[&str]) -> Result<Option<&'a Array>, ModelFault> {
    match keys.gguf.metadata().get(key) {
        None => Ok(None),
        Some(Value::Array(list)) if types.contains(&list.element_name()) => Ok(Some(list)),
        Some(value) => {
            let expected = match types {
                ["str"] => "a list of texts",
                ["i32"] => "a list of numbers (i32)",
                _ => "a list of numbers (f32 or i32)",
            };
            Err(ModelFault::KeyType { key: key.into(), found: value.kind(), expected })
        }
    }
}
