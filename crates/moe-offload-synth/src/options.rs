//! What may differ from a published shape.

use moe_offload::gguf::GgmlType;
use moe_offload::{Error, Result};

use super::family::Family;
use super::metadata::is_lite;
use super::tensors::Types;
use super::vocab::MIN_VOCAB;
use super::{tiny, weights};

const MAX_LAYERS: u32 = 512; // the engine's own limit
const MAX_VOCAB: u32 = 4_000_000;

/// How large a synthetic model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scale {
    /// As published.
    #[default]
    Full,
    /// The same structure with few layers, few experts and short rows: well below 2 MB.
    Tiny,
}

/// Departures from a family's published shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SynthOptions {
    /// Full or tiny.
    pub scale: Scale,
    /// This many layers, without those for prediction.
    pub layers: Option<u32>,
    /// Experts of this type; rows that are no whole number of its blocks fall back.
    pub expert_type: Option<GgmlType>,
    /// A vocabulary of this many tokens.
    pub vocab: Option<u32>,
    /// Another seed gives other weights.
    pub seed: u64,
}

impl SynthOptions {
    /// The tiny scale, otherwise as published.
    pub fn tiny() -> Self {
        Self::default().scale(Scale::Tiny)
    }

    /// Full or tiny.
    #[must_use]
    pub fn scale(self, scale: Scale) -> Self {
        Self { scale, ..self }
    }

    /// This many layers, without those for prediction.
    #[must_use]
    pub fn layers(self, layers: u32) -> Self {
        Self { layers: Some(layers), ..self }
    }

    /// Experts of this type.
    #[must_use]
    pub fn expert_type(self, expert_type: GgmlType) -> Self {
        Self { expert_type: Some(expert_type), ..self }
    }

    /// A vocabulary of this many tokens.
    #[must_use]
    pub fn vocab(self, vocab: u32) -> Self {
        Self { vocab: Some(vocab), ..self }
    }

    /// Another seed gives other weights.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

impl SynthOptions {
    /// The family's shape with these departures.
    pub(super) fn resolve(&self, family: &Family) -> Result<Family> {
        let mut resolved = match self.scale {
            Scale::Full => *family,
            Scale::Tiny => tiny::shrink(family),
        };
        if let Some(vocab) = self.vocab {
            if !(MIN_VOCAB..=MAX_VOCAB).contains(&vocab) {
                return invalid("the vocabulary", vocab, "from 384 to 4000000 tokens");
            }
            resolved.vocab = vocab;
        }
        if let Some(layers) = self.layers {
            resolved.layers = layers;
            check_layers(&resolved)?;
        }
        Ok(resolved)
    }

    /// The element types of a file of this shape.
    pub(super) fn types(&self, family: &Family) -> Result<Types> {
        let named = |name: &str| GgmlType::from_name(name).unwrap_or(GgmlType::Q8_0);
        let dense = named(family.dense_type);
        let experts = self.expert_type.unwrap_or_else(|| family.default_expert_type());
        if !weights::is_supported(experts) {
            let expected = "one of f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_K to q6_K, \
            iq4_nl, iq4_xs and mxfp4";
            return invalid("the experts' type", experts, expected);
        }
        // An output matrix is usually kept more exact than the rest.
        let (embedding, output) = match (self.scale, family.dense_type) {
            (Scale::Tiny, _) => (GgmlType::F16, GgmlType::F16),
            (Scale::Full, "q4_K") => (dense, named("q6_K")),
            (Scale::Full, _) => (dense, dense),
        };
        Ok(Types { experts, dense, embedding, output })
    }
}

/// Whether the engine would take so many layers.
fn check_layers(family: &Family) -> Result<()> {
    let layers = family.layers;
    let refuse = |expected| invalid("the number of layers", layers, expected);
    if layers == 0 || layers > MAX_LAYERS - family.prediction_layers {
        return refuse("from 1 to 512, those for prediction included");
    }
    let has_query_rank = family.attention.latent.is_some_and(|latent| latent.query_rank > 0);
    if has_query_rank && is_lite(layers) {
        return refuse("other than 26 and 27, which the engine takes for DeepSeek-V2-Lite");
    }
    let sees_everything = |layer: &u32| !family.is_recurrent(*layer) && !family.is_windowed(*layer);
    let first = (0..MAX_LAYERS).find(sees_everything);
    let first_with_experts = (0..MAX_LAYERS).find(|&layer| family.has_experts(layer));
    let least = first.max(first_with_experts).map_or(MAX_LAYERS, |layer| layer + 1);
    if layers < least {
        let value = format!("{layers} (the least is {least})");
        let expected = "enough for one with full attention and one with experts";
        return invalid("the number of layers", value, expected);
    }
    Ok(())
}

/// An error about an option.
pub(super) fn invalid<T>(
    option: &'static str,
    value: impl std::fmt::Display,
    expected: &'static str,
) -> Result<T> {
    Err(Error::InvalidOption { option, value: value.to_string(), expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    #[test]
    fn options_are_heard() {
        let options = SynthOptions::tiny().layers(6).vocab(500).expert_type(GgmlType::F32).seed(3);
        let model = family("qwen3-30b-a3b").unwrap().build(&options).unwrap();
        assert_eq!((model.family().layers, model.family().vocab), (6, 500));
        let tensors = model.header().tensors();
        let down = tensors.iter().find(|t| t.name == "blk.5.ffn_down_exps.weight").unwrap();
        assert_eq!((down.ggml_type, &down.shape[..]), (GgmlType::F32, &[32, 128, 8][..]));
        assert!(tensors.iter().all(|t| !t.name.starts_with("blk.6.")));
    }

    #[test]
    fn impossible_options_are_refused() {
        let iq1_s = GgmlType::from_name("iq1_s").unwrap();
        let tiny = SynthOptions::tiny;
        for (name, options) in [
            ("dbrx", tiny().layers(0)),
            ("dbrx", tiny().layers(513)),
            ("glm-4.5-air", tiny().layers(u32::MAX)),
            ("glm-4.5-air", tiny().layers(512)),
            ("deepseek-v3", tiny().layers(3)),
            ("qwen3-next-80b-a3b", tiny().layers(3)),
            ("gemma-4-26b-a4b", tiny().layers(5)),
            ("deepseek-v3", tiny().layers(27)),
            ("dbrx", tiny().vocab(100)),
            ("dbrx", tiny().expert_type(iq1_s)),
        ] {
            let error = family(name).unwrap().build(&options).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        }
        assert!(matches!(family("gpt-5"), Err(Error::InvalidOption { .. })));
    }
}
