//! The metadata that the engine reads of each architecture.

use super::family::{Family, RecurrentKind, WindowKeys};
use super::variant::{Setting, Variant};
use super::vocab;
use super::writer::{GgufWriter, WriteValue};

/// Sets all metadata of a model of this shape.
pub(super) fn set_metadata(writer: &mut GgufWriter, family: &Family) {
    writer
        .set("general.architecture", family.architecture)
        .set("general.type", "model")
        .set("general.name", general_name(family.title))
        .set("general.description", "Random weights in the shape of the named model")
        .set("general.quantization_version", 2_u32);
    let mut keys = Keys { writer, architecture: family.architecture };
    set_sizes(&mut keys, family);
    set_attention(&mut keys, family);
    set_experts(&mut keys, family);
    set_recurrent(&mut keys, family);
    for &(key, setting) in family.keys {
        keys.set(key, setting);
    }
    vocab::set_tokenizer(writer, family.vocabulary, family.vocab);
}

/// The model's name without hyphens: the engine goes by some hyphenated names, and then expects
/// tokens of their own.
fn general_name(title: &str) -> String {
    format!("Synthetic {}", title.replace('-', " "))
}

struct Keys<'a> {
    writer: &'a mut GgufWriter,
    architecture: &'a str,
}

impl Keys<'_> {
    fn set(&mut self, key: &str, value: impl Into<WriteValue>) {
        self.writer.set(format!("{}.{key}", self.architecture), value);
    }
}

impl From<Setting> for WriteValue {
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::U(number) => number.into(),
            Setting::F(number) => number.into(),
            Setting::B(flag) => flag.into(),
            Setting::S(text) => text.into(),
            Setting::I(numbers) => numbers.to_vec().into(),
        }
    }
}

fn set_sizes(keys: &mut Keys, family: &Family) {
    keys.set("vocab_size", family.vocab);
    keys.set("context_length", family.context_tokens);
    keys.set("embedding_length", family.embedding);
    keys.set("block_count", family.blocks());
    keys.set("feed_forward_length", family.feed_forward);
    if family.prediction_layers > 0 {
        keys.set("nextn_predict_layers", family.prediction_layers);
    }
    let epsilon = if family.has(Variant::LayerNormKey) {
        "attention.layer_norm_epsilon"
    } else {
        "attention.layer_norm_rms_epsilon"
    };
    keys.set(epsilon, 1e-5_f32);
}

fn set_attention(keys: &mut Keys, family: &Family) {
    let attention = &family.attention;
    keys.set("attention.head_count", attention.heads);
    keys.set("rope.dimension_count", attention.rope_dimensions);
    keys.set("rope.freq_base", family.rope_base);
    if let Some(latent) = attention.latent {
        // The cache holds one compressed key per token, as if there were one head.
        keys.set("attention.head_count_kv", 1_u32);
        keys.set("attention.key_length", latent.kv_rank + attention.rope_dimensions);
        keys.set("attention.value_length", latent.kv_rank);
        keys.set("attention.key_length_mla", attention.key_length);
        keys.set("attention.value_length_mla", attention.value_length);
        keys.set("attention.kv_lora_rank", latent.kv_rank);
        if latent.query_rank > 0 || !is_lite(family.layers) {
            keys.set("attention.q_lora_rank", latent.query_rank);
        }
        return;
    }
    let per_layer: Vec<u32> = (0..family.blocks()).map(|layer| family.kv_heads(layer)).collect();
    let is_uniform = per_layer.iter().all(|&heads| heads == attention.kv_heads);
    if is_uniform || matches!(recurrent_kind(family), Some(RecurrentKind::DeltaNet { .. })) {
        keys.set("attention.head_count_kv", attention.kv_heads);
    } else {
        let signed = |&heads: &u32| i32::try_from(heads).unwrap_or(i32::MAX);
        keys.set("attention.head_count_kv", per_layer.iter().map(signed).collect::<Vec<i32>>());
    }
    keys.set("attention.key_length", attention.key_length);
    keys.set("attention.value_length", attention.value_length);
    set_window(keys, family);
}

/// Layer counts at which the engine takes a model of `DeepSeek` for one without compressed
/// queries, and does not look for their rank.
pub(super) fn is_lite(layers: u32) -> bool {
    matches!(layers, 26 | 27)
}

fn set_window(keys: &mut Keys, family: &Family) {
    let Some(window) = family.attention.window else {
        return;
    };
    if window.keys == WindowKeys::Implied {
        return;
    }
    keys.set("attention.sliding_window", window.tokens);
    if window.keys == WindowKeys::All {
        let pattern: Vec<bool> =
            (0..family.blocks()).map(|layer| family.is_windowed(layer)).collect();
        keys.set("attention.sliding_window_pattern", pattern);
        keys.set("attention.key_length_swa", window.key_length);
        keys.set("attention.value_length_swa", window.key_length);
        keys.set("rope.dimension_count_swa", window.key_length);
    }
}

fn set_experts(keys: &mut Keys, family: &Family) {
    let experts = &family.experts;
    keys.set("expert_count", experts.count);
    keys.set("expert_used_count", experts.active);
    if family.has(Variant::ExpertLengthKey) {
        keys.set("expert_feed_forward_length", experts.feed_forward);
    }
    if family.has(Variant::SharedCountKey) {
        keys.set("expert_shared_count", experts.shared);
    }
    if family.has(Variant::SharedLengthKey) && experts.shared_feed_forward > 0 {
        keys.set("expert_shared_feed_forward_length", experts.shared_feed_forward);
    }
    if experts.leading_dense > 0 {
        keys.set("leading_dense_block_count", experts.leading_dense);
    }
    if experts.groups > 0 {
        keys.set("expert_group_count", experts.groups);
        keys.set("expert_group_used_count", experts.groups_used);
    }
    if experts.chunk_group > 0 {
        keys.set("experts_per_group", experts.chunk_group);
        keys.set("expert_chunk_feed_forward_length", experts.chunk_feed_forward);
    }
}

fn recurrent_kind(family: &Family) -> Option<RecurrentKind> {
    family.recurrent.map(|recurrent| recurrent.kind)
}

fn set_recurrent(keys: &mut Keys, family: &Family) {
    match recurrent_kind(family) {
        None => {}
        Some(RecurrentKind::Mamba { convolution, state, time_step_rank }) => {
            keys.set("ssm.conv_kernel", convolution);
            keys.set("ssm.inner_size", 2 * family.embedding);
            keys.set("ssm.state_size", state);
            keys.set("ssm.time_step_rank", time_step_rank);
        }
        Some(RecurrentKind::DeltaNet { convolution, state, key_heads, value_heads }) => {
            keys.set("ssm.conv_kernel", convolution);
            keys.set("ssm.inner_size", state * value_heads);
            keys.set("ssm.state_size", state);
            keys.set("ssm.time_step_rank", value_heads);
            keys.set("ssm.group_count", key_heads);
        }
        Some(RecurrentKind::ShortConvolution { tokens }) => keys.set("shortconv.l_cache", tokens),
    }
}
