//! Vocabularies that the engine makes room for before it reads them.

use super::Checked;
use super::keys::Keys;
use crate::gguf::Value;

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let model = keys.gguf.metadata().get("tokenizer.ggml.model").and_then(Value::as_str);
    if !matches!(model, Some("none" | "no_vocab")) {
        return Ok(());
    }
    // Without a tokenizer the engine makes up this many tokens.
    let rows = keys.tensor("token_embd.weight").and_then(|tensor| tensor.shape.get(1).copied());
    keys.at_most("vocab_size", keys.number("vocab_size").unwrap_or(0), rows.unwrap_or(0))
}
