//! Models that are each a little different: Llama 4, GLM, Gemma, ERNIE, Hunyuan, `MiniMax`, Ling.

use super::PLAIN;
use crate::family::{Attention, Experts, Family, Window, WindowKeys};
use crate::variant::{Setting, Variant, Vocabulary};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "llama-4-scout",
        title: "Llama 4 Scout",
        source: "https://huggingface.co/meta-llama/Llama-4-Scout-17B-16E-Instruct config.json",
        context_tokens: 10_485_760,
        experts: Experts::new(16, 1, 8192).shared(1, 8192),
        variants: &[Variant::ExpertLengthKey, Variant::RopeFreqs],
        keys: &[("interleave_moe_layer_step", Setting::U(1))],
        ..LLAMA4
    },
    Family {
        name: "llama-4-maverick",
        title: "Llama 4 Maverick",
        source: "https://huggingface.co/meta-llama/Llama-4-Maverick-17B-128E-Instruct config.json",
        context_tokens: 1_048_576,
        experts: Experts::new(128, 1, 8192).shared(1, 8192).every(2),
        keys: &[("interleave_moe_layer_step", Setting::U(2))],
        ..LLAMA4
    },
    Family {
        name: "glm-4.5-air",
        title: "GLM-4.5-Air",
        source: "https://huggingface.co/zai-org/GLM-4.5-Air config.json",
        layers: 46,
        embedding: 4096,
        feed_forward: 10_944,
        experts: Experts::new(128, 8, 1408).shared(1, 1408).after(1).groups(1, 1),
        variants: &[
            Variant::QkvBias,
            Variant::ExpertLengthKey,
            Variant::SharedCountKey,
            Variant::ChoiceBias,
        ],
        keys: &[
            ("expert_weights_scale", Setting::F(1.0)),
            ("expert_weights_norm", Setting::B(true)),
            ("expert_gating_func", Setting::U(2)),
        ],
        ..GLM4
    },
    Family {
        name: "glm-4.5",
        title: "GLM-4.5",
        source: "https://huggingface.co/zai-org/GLM-4.5 config.json",
        layers: 92,
        embedding: 5120,
        feed_forward: 12_288,
        experts: Experts::new(160, 8, 1536).shared(1, 1536).after(3).groups(1, 1),
        variants: &[
            Variant::QkvBias,
            Variant::HeadNorms,
            Variant::ExpertLengthKey,
            Variant::SharedCountKey,
            Variant::ChoiceBias,
        ],
        keys: &[
            ("expert_weights_scale", Setting::F(2.5)),
            ("expert_weights_norm", Setting::B(true)),
            ("expert_gating_func", Setting::U(2)),
        ],
        ..GLM4
    },
    Family {
        name: "gemma-4-26b-a4b",
        title: "Gemma 4 26B-A4B",
        architecture: "gemma4",
        source: "https://huggingface.co/google/gemma-4-26B-A4B-it config.json",
        layers: 30,
        context_tokens: 262_144,
        vocab: 262_144,
        embedding: 2816,
        feed_forward: 2112,
        attention: Attention {
            window: Some(Window {
                tokens: 1024,
                period: 6,
                kv_heads: 8,
                key_length: 256,
                keys: WindowKeys::All,
            }),
            ..Attention::grouped(16, 2, 512)
        },
        experts: Experts::new(128, 8, 704),
        tied_output: true,
        rope_base: 1_000_000.0,
        layer_norms: &[
            "attn_norm",
            "post_attention_norm",
            "ffn_norm",
            "post_ffw_norm",
            "pre_ffw_norm_2",
            "post_ffw_norm_1",
            "post_ffw_norm_2",
        ],
        variants: &[
            Variant::HeadNorms,
            Variant::KeyIsValue,
            Variant::FusedGateUp,
            Variant::ParallelDense,
            Variant::Scales,
            Variant::RopeFreqs,
            Variant::ExpertLengthKey,
        ],
        keys: &[
            ("embedding_length_per_layer_input", Setting::U(0)),
            ("attention.shared_kv_layers", Setting::U(0)),
            ("rope.freq_base_swa", Setting::F(10_000.0)),
            ("final_logit_softcapping", Setting::F(30.0)),
        ],
        ..PLAIN
    },
    Family {
        name: "ernie-4.5-21b-a3b",
        title: "ERNIE 4.5 21B-A3B",
        source: "https://huggingface.co/baidu/ERNIE-4.5-21B-A3B-PT config.json",
        layers: 28,
        embedding: 2560,
        feed_forward: 12_288,
        attention: Attention::grouped(20, 4, 128),
        experts: Experts::new(64, 6, 1536).shared(2, 3072).after(1),
        tied_output: true,
        ..ERNIE
    },
    Family {
        name: "ernie-4.5-300b-a47b",
        title: "ERNIE 4.5 300B-A47B",
        source: "https://huggingface.co/baidu/ERNIE-4.5-300B-A47B-PT config.json",
        layers: 54,
        embedding: 8192,
        feed_forward: 28_672,
        attention: Attention::grouped(64, 8, 128),
        experts: Experts::new(64, 8, 3584).after(3),
        ..ERNIE
    },
    Family {
        name: "hunyuan-a13b",
        title: "Hunyuan-A13B",
        architecture: "hunyuan-moe",
        source: "https://huggingface.co/tencent/Hunyuan-A13B-Instruct config.json",
        layers: 32,
        context_tokens: 262_144,
        vocab: 128_167,
        embedding: 4096,
        feed_forward: 3072,
        attention: Attention::grouped(32, 8, 128),
        experts: Experts::new(64, 8, 3072).shared(1, 3072),
        tied_output: true,
        vocabulary: Vocabulary::Bpe("hunyuan"),
        rope_base: 11_158_840.0,
        variants: &[Variant::HeadNorms, Variant::ExpertLengthKey, Variant::SharedLengthKey],
        ..PLAIN
    },
    Family {
        name: "minimax-m2",
        title: "MiniMax-M2",
        architecture: "minimax-m2",
        source: "https://huggingface.co/MiniMaxAI/MiniMax-M2 config.json",
        layers: 62,
        context_tokens: 196_608,
        vocab: 200_064,
        embedding: 3072,
        feed_forward: 1536,
        attention: Attention::grouped(48, 8, 128).rope(64),
        experts: Experts::new(256, 8, 1536),
        vocabulary: Vocabulary::Bpe("minimax-m2"),
        rope_base: 5_000_000.0,
        variants: &[Variant::WholeNorms, Variant::ChoiceBias, Variant::ExpertLengthKey],
        keys: &[("expert_gating_func", Setting::U(2))],
        ..PLAIN
    },
    Family {
        name: "ling-mini-2.0",
        title: "Ling-mini-2.0",
        architecture: "bailingmoe2",
        source: "https://huggingface.co/inclusionAI/Ling-mini-2.0 config.json",
        layers: 20,
        context_tokens: 32_768,
        vocab: 157_184,
        embedding: 2048,
        feed_forward: 5120,
        attention: Attention::grouped(16, 4, 128).rope(64),
        experts: Experts::new(256, 8, 512).shared(1, 512).after(1).groups(8, 4),
        vocabulary: Vocabulary::Bpe("bailingmoe2"),
        rope_base: 600_000.0,
        variants: &[
            Variant::FusedQkv,
            Variant::HeadNorms,
            Variant::ChoiceBias,
            Variant::ExpertLengthKey,
            Variant::SharedCountKey,
            Variant::SharedLengthKey,
        ],
        keys: &[
            ("expert_weights_scale", Setting::F(2.5)),
            ("expert_weights_norm", Setting::B(true)),
            ("expert_gating_func", Setting::U(2)),
        ],
        ..PLAIN
    },
];

