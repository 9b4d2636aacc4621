//! Models in which most layers are recurrent.

use super::PLAIN;
use crate::family::{Attention, AttentionLayers, Experts, Family, Recurrent, RecurrentKind};
use crate::variant::{Setting, Variant, Vocabulary};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "qwen3-next-80b-a3b",
        title: "Qwen3-Next-80B-A3B",
        architecture: "qwen3next",
        source: "https://huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct config.json",
        layers: 48,
        context_tokens: 262_144,
        vocab: 151_936,
        embedding: 2048,
        feed_forward: 5120,
        attention: Attention::grouped(16, 2, 256).rope(64),
        recurrent: Some(Recurrent {
            kind: RecurrentKind::DeltaNet {
                convolution: 4,
                state: 128,
                key_heads: 16,
                value_heads: 32,
            },
            attention_layers: AttentionLayers::Every { period: 4, first: 3 },
        }),
        experts: Experts::new(512, 10, 512).shared(1, 512),
        vocabulary: Vocabulary::Bpe("qwen2"),
        rope_base: 10_000_000.0,
        layer_norms: &["attn_norm", "post_attention_norm"],
        variants: &[
            Variant::GatedQuery,
            Variant::HeadNorms,
            Variant::ExpertLengthKey,
            Variant::SharedLengthKey,
            Variant::SharedGate,
        ],
        keys: &[("full_attention_interval", Setting::U(4))],
        ..PLAIN
    },
    Family {
        name: "qwen3.5-35b-a3b",
        title: "Qwen3.5-35B-A3B",
        architecture: "qwen35moe",
        source: "https://huggingface.co/Qwen/Qwen3.5-35B-A3B config.json",
        layers: 40,
        context_tokens: 262_144,
        vocab: 248_320,
        embedding: 2048,
        feed_forward: 512,
        attention: Attention::grouped(16, 2, 256).rope(64),
        recurrent: Some(Recurrent {
            kind: RecurrentKind::DeltaNet {
                convolution: 4,
                state: 128,
                key_heads: 16,
                value_heads: 32,
            },
            attention_layers: AttentionLayers::Every { period: 4, first: 3 },
        }),
        experts: Experts::new(256, 8, 512).shared(1, 512),
        vocabulary: Vocabulary::Bpe("qwen35"),
        rope_base: 10_000_000.0,
        layer_norms: &["attn_norm", "post_attention_norm"],
        variants: &[
            Variant::GatedQuery,
            Variant::HeadNorms,
            Variant::SplitGates,
            Variant::ExpertLengthKey,
            Variant::SharedLengthKey,
            Variant::SharedGate,
        ],
        keys: &[
            ("full_attention_interval", Setting::U(4)),
            ("rope.dimension_sections", Setting::I(&[11, 11, 10, 0])),
        ],
        ..PLAIN
    },
    Family {
        name: "jamba-1.5-mini",
        title: "Jamba 1.5 Mini",
        architecture: "jamba",
        source: "https://huggingface.co/ai21labs/AI21-Jamba-1.5-Mini config.json",
        layers: 32,
        context_tokens: 262_144,
        vocab: 65_536,
        embedding: 4096,
        feed_forward: 14_336,
        attention: Attention::grouped(32, 8, 128),
        recurrent: Some(Recurrent {
            kind: RecurrentKind::Mamba { convolution: 4, state: 16, time_step_rank: 256 },
            attention_layers: AttentionLayers::Every { period: 8, first: 4 },
        }),
        experts: Experts::new(16, 2, 14_336).every(2),
        vocabulary: Vocabulary::Spm,
        ..PLAIN
    },
    Family {
        name: "lfm2-8b-a1b",
        title: "LFM2-8B-A1B",
        architecture: "lfm2moe",
        source: "https://huggingface.co/LiquidAI/LFM2-8B-A1B config.json",
        layers: 24,
        context_tokens: 128_000,
        vocab: 65_536,
        embedding: 2048,
        feed_forward: 7168,
        attention: Attention::grouped(32, 8, 64),
        recurrent: Some(Recurrent {
            kind: RecurrentKind::ShortConvolution { tokens: 3 },
            attention_layers: AttentionLayers::These(&[2, 6, 10, 14, 18, 21]),
        }),
        experts: Experts::new(32, 4, 1792).after(2),
        tied_output: true,
        vocabulary: Vocabulary::Bpe("lfm2"),
        rope_base: 1_000_000.0,
        variants: &[
            Variant::HeadNorms,
            Variant::EmbeddingNormName,
            Variant::ChoiceBias,
            Variant::ExpertLengthKey,
        ],
        keys: &[("expert_gating_func", Setting::U(2))],
        ..PLAIN
    },
];
