//! Layers at the end of a file that predict further tokens (`nextn`, MTP), which the engine counts
//! and does not load.

use super::Checked;
use super::keys::Keys;
use crate::error::{FilePurpose, ModelFault};
use crate::experts::next_token_layers;
use crate::gguf::{GgufFile, Value};

const COUNT: &str = "nextn_predict_layers";

/// Where the engine asks this one tensor whether a file with such layers is only a draft head, and if it
/// is not there lets every other tensor of the ordinary layers be missing too (`mtp_only` in
/// `src/models/*.cpp`). A whole file without it would be computed without whatever else it lacks: a norm
/// is left out in silence, a matrix is a null pointer.
const OPTIONAL_WITHOUT: [(&str, &str); 17] = [
    ("bailingmoe3", "attn_norm.weight"),
    ("cohere2moe", "attn_norm.weight"),
    ("deepseek2", "attn_norm.weight"),
    ("deepseek32", "attn_norm.weight"),
    ("deepseek4", "attn_norm.weight"),
    ("glm-dsa", "attn_norm.weight"),
    ("glm4moe", "attn_norm.weight"),
    ("hy_v3", "attn_norm.weight"),
    ("mimo2", "attn_norm.weight"),
    ("mistral4", "attn_norm.weight"),
    ("nemotron_h", "attn_norm.weight"),
    ("nemotron_h_moe", "attn_norm.weight"),
    ("qwen35", "attn_norm.weight"),
    ("qwen35moe", "attn_norm.weight"),
    ("qwen3next", "attn_norm.weight"),
    ("qwen4exp", "hc_attn_norm.weight"),
    ("step35", "attn_norm.weight"),
];

/// A file with such layers and none of the others.
pub(super) fn draft_head(gguf: &GgufFile, architecture: &str) -> Option<FilePurpose> {
    let count = next_token_layers(gguf);
    let layers = gguf.hyper_parameter("block_count").and_then(Value::as_u64)?;
    let ordinary = layers.checked_sub(count)?;
    let layer_of = |name: &str| name.strip_prefix("blk.")?.split('.').next()?.parse::<u64>().ok();
    let has_ordinary = || {
        let mut layers = gguf.tensors().iter().filter_map(|tensor| layer_of(&tensor.name));
        layers.any(|layer| layer < ordinary)
    };
    let has_nextn = || gguf.tensors().iter().any(|tensor| tensor.name.contains(".nextn."));
    (count > 0 && has_nextn() && !has_ordinary())
        .then(|| FilePurpose::DraftHead { architecture: architecture.to_owned() })
}

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let count = next_token_layers(keys.gguf);
    if count == 0 {
        return Ok(());
    }
    let layers = keys.number("block_count").unwrap_or(0);
    if count >= layers {
        return Err(ModelFault::NoLayersLeft { key: keys.name(COUNT), value: count, layers });
    }
    let ordinary = layers - count;
    check_taken(keys, count, ordinary)?;
    let probe = OPTIONAL_WITHOUT.iter().find(|(name, _)| *name == keys.architecture);
    match probe {
        Some((_, tensor)) if !keys.layer_has(0, tensor) => {
            Err(ModelFault::OptionalLayers { tensor: format!("blk.0.{tensor}"), layer: 0 })
        }
        _ => Ok(()),
    }
}

/// A layer that is counted for prediction and is an ordinary one: the engine would leave it out.
fn check_taken(keys: &Keys<'_>, count: u64, ordinary: u64) -> Checked {
    for layer in ordinary..keys.layers {
        let prefix = format!("blk.{layer}.");
        let of_layer = || keys.gguf.tensors().iter().filter(|t| t.name.starts_with(&prefix));
        let is_for_prediction = |rest: &str| rest.starts_with("nextn.");
        if of_layer().any(|tensor| is_for_prediction(&tensor.name[prefix.len()..])) {
            continue;
        }
        if let Some(tensor) = of_layer().next() {
            let tensor = tensor.name.clone();
            let key = keys.name(COUNT);
            return Err(ModelFault::NotForPrediction { key, value: count, layer, tensor });
        }
    }
    Ok(())
}