const LLAMA4: Family = Family {
    architecture: "llama4",
    layers: 48,
    vocab: 202_048,
    embedding: 5120,
    feed_forward: 16_384,
    attention: Attention::grouped(40, 8, 128).window(8192, 4, WindowKeys::Implied),
    vocabulary: Vocabulary::Bpe("llama4"),
    rope_base: 500_000.0,
    variants: &[Variant::ExpertLengthKey],
    ..PLAIN
};

const GLM4: Family = Family {
    architecture: "glm4moe",
    prediction_layers: 1,
    context_tokens: 131_072,
    vocab: 151_552,
    attention: Attention::grouped(96, 8, 128).rope(64),
    vocabulary: Vocabulary::Bpe("glm4"),
    rope_base: 1_000_000.0,
    layer_norms: &["attn_norm", "post_attention_norm"],
    ..PLAIN
};

const ERNIE: Family = Family {
    architecture: "ernie4_5-moe",
    context_tokens: 131_072,
    vocab: 103_424,
    vocabulary: Vocabulary::Spm,
    rope_base: 500_000.0,
    variants: &[
        Variant::ChoiceBias,
        Variant::ExpertLengthKey,
        Variant::SharedCountKey,
        Variant::SharedLengthKey,
    ],
    keys: &[("interleave_moe_layer_step", Setting::U(1))],
    ..PLAIN
};
