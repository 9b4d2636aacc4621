//! Heads, their lengths, and rotation.

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;

/// Architectures that read the rotated dimensions and use them nowhere.
pub(super) const UNROTATED: [&str; 5] =
    ["jamba", "granitehybrid", "nemotron_h", "nemotron_h_moe", "mamba2"];

/// Architectures whose heads always rotate by several positions.
const MULTI: [&str; 10] = [
    "qwen2vl",
    "qwen3vl",
    "qwen3vlmoe",
    "qwen35",
    "qwen35moe",
    "qwen4exp",
    "qwen3tts",
    "clef",
    "paddleocr",
    "hunyuan_vl",
];
const WINDOW: &str = "attention.sliding_window";
/// More tokens than any context; the engine adds to it in 32 bits.
const MAX_WINDOW: u64 = 1 << 24;

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    check_heads(keys)?;
    check_cache(keys)?;
    check_rotation(keys)?;
    check_sections(keys)?;
    keys.at_most(WINDOW, keys.number(WINDOW).unwrap_or(0), MAX_WINDOW)
}

/// Heads by which the engine divides, in every layer that has queries.
fn check_heads(keys: &Keys<'_>) -> Checked {
    let has_queries = |layer| {
        ["attn_q.weight", "attn_qkv.weight", "attn_q_b.weight"]
            .iter()
            .any(|tensor| keys.layer_has(layer, tensor))
    };
    for layer in (0..keys.layers).filter(|&layer| has_queries(layer)) {
        let heads = keys.of_layer("attention.head_count", layer).unwrap_or(0);
        if heads == 0 {
            return Err(ModelFault::Zero { key: keys.name("attention.head_count") });
        }
        let kv_heads = keys.of_layer("attention.head_count_kv", layer).unwrap_or(heads);
        if kv_heads == 0 && keys.layer_has(layer, "attn_k.weight") {
            return Err(ModelFault::Zero { key: keys.name("attention.head_count_kv") });
        }
        if kv_heads > 0 && !heads.is_multiple_of(kv_heads) {
            return Err(ModelFault::NotDivisible {
                key: keys.name("attention.head_count"),
                value: heads,
                divisor_key: keys.name("attention.head_count_kv"),
                divisor: kv_heads,
            });
        }
    }
    Ok(())
}

/// The cache is allocated before its size is compared with the tensors'.
fn check_cache(keys: &Keys<'_>) -> Checked {
    let heads = keys.numbers("attention.head_count");
    let kv_heads = keys.numbers("attention.head_count_kv");
    let most = kv_heads.iter().chain(heads.iter().filter(|_| kv_heads.is_empty())).max();
    let most = most.copied().unwrap_or(0).max(1);
    let widest = keys.widest(&["attn", "attention"]);
    for kind in ["key", "value"] {
        for key in [format!("attention.{kind}_length"), format!("attention.{kind}_length_swa")] {
            let length = keys.number(&key).unwrap_or(0);
            keys.at_most(&key, length.saturating_mul(most), widest)?;
        }
    }
    keys.at_most("attention.head_count_kv", most, widest)
}

/// An even number of dimensions, no more than a head has.
fn check_rotation(keys: &Keys<'_>) -> Checked {
    if UNROTATED.contains(&keys.architecture) {
        return Ok(());
    }
    let all = keys.number("rope.dimension_count");
    // Layers with a window rotate as much as the others unless the file says otherwise.
    let windowed = keys.number("rope.dimension_count_swa").or(all);
    let windowed = windowed.filter(|_| keys.number("attention.key_length_swa").is_some());
    for (suffix, rotated) in [("", all), ("_swa", windowed)] {
        let key = format!("rope.dimension_count{suffix}");
        let Some(rotated) = rotated else {
            continue;
        };
        if rotated == 0 {
            return Err(ModelFault::Zero { key: keys.name(&key) });
        }
        if !rotated.is_multiple_of(2) {
            return Err(ModelFault::Odd { key: keys.name(&key), value: rotated });
        }
        if let Some(length) = head_length(keys, suffix) {
            keys.at_most(&key, rotated, length)?;
        }
    }
    Ok(())
}

fn head_length(keys: &Keys<'_>, suffix: &str) -> Option<u64> {
    let given = |suffix| keys.number(&format!("attention.key_length{suffix}"));
    given(suffix).or_else(|| given("")).or_else(|| {
        let heads = keys.of_layer("attention.head_count", 0)?;
        keys.number("embedding_length")?.checked_div(heads)
    })
}

/// The sections of a head that rotate by different positions; the engine divides by their sum.
fn check_sections(keys: &Keys<'_>) -> Checked {
    const KEY: &str = "rope.dimension_sections";
    let Some(sections) = keys.gguf.hyper_parameter(KEY).and_then(|value| value.as_array()) else {
        return Ok(());
    };
    let sections: Vec<u64> =
        sections.iter().take(4).map(|value| value.as_u64().unwrap_or(u64::MAX)).collect();
    let limit = head_length(keys, "").unwrap_or(u64::from(u16::MAX));
    sections.iter().try_for_each(|&section| keys.at_most(KEY, section, limit))?;
    if MULTI.contains(&keys.architecture) && sections.iter().take(3).all(|&section| section == 0) {
        return Err(ModelFault::Zero { key: keys.name(KEY) });
    }
    Ok(())
}
