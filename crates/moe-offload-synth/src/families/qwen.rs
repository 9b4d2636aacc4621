//! The Qwen models and one built on them.

use super::PLAIN;
use crate::family::{Attention, Experts, Family};
use crate::variant::{Setting, Variant, Vocabulary};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "qwen1.5-moe-a2.7b",
        title: "Qwen1.5-MoE-A2.7B",
        source: "https://huggingface.co/Qwen/Qwen1.5-MoE-A2.7B config.json",
        layers: 24,
        context_tokens: 8192,
        embedding: 2048,
        feed_forward: 5632,
        attention: Attention::grouped(16, 16, 128),
        experts: Experts::new(60, 4, 1408).shared(1, 5632),
        ..QWEN2
    },
    Family {
        name: "qwen2-57b-a14b",
        title: "Qwen2-57B-A14B",
        source: "https://huggingface.co/Qwen/Qwen2-57B-A14B-Instruct config.json",
        layers: 28,
        context_tokens: 32_768,
        embedding: 3584,
        feed_forward: 18_944,
        attention: Attention::grouped(28, 4, 128),
        experts: Experts::new(64, 8, 2560).shared(1, 20_480),
        ..QWEN2
    },
    Family {
        name: "qwen3-30b-a3b",
        title: "Qwen3-30B-A3B",
        source: "https://huggingface.co/Qwen/Qwen3-30B-A3B config.json",
        layers: 48,
        embedding: 2048,
        feed_forward: 6144,
        attention: Attention::grouped(32, 4, 128),
        experts: Experts::new(128, 8, 768),
        ..QWEN3
    },
    Family {
        name: "qwen3-235b-a22b",
        title: "Qwen3-235B-A22B",
        source: "https://huggingface.co/Qwen/Qwen3-235B-A22B config.json",
        layers: 94,
        embedding: 4096,
        feed_forward: 12_288,
        attention: Attention::grouped(64, 4, 128),
        experts: Experts::new(128, 8, 1536),
        ..QWEN3
    },
    Family {
        name: "qwen3-coder-480b-a35b",
        title: "Qwen3-Coder-480B-A35B",
        source: "https://huggingface.co/Qwen/Qwen3-Coder-480B-A35B-Instruct config.json",
        layers: 62,
        context_tokens: 262_144,
        embedding: 6144,
        feed_forward: 8192,
        attention: Attention::grouped(96, 8, 128),
        experts: Experts::new(160, 8, 2560),
        rope_base: 10_000_000.0,
        ..QWEN3
    },
    Family {
        name: "grovemoe",
        title: "GroveMoE",
        architecture: "grovemoe",
        source: "https://huggingface.co/inclusionAI/GroveMoE-Inst config.json",
        layers: 48,
        embedding: 2048,
        feed_forward: 6144,
        attention: Attention::grouped(32, 4, 128),
        experts: Experts { chunk_group: 2, chunk_feed_forward: 128, ..Experts::new(128, 8, 768) },
        keys: &[("expert_group_scale", Setting::F(0.05))],
        ..QWEN3
    },
];

const QWEN2: Family = Family {
    architecture: "qwen2moe",
    vocab: 151_936,
    vocabulary: Vocabulary::Bpe("qwen2"),
    rope_base: 1_000_000.0,
    variants: &[
        Variant::QkvBias,
        Variant::ExpertLengthKey,
        Variant::SharedLengthKey,
        Variant::SharedGate,
    ],
    ..PLAIN
};

const QWEN3: Family = Family {
    architecture: "qwen3moe",
    context_tokens: 40_960,
    variants: &[Variant::HeadNorms, Variant::ExpertLengthKey],
    ..QWEN2
};
