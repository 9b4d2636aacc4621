//! What the engine's arrays have room for.

use super::Checked;
use super::keys::{Keys, MAX_LAYERS};
use crate::error::ModelFault;

/// The engine's own limit (`LLAMA_MAX_EXPERTS` in `llama-hparams.h`).
const MAX_EXPERTS: u64 = 1024;

/// Tokens of the context before it was stretched: the engine takes the logarithm of it as a number with a sign.
const MAX_ORIGINAL: u64 = i32::MAX as u64;

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let rooms = [("block_count", MAX_LAYERS), ("expert_count", MAX_EXPERTS)];
    for (key, most) in rooms.into_iter().chain(original_context(keys)) {
        if let Some(value) = keys.number(key).filter(|&value| value > most) {
            return Err(ModelFault::NoRoom { key: keys.name(key), value, most });
        }
    }
    Ok(())
}

/// The key that says it, by default that of the whole context.
fn original_context(keys: &Keys<'_>) -> Option<(&'static str, u64)> {
    const KEY: &str = "rope.scaling.original_context_length";
    let scaling = keys.gguf.hyper_parameter("rope.scaling.type");
    scaling.and_then(|value| value.as_str()).filter(|&name| name == "yarn")?;
    let is_given = keys.gguf.hyper_parameter(KEY).is_some();
    Some((if is_given { KEY } else { "context_length" }, MAX_ORIGINAL))
}
