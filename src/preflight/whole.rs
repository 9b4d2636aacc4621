//! What the engine asks every file for: it would say itself that it is missing, but only when it loads.

use std::collections::HashSet;

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;
use crate::experts::next_token_layers;
use crate::gguf::{GgufFile, Shard, TensorInfo, Value};

/// Without which it loads no model (`llama_model_base::load_hparams`).
const KEYS: [&str; 3] = ["block_count", "context_length", "embedding_length"];
const RMS: &str = "attention.layer_norm_rms_epsilon";
const PLAIN: &str = "attention.layer_norm_epsilon";
/// Architectures whose norms take the mean away first, and so have the other key (`load_arch_hparams`).
const PLAIN_NORMS: [&str; 20] = [
    "bloom",
    "codeshell",
    "cohere2",
    "command-r",
    "dbrx",
    "falcon",
    "gpt2",
    "gptneox",
    "jais",
    "jais2",
    "mpt",
    "nemotron",
    "nemotron_h",
    "nemotron_h_moe",
    "olmo",
    "orion",
    "phi2",
    "stablelm",
    "starcoder",
    "starcoder2",
];
/// Those that need neither, or either.
const ANY_NORM: [&str; 6] = ["arwkv7", "cohere2moe", "qwen2vl", "rwkv6", "rwkv6qwen2", "rwkv7"];
/// Architectures whose output has no norm of this name.
const OTHER_OUTPUT_NORM: [&str; 6] = ["hrm_text", "lfm2", "lfm2moe", "olmo", "qwen4exp", "talkie"];
/// Layers of these may be nothing at all.
const EMPTY_LAYERS: [&str; 1] = ["deci"];
const SCALING: &str = "rope.scaling.type";
const SCALINGS: [&str; 4] = ["none", "linear", "yarn", "longrope"];
const FLAGS: [&str; 4] =
    ["attention.causal", "expert_weights_norm", "rope.scaling.finetuned", "use_parallel_residual"];
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT_NORM: &str = "output_norm.weight";

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    check_keys(keys)?;
    check_places(keys.gguf)?;
    check_layers(keys)?;
    check_outer(keys)?;
    (0..ordinary(keys)).try_for_each(|layer| check_experts(keys, layer))
}

fn check_keys(keys: &Keys<'_>) -> Checked {
    KEYS.iter().try_for_each(|key| needed(keys, key))?;
    match keys.architecture {
        name if ANY_NORM.contains(&name) => {}
        name if PLAIN_NORMS.contains(&name) => needed(keys, PLAIN)?,
        _ => needed(keys, RMS)?,
    }
    for key in FLAGS {
        if let Some(value) =
            keys.gguf.hyper_parameter(key).filter(|value| value.as_bool().is_none())
        {
            let (key, expected) = (keys.name(key), "true or false (bool)");
            return Err(ModelFault::KeyType { key, found: value.kind(), expected });
        }
    }
    match keys.gguf.hyper_parameter(SCALING) {
        Some(Value::String(name)) if !SCALINGS.contains(&name.as_str()) => {
            let (key, value) = (keys.name(SCALING), name.clone());
            Err(ModelFault::UnknownValue { key, value, known: SCALINGS.join(", ") })
        }
        None | Some(Value::String(_)) => Ok(()),
        Some(value) => {
            let (key, found) = (keys.name(SCALING), value.kind());
            Err(ModelFault::KeyType { key, found, expected: "a text" })
        }
    }
}

fn needed(keys: &Keys<'_>, key: &str) -> Checked {
    match keys.gguf.hyper_parameter(key) {
        Some(_) => Ok(()),
        None => Err(ModelFault::MissingKey { key: keys.name(key) }),
    }
}

