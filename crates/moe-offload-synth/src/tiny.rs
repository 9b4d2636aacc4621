//! A small model of the same structure, for tests.

use super::family::{
    Attention, AttentionLayers, Experts, Family, Latent, Recurrent, RecurrentKind, Window,
};
use super::vocab::MIN_VOCAB;

const EMBEDDING: u32 = 128;
const FEED_FORWARD: u32 = 64;
const EXPERT_FEED_FORWARD: u32 = 32;
const WINDOW_TOKENS: u32 = 32;
const CONTEXT_TOKENS: u32 = 8192;

/// The same kinds of layers in the same order, with few layers, few experts and short rows.
pub(super) fn shrink(family: &Family) -> Family {
    Family {
        layers: layers(family),
        vocab: MIN_VOCAB,
        context_tokens: family.context_tokens.min(CONTEXT_TOKENS),
        embedding: EMBEDDING,
        feed_forward: if family.feed_forward == family.experts.feed_forward {
            EXPERT_FEED_FORWARD
        } else {
            FEED_FORWARD
        },
        attention: attention(family),
        recurrent: family.recurrent.map(recurrent),
        experts: experts(&family.experts),
        expert_type: if family.expert_type == "mxfp4" { "mxfp4" } else { "q8_0" },
        dense_type: "q8_0",
        ..*family
    }
}

/// Enough layers for each kind to occur, and experts in two layers at least.
fn layers(family: &Family) -> u32 {
    let pattern = match family.recurrent.map(|recurrent| recurrent.attention_layers) {
        Some(AttentionLayers::Every { first, .. }) => first + 2,
        Some(AttentionLayers::These(layers)) => layers.first().map_or(0, |first| first + 2),
        None => family.attention.window.map_or(0, |window| window.period),
    };
    let experts = family.experts.leading_dense + 2 * family.experts.every;
    pattern.max(experts).max(4)
}

/// As many heads as fill the embedding, or more where the model has more.
fn attention(family: &Family) -> Attention {
    let attention = family.attention;
    let is_square = attention.heads * attention.key_length == family.embedding;
    let heads = if is_square { 4 } else { 6 };
    let has_uneven_window =
        attention.window.is_some_and(|window| window.key_length != attention.key_length);
    let length = if has_uneven_window || attention.latent.is_some() { 64 } else { 32 };
    let kv_heads = |kv_heads: u32| match kv_heads {
        _ if kv_heads == attention.heads => heads,
        1 | 2 => 1,
        _ => 2,
    };
    let window = |window: Window| Window {
        tokens: window.tokens.min(WINDOW_TOKENS),
        kv_heads: kv_heads(window.kv_heads),
        key_length: length * window.key_length / attention.key_length,
        ..window
    };
    let latent = |latent: Latent| Latent { query_rank: latent.query_rank.min(64), kv_rank: 64 };
    let all_rotate = attention.rope_dimensions == attention.key_length;
    Attention {
        heads,
        kv_heads: kv_heads(attention.kv_heads),
        key_length: length,
        value_length: if attention.latent.is_some() { 32 } else { length },
        rope_dimensions: if all_rotate { length } else { length / 2 },
        latent: attention.latent.map(latent),
        window: attention.window.map(window),
    }
}

fn experts(experts: &Experts) -> Experts {
    let shared = match experts.shared_feed_forward {
        0 => 0,
        _ => experts.shared * EXPERT_FEED_FORWARD,
    };
    let is_grouped = experts.groups > 1;
    Experts {
        count: 8,
        active: experts.active.min(2),
        feed_forward: EXPERT_FEED_FORWARD,
        shared_feed_forward: shared,
        groups: if is_grouped { 2 } else { experts.groups },
        groups_used: if is_grouped { 1 } else { experts.groups_used },
        chunk_feed_forward: experts.chunk_feed_forward.min(EXPERT_FEED_FORWARD),
        ..*experts
    }
}

fn recurrent(recurrent: Recurrent) -> Recurrent {
    let kind = match recurrent.kind {
        RecurrentKind::Mamba { convolution, state, .. } => {
            RecurrentKind::Mamba { convolution, state, time_step_rank: 8 }
        }
        RecurrentKind::DeltaNet { convolution, .. } => {
            RecurrentKind::DeltaNet { convolution, state: 32, key_heads: 2, value_heads: 4 }
        }
        RecurrentKind::ShortConvolution { tokens } => RecurrentKind::ShortConvolution { tokens },
    };
    Recurrent { kind, ..recurrent }
}
