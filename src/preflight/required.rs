//! Tensors that the engine takes as optional when it loads, and then uses.

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;

/// Architecture, a tensor, and the tensor that every layer with the first must also have.
const TOGETHER: &[(&str, &str, &str)] = &[
    ("qwen3next", "attn_qkv.weight", "attn_gate.weight"),
    ("qwen3next", "attn_gate.weight", "attn_qkv.weight"),
    ("qwen35moe", "attn_qkv.weight", "attn_gate.weight"),
    ("qwen35moe", "attn_gate.weight", "attn_qkv.weight"),
];

pub(super) fn check(keys: &Keys<'_>) -> Checked {
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