/// In each file the data lies in the order of the table and without gaps: the engine reckons where each begins.
fn check_places(gguf: &GgufFile) -> Checked {
    let mut ends: Vec<u64> = gguf.shards().iter().map(Shard::data_start).collect();
    for tensor in gguf.tensors() {
        let Some(end) = ends.get_mut(tensor.shard) else { continue };
        if tensor.file_offset != *end {
            let (tensor, offset, expected) = (tensor.name.clone(), tensor.file_offset, *end);
            return Err(ModelFault::Gap { tensor, offset, expected });
        }
        let alignment = gguf.shards()[tensor.shard].alignment();
        *end = end
            .saturating_add(tensor.bytes)
            .checked_next_multiple_of(alignment)
            .unwrap_or(u64::MAX);
    }
    Ok(())
}

/// Layers that are loaded.
fn ordinary(keys: &Keys<'_>) -> u64 {
    keys.layers.saturating_sub(next_token_layers(keys.gguf))
}

fn check_layers(keys: &Keys<'_>) -> Checked {
    if EMPTY_LAYERS.contains(&keys.architecture) {
        return Ok(());
    }
    let of =
        |tensor: &TensorInfo| tensor.name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok();
    let found: HashSet<u64> = keys.gguf.tensors().iter().filter_map(of).collect();
    match (0..ordinary(keys)).find(|layer| !found.contains(layer)) {
        Some(layer) => {
            let key = keys.name("block_count");
            Err(ModelFault::NoLayer { layer, key, layers: keys.layers })
        }
        None => Ok(()),
    }
}

/// What is before the layers and after them.
fn check_outer(keys: &Keys<'_>) -> Checked {
    let missing = |tensor: &str| Err(ModelFault::NoTensor { tensor: tensor.to_owned() });
    let Some(embedding) = keys.tensor(EMBEDDING) else { return missing(EMBEDDING) };
    expect(keys, embedding, 0, "embedding_length")?;
    if keys.tensor(OUTPUT_NORM).is_none() && !OTHER_OUTPUT_NORM.contains(&keys.architecture) {
        return missing(OUTPUT_NORM);
    }
    Ok(())
}

/// One side of a tensor, the fastest first, is what a key says.
fn expect(keys: &Keys<'_>, tensor: &TensorInfo, side: usize, key: &str) -> Checked {
    let found = tensor.shape.get(side).copied().unwrap_or(1);
    match keys.number(key) {
        Some(expected) if expected != found => Err(ModelFault::WrongShape {
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
            expected,
            by: keys.name(key),
        }),
        _ => Ok(()),
    }
}

/// The experts of a layer are whole, as many as the file says, and fit each other.
fn check_experts(keys: &Keys<'_>, layer: u64) -> Checked {
    let of_layer = |name: &str| keys.tensor(&format!("blk.{layer}.{name}.weight"));
    let (up, joined) = (of_layer("ffn_up_exps"), of_layer("ffn_gate_up_exps"));
    let (down, router) = (of_layer("ffn_down_exps"), of_layer("ffn_gate_inp"));
    let Some(some) = up.or(joined).or(down) else { return Ok(()) };
    let missing = |name: &str| {
        let tensor = format!("blk.{layer}.{name}.weight");
        Err(ModelFault::MissingTensor { tensor, needed_by: some.name.clone() })
    };
    let Some(down) = down else { return missing("ffn_down_exps") };
    let Some(into) = up.or(joined) else { return missing("ffn_up_exps") };
    let Some(router) = router else { return missing("ffn_gate_inp") };
    [down, into]
        .into_iter()
        .chain(of_layer("ffn_gate_exps"))
        .try_for_each(|tensor| expect(keys, tensor, 2, "expert_count"))?;
    expect(keys, router, 1, "expert_count")?;
    let side = |tensor: &TensorInfo, side: usize| tensor.shape.get(side).copied().unwrap_or(1);
    let hidden = side(into, 1) / if up.is_some() { 1 } else { 2 };
    for (side, expected) in [(side(down, 0), hidden), (side(down, 1), side(into, 0))] {
        if side != expected {
            return Err(ModelFault::WrongShape {
                tensor: down.name.clone(),
                shape: down.shape.clone(),
                expected,
                by: into.name.clone(),
            });
        }
    }
    Ok(())
}
