//! Models whose router is a plain softmax or top-k: GPT-OSS, Mixtral, Phi, DBRX and others.

use super::PLAIN;
use crate::family::{Attention, Experts, Family, WindowKeys};
use crate::variant::{Setting, Variant, Vocabulary};

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "gpt-oss-20b",
        title: "GPT-OSS 20B",
        source: "https://huggingface.co/openai/gpt-oss-20b config.json",
        layers: 24,
        experts: Experts::new(32, 4, 2880),
        ..GPT_OSS
    },
    Family {
        name: "gpt-oss-120b",
        title: "GPT-OSS 120B",
        source: "https://huggingface.co/openai/gpt-oss-120b config.json",
        layers: 36,
        experts: Experts::new(128, 4, 2880),
        ..GPT_OSS
    },
    Family {
        name: "mixtral-8x7b",
        title: "Mixtral 8x7B",
        source: "https://huggingface.co/mistralai/Mixtral-8x7B-Instruct-v0.1 config.json",
        layers: 32,
        context_tokens: 32_768,
        embedding: 4096,
        feed_forward: 14_336,
        attention: Attention::grouped(32, 8, 128),
        experts: Experts::new(8, 2, 14_336),
        ..MIXTRAL
    },
    Family {
        name: "mixtral-8x22b",
        title: "Mixtral 8x22B",
        source: "https://huggingface.co/mistralai/Mixtral-8x22B-v0.1 config.json",
        layers: 56,
        context_tokens: 65_536,
        embedding: 6144,
        feed_forward: 16_384,
        attention: Attention::grouped(48, 8, 128),
        experts: Experts::new(8, 2, 16_384),
        ..MIXTRAL
    },
    Family {
        name: "phi-3.5-moe",
        title: "Phi-3.5-MoE",
        architecture: "phimoe",
        source: "https://huggingface.co/microsoft/Phi-3.5-MoE-instruct config.json",
        layers: 32,
        context_tokens: 131_072,
        vocab: 32_064,
        embedding: 4096,
        feed_forward: 6400,
        attention: Attention::grouped(32, 8, 128),
        experts: Experts::new(16, 2, 6400),
        vocabulary: Vocabulary::Spm,
        variants: &[Variant::QkvBias, Variant::OutBias, Variant::NormBias, Variant::RopeFactors],
        keys: &[
            ("rope.scaling.attn_factor", Setting::F(1.190_238)),
            ("rope.scaling.original_context_length", Setting::U(4096)),
        ],
        ..PLAIN
    },
    Family {
        name: "dbrx",
        title: "DBRX",
        architecture: "dbrx",
        source: "https://huggingface.co/databricks/dbrx-instruct config.json",
        layers: 40,
        context_tokens: 32_768,
        vocab: 100_352,
        embedding: 6144,
        feed_forward: 10_752,
        attention: Attention::grouped(48, 8, 128),
        experts: Experts::new(16, 4, 10_752),
        vocabulary: Vocabulary::Bpe("dbrx"),
        rope_base: 500_000.0,
        layer_norms: &["attn_norm", "attn_output_norm"],
        variants: &[Variant::FusedQkv, Variant::LayerNormKey],
        keys: &[("attention.clamp_kqv", Setting::F(8.0))],
        ..PLAIN
    },
    Family {
        name: "olmoe-1b-7b",
        title: "OLMoE 1B-7B",
        architecture: "olmoe",
        source: "https://huggingface.co/allenai/OLMoE-1B-7B-0924 config.json",
        layers: 16,
        context_tokens: 4096,
        vocab: 50_304,
        embedding: 2048,
        feed_forward: 1024,
        attention: Attention::grouped(16, 16, 128),
        experts: Experts::new(64, 8, 1024),
        vocabulary: Vocabulary::Bpe("olmo"),
        variants: &[Variant::WholeNorms],
        ..PLAIN
    },
    Family {
        name: "granite-3.1-3b-a800m",
        title: "Granite 3.1 3B-A800M",
        architecture: "granitemoe",
        source: "https://huggingface.co/ibm-granite/granite-3.1-3b-a800m-instruct config.json",
        layers: 32,
        context_tokens: 131_072,
        vocab: 49_155,
        embedding: 1536,
        feed_forward: 512,
        attention: Attention::grouped(24, 8, 64),
        experts: Experts::new(40, 8, 512),
        tied_output: true,
        vocabulary: Vocabulary::Bpe("refact"),
        rope_base: 5_000_000.0,
        keys: &[
            ("logit_scale", Setting::F(6.0)),
            ("residual_scale", Setting::F(0.22)),
            ("embedding_scale", Setting::F(12.0)),
            ("attention.scale", Setting::F(0.015_625)),
        ],
        ..PLAIN
    },
    Family {
        name: "grok-1",
        title: "Grok-1",
        architecture: "grok",
        source: "https://github.com/xai-org/grok-1 run.py",
        layers: 64,
        context_tokens: 8192,
        vocab: 131_072,
        embedding: 6144,
        feed_forward: 32_768,
        attention: Attention::grouped(48, 8, 128),
        experts: Experts::new(8, 2, 32_768),
        tied_output: true,
        vocabulary: Vocabulary::Spm,
        layer_norms: &["attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm"],
        ..PLAIN
    },
    Family {
        name: "arctic",
        title: "Snowflake Arctic",
        architecture: "arctic",
        source: "https://huggingface.co/Snowflake/snowflake-arctic-instruct config.json",
        layers: 35,
        context_tokens: 4096,
        vocab: 32_000,
        embedding: 7168,
        feed_forward: 4864,
        attention: Attention::grouped(56, 8, 128),
        experts: Experts::new(128, 2, 4864),
        vocabulary: Vocabulary::Spm,
        layer_norms: &["attn_norm", "ffn_norm", "ffn_norm_exps"],
        variants: &[Variant::SquareDense],
        ..PLAIN
    },
];

const GPT_OSS: Family = Family {
    architecture: "gpt-oss",
    context_tokens: 131_072,
    vocab: 201_088,
    embedding: 2880,
    feed_forward: 2880,
    attention: Attention::grouped(64, 8, 64).window(128, 2, WindowKeys::Size),
    expert_type: "mxfp4",
    dense_type: "q8_0",
    vocabulary: Vocabulary::Bpe("gpt-4o"),
    rope_base: 150_000.0,
    layer_norms: &["attn_norm", "post_attention_norm"],
    variants: &[
        Variant::QkvBias,
        Variant::OutBias,
        Variant::Sinks,
        Variant::ExpertBias,
        Variant::ExpertLengthKey,
    ],
    keys: &[
        ("rope.scaling.type", Setting::S("yarn")),
        ("rope.scaling.factor", Setting::F(32.0)),
        ("rope.scaling.original_context_length", Setting::U(4096)),
    ],
    ..PLAIN
};

const MIXTRAL: Family = Family {
    architecture: "llama",
    vocab: 32_000,
    vocabulary: Vocabulary::Spm,
    rope_base: 1_000_000.0,
    ..PLAIN
};
