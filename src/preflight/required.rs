//! Tensors that the engine takes as optional when it loads, and then uses.

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;
use crate::experts::next_token_layers;

/// Architecture, a tensor, and the tensor that every layer with the first must also have.
const TOGETHER: &[(&str, &str, &str)] = &[
    ("qwen3next", "attn_qkv.weight", "attn_gate.weight"),
    ("qwen3next", "attn_gate.weight", "attn_qkv.weight"),
    ("qwen35moe", "attn_qkv.weight", "attn_gate.weight"),
    ("qwen35moe", "attn_gate.weight", "attn_qkv.weight"),
];

/// Architecture and a norm that a model has in all of its layers or in none: where it is missing the engine
/// computes without it.
const IN_ALL_OR_NONE: &[(&str, &str)] = &[
    ("glm4moe", "attn_q_norm.weight"),
    ("glm4moe", "attn_k_norm.weight"),
    ("step35", "attn_q_norm.weight"),
    ("step35", "attn_k_norm.weight"),
];

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    check_together(keys)?;
    check_in_all(keys)
}

fn check_in_all(keys: &Keys<'_>) -> Checked {
    let layers = keys.layers.saturating_sub(next_token_layers(keys.gguf));
    let rules =
        IN_ALL_OR_NONE.iter().filter(|(architecture, _)| *architecture == keys.architecture);
    for (_, tensor) in rules {
        let Some(other) = (0..layers).find(|&layer| keys.layer_has(layer, tensor)) else {
            continue;
        };
        if let Some(layer) = (0..layers).find(|&layer| !keys.layer_has(layer, tensor)) {
            let tensor = format!("blk.{layer}.{tensor}");
            return Err(ModelFault::MissingInLayer { tensor, layer, other });
        }
    }
    Ok(())
}

fn check_together(keys: &Keys<'_>) -> Checked {
    let rules = TOGETHER.iter().filter(|(architecture, ..)| *architecture == keys.architecture);
    for (_, tensor, needed) in rules {
        for layer in (0..keys.layers).filter(|&layer| keys.layer_has(layer, tensor)) {
            if !keys.layer_has(layer, needed) {
                return Err(ModelFault::MissingTensor {
                    tensor: format!("blk.{layer}.{needed}"),
                    needed_by: format!("blk.{layer}.{tensor}"),
                });
            }
        }
    }
    Ok(())
}
