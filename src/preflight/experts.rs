//! Experts and how many of them a token uses.

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;

/// Layers with experts of which a token uses none, or more than there are.
pub(super) fn check(keys: &Keys<'_>) -> Checked {
    const USED: &str = "expert_used_count";
    let count = keys.number("expert_count").unwrap_or(0);
    let has_experts = |layer| {
        ["ffn_down_exps.weight", "ffn_gate_inp.weight"]
            .iter()
            .any(|tensor| keys.layer_has(layer, tensor))
    };
    for layer in (0..keys.layers).filter(|&layer| has_experts(layer)) {
        let used = keys.of_layer(USED, layer).unwrap_or(0);
        if used == 0 {
            return Err(ModelFault::Zero { key: keys.name(USED) });
        }
        keys.at_most(USED, used, count)?;
    }
    // The engine divides by the first layer's number, whether that has experts or not.
    if count > 0 && keys.of_layer("expert_feed_forward_length", 0).unwrap_or(0) == 0 {
        let first = keys.numbers(USED).first().copied().unwrap_or(0);
        if first == 0 {
            return Err(ModelFault::Zero { key: keys.name(USED) });
        }
    }
    Ok(())
}
