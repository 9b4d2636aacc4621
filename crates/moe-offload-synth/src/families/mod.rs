//! The table of published shapes.
//!
//! Each entry names its source. To add a model, add an entry; to add an architecture, also look at
//! the engine's `src/models/` for the tensors and keys that it wants, and name what is unusual as a
//! `Variant`.

mod deepseek;
mod hybrid;
mod qwen;
mod softmax;
mod various;

use super::family::{Attention, Experts, Family};
use super::variant::Vocabulary;

/// All families, the best known first.
pub(super) const ALL: &[&[Family]] =
    &[softmax::FAMILIES, deepseek::FAMILIES, qwen::FAMILIES, various::FAMILIES, hybrid::FAMILIES];

/// What most models have in common.
const PLAIN: Family = Family {
    name: "",
    title: "",
    architecture: "",
    source: "",
    layers: 0,
    prediction_layers: 0,
    context_tokens: 0,
    vocab: 0,
    embedding: 0,
    feed_forward: 0,
    attention: Attention::grouped(0, 0, 0),
    recurrent: None,
    experts: Experts::new(0, 0, 0),
    expert_type: "q4_K",
    tied_output: false,
    dense_type: "q4_K",
    vocabulary: Vocabulary::Bpe("gpt-2"),
    rope_base: 10_000.0,
    layer_norms: &["attn_norm", "ffn_norm"],
    variants: &[],
    keys: &[],
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use moe_offload::gguf::GgmlType;

    use crate::{Family, SynthOptions, families, family};

    #[test]
    fn every_family_is_complete_and_named_once() {
        let mut names = HashSet::new();
        for family in families() {
            let name = family.name;
            assert!(names.insert(name), "{name} twice");
            assert!(!family.title.is_empty() && !family.architecture.is_empty(), "{name}");
            assert!(family.source.starts_with("https://"), "{name} has no source");
            assert!(GgmlType::from_name(family.expert_type).is_some(), "{name}");
            assert!(GgmlType::from_name(family.dense_type).is_some(), "{name}");
            assert!(family.layers > 0 && family.expert_layers() > 0, "{name}");
            assert!(family.experts.active <= family.experts.count, "{name}");
            assert!(family.attention.heads.is_multiple_of(family.attention.kv_heads), "{name}");
        }
    }

    /// Billions of parameters as the models' own pages count them (text only; with the layers for
    /// prediction, where a file has them).
    const PARAMETERS: &[(&str, f64)] = &[
        ("gpt-oss-20b", 20.9),
        ("gpt-oss-120b", 116.8),
        ("mixtral-8x7b", 46.7),
        ("mixtral-8x22b", 140.6),
        ("phi-3.5-moe", 41.9),
        ("dbrx", 132.0),
        ("olmoe-1b-7b", 6.92),
        ("granite-3.1-3b-a800m", 3.3),
        ("grok-1", 314.0),
        ("arctic", 480.0),
        ("deepseek-moe-16b", 16.4),
        ("deepseek-v2-lite", 15.7),
        ("deepseek-v2", 236.0),
        ("deepseek-v3", 671.0),
        ("kimi-k2", 1026.0),
        ("dots1", 142.0),
        ("qwen1.5-moe-a2.7b", 14.3),
        ("qwen2-57b-a14b", 57.4),
        ("qwen3-30b-a3b", 30.5),
        ("qwen3-235b-a22b", 235.0),
        ("qwen3-coder-480b-a35b", 480.0),
        ("grovemoe", 33.0),
        ("llama-4-scout", 107.8),
        ("llama-4-maverick", 400.0),
        ("glm-4.5-air", 110.0),
        ("glm-4.5", 358.0),
        ("gemma-4-26b-a4b", 25.2),
        ("ernie-4.5-21b-a3b", 21.8),
        ("ernie-4.5-300b-a47b", 300.0),
        ("hunyuan-a13b", 80.4),
        ("minimax-m2", 229.0),
        ("ling-mini-2.0", 16.3),
        ("qwen3-next-80b-a3b", 80.0),
        ("qwen3.5-35b-a3b", 34.7),
        ("jamba-1.5-mini", 51.6),
        ("lfm2-8b-a1b", 8.34),
    ];

    #[test]
    fn parameters_are_as_many_as_published() {
        assert_eq!(PARAMETERS.len(), families().count());
        for &(name, billions) in PARAMETERS {
            let parameters = parameters(family(name).unwrap());
            let error = (parameters / billions - 1.0).abs();
            assert!(error < 0.01, "{name}: {parameters:.2} billion, not {billions}");
        }
    }

    #[allow(clippy::cast_precision_loss)] // only a ratio
    fn parameters(family: &Family) -> f64 {
        let model = family.build(&SynthOptions::default()).unwrap();
        let tensors = model.header().tensors().iter();
        let count: u64 = tensors.map(|tensor| tensor.shape.iter().product::<u64>()).sum();
        count as f64 / 1e9
    }
}
