//! Layers at the end of a file that predict further tokens (`nextn`, MTP), which the engine counts
//! and does not load.

use std::collections::BTreeMap;

use super::Checked;
use super::keys::Keys;
use crate::error::{FilePurpose, ModelFault};
use crate::experts::next_token_layers;
use crate::gguf::{GgufFile, Value};

const COUNT: &str = "nextn_predict_layers";
/// How the tensors begin, after their layer, that only such a layer has.
const PREDICTS: &str = "nextn.";

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
    let of_layers = || gguf.tensors().iter().filter_map(|tensor| split_layer(&tensor.name));
    let has_ordinary = || of_layers().any(|(layer, _)| layer < ordinary);
    let predicts = || of_layers().any(|(_, rest)| rest.starts_with(PREDICTS));
    (count > 0 && predicts() && !has_ordinary())
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
    // Of each such layer the first tensor, or none if one says that it predicts.
    let mut first: BTreeMap<u64, Option<&str>> = BTreeMap::new();
    for tensor in keys.gguf.tensors() {
        let Some((layer, rest)) = split_layer(&tensor.name).filter(|&(n, _)| n >= ordinary) else {
            continue;
        };
        let entry = first.entry(layer).or_insert(Some(&tensor.name));
        if rest.starts_with(PREDICTS) {
            *entry = None;
        }
    }
    let taken = first.into_iter().find_map(|(layer, tensor)| Some((layer, tensor?.to_owned())));
    taken.map_or(Ok(()), |(layer, tensor)| {
        let key = keys.name(COUNT);
        Err(ModelFault::NotForPrediction { key, value: count, layer, tensor })
    })
}

/// `blk.7.attn_q.weight` is `attn_q.weight` of layer 7.
fn split_layer(name: &str) -> Option<(u64, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}
