//! The `DeepSeek` models and those built like them: latent attention, shared experts, leading dense
//! layers.

use super::PLAIN;
use crate::family::{Attention, Experts, Family};
use crate::variant::{Setting, Variant, Vocabulary};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "deepseek-moe-16b",
        title: "DeepSeekMoE 16B",
        architecture: "deepseek",
        source: "https://huggingface.co/deepseek-ai/deepseek-moe-16b-base config.json",
        layers: 28,
        context_tokens: 4096,
        vocab: 102_400,
        embedding: 2048,
        feed_forward: 10_944,
        attention: Attention::grouped(16, 16, 128),
        experts: Experts::new(64, 6, 1408).shared(2, 2816).after(1),
        vocabulary: Vocabulary::Bpe("deepseek-llm"),
        variants: SHARED_KEYS,
        keys: &[("expert_weights_scale", Setting::F(1.0))],
        ..PLAIN
    },
    Family {
        name: "deepseek-v2-lite",
        title: "DeepSeek-V2-Lite",
        source: "https://huggingface.co/deepseek-ai/DeepSeek-V2-Lite config.json",
        layers: 27,
        embedding: 2048,
        feed_forward: 10_944,
        attention: Attention::latent(16, 0),
        experts: Experts::new(64, 6, 1408).shared(2, 2816).after(1),
        keys: &[
            ("expert_weights_scale", Setting::F(1.0)),
            ("rope.scaling.type", Setting::S("yarn")),
            ("rope.scaling.factor", Setting::F(40.0)),
            ("rope.scaling.original_context_length", Setting::U(4096)),
            ("rope.scaling.yarn_log_multiplier", Setting::F(0.0707)),
        ],
        ..DEEPSEEK2
    },
    Family {
        name: "deepseek-v2",
        title: "DeepSeek-V2",
        source: "https://huggingface.co/deepseek-ai/DeepSeek-V2 config.json",
        layers: 60,
        embedding: 5120,
        feed_forward: 12_288,
        attention: Attention::latent(128, 1536),
        experts: Experts::new(160, 6, 1536).shared(2, 3072).after(1),
        keys: &[
            ("expert_weights_scale", Setting::F(16.0)),
            ("rope.scaling.type", Setting::S("yarn")),
            ("rope.scaling.factor", Setting::F(40.0)),
            ("rope.scaling.original_context_length", Setting::U(4096)),
            ("rope.scaling.yarn_log_multiplier", Setting::F(0.0707)),
        ],
        ..DEEPSEEK2
    },
    Family {
        name: "deepseek-v3",
        title: "DeepSeek-V3",
        source: "https://huggingface.co/deepseek-ai/DeepSeek-V3 config.json",
        layers: 61,
        vocab: 129_280,
        embedding: 7168,
        feed_forward: 18_432,
        attention: Attention::latent(128, 1536),
        experts: Experts::new(256, 8, 2048).shared(1, 2048).after(3).groups(8, 4),
        vocabulary: Vocabulary::Bpe("deepseek-v3"),
        variants: SIGMOID,
        keys: &[
            ("expert_weights_scale", Setting::F(2.5)),
            ("expert_weights_norm", Setting::B(true)),
            ("expert_gating_func", Setting::U(2)),
            ("rope.scaling.type", Setting::S("yarn")),
            ("rope.scaling.factor", Setting::F(40.0)),
            ("rope.scaling.original_context_length", Setting::U(4096)),
            ("rope.scaling.yarn_log_multiplier", Setting::F(0.1)),
        ],
        ..DEEPSEEK2
    },
    Family {
        name: "kimi-k2",
        title: "Kimi K2",
        source: "https://huggingface.co/moonshotai/Kimi-K2-Instruct config.json",
        layers: 61,
        context_tokens: 131_072,
        vocab: 163_840,
        embedding: 7168,
        feed_forward: 18_432,
        attention: Attention::latent(64, 1536),
        experts: Experts::new(384, 8, 2048).shared(1, 2048).after(1).groups(1, 1),
        vocabulary: Vocabulary::Bpe("kimi-k2"),
        rope_base: 50_000.0,
        variants: SIGMOID,
        keys: &[
            ("expert_weights_scale", Setting::F(2.827)),
            ("expert_weights_norm", Setting::B(true)),
            ("expert_gating_func", Setting::U(2)),
            ("rope.scaling.type", Setting::S("yarn")),
            ("rope.scaling.factor", Setting::F(32.0)),
            ("rope.scaling.original_context_length", Setting::U(4096)),
            ("rope.scaling.yarn_log_multiplier", Setting::F(0.1)),
        ],
        ..DEEPSEEK2
    },
    Family {
        name: "dots1",
        title: "dots.llm1",
        architecture: "dots1",
        source: "https://huggingface.co/rednote-hilab/dots.llm1.inst config.json",
        layers: 62,
        context_tokens: 32_768,
        vocab: 152_064,
        embedding: 4096,
        feed_forward: 10_944,
        attention: Attention::grouped(32, 32, 128),
        experts: Experts::new(128, 6, 1408).shared(2, 2816).after(1),
        vocabulary: Vocabulary::Bpe("qwen2"),
        rope_base: 10_000_000.0,
        variants: &[
            Variant::ExpertLengthKey,
            Variant::SharedCountKey,
            Variant::ChoiceBias,
            Variant::HeadNorms,
        ],
        keys: &[
            ("expert_weights_scale", Setting::F(2.5)),
            ("expert_weights_norm", Setting::B(true)),
            ("expert_gating_func", Setting::U(2)),
        ],
        ..PLAIN
    },
];

const SHARED_KEYS: &[Variant] = &[Variant::ExpertLengthKey, Variant::SharedCountKey];

const SIGMOID: &[Variant] =
    &[Variant::ExpertLengthKey, Variant::SharedCountKey, Variant::ChoiceBias];

const DEEPSEEK2: Family = Family {
    architecture: "deepseek2",
    context_tokens: 163_840,
    vocab: 102_400,
    vocabulary: Vocabulary::Bpe("deepseek-llm"),
    variants: SHARED_KEYS,
    ..PLAIN
};
