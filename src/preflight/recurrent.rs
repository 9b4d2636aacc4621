//! Sizes of recurrent states, and what the engine divides by.

use super::Checked;
use super::keys::Keys;

/// Each is a side of some tensor, or a factor of one.
const STATE: [&str; 8] = [
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
    "shortconv.l_cache",
    "kda.head_dim",
    "wkv.head_size",
];

/// Divisors that the engine does not check, by architecture.
const DIVISORS: [(&str, &str); 5] = [
    ("ernie4_5-moe", "interleave_moe_layer_step"),
    ("grovemoe", "experts_per_group"),
    ("qwen3next", "expert_used_count"),
    ("dflash", "conv_group_size"),
    ("clef", "decision.head_count"),
];

/// Divisors that are optional, with a default of the engine's own.
const INTERVALS: [&str; 1] = ["full_attention_interval"];

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let widest = keys.widest(&["ssm", "shortconv", "attn", "time_mix"]);
    for key in STATE {
        keys.at_most(key, keys.number(key).unwrap_or(0), widest)?;
    }
    if keys.number("ssm.inner_size").unwrap_or(0) > 0 {
        keys.positive("ssm.time_step_rank")?;
    }
    for (architecture, key) in DIVISORS {
        if keys.architecture == architecture && keys.gguf.hyper_parameter(key).is_some() {
            keys.positive(key)?;
        }
    }
    for key in INTERVALS {
        if keys.number(key) == Some(0) {
            keys.positive(key)?;
        }
    }
    Ok(())
}
