//! What is known of a published model's shape.

use moe_offload::gguf::GgmlType;

use super::variant::{Setting, Variant, Vocabulary};

/// The shape of a published model: everything that decides its tensors and metadata.
///
/// The figures are those of the model's own configuration, named in [`source`](Self::source). The
/// known families are listed by [`families`](fn@super::families).
///
/// ```
/// let family = moe_offload_synth::family("mixtral-8x7b")?;
/// assert_eq!((family.layers, family.experts.count, family.experts.active), (32, 8, 2));
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Family {
    /// The name on a command line, for example `gpt-oss-20b`.
    pub name: &'static str,
    /// The name in print, for example `GPT-OSS 20B`.
    pub title: &'static str,
    /// The value of `general.architecture`.
    pub architecture: &'static str,
    /// Where the figures are published.
    pub source: &'static str,
    /// Layers, without those of [`prediction_layers`](Self::prediction_layers).
    pub layers: u32,
    /// Layers at the end that predict the token after the next (multi-token prediction). The
    /// engine leaves them out unless asked to load them.
    pub prediction_layers: u32,
    /// Tokens the model was trained for.
    pub context_tokens: u32,
    /// Tokens of the vocabulary.
    pub vocab: u32,
    /// Elements of the hidden state.
    pub embedding: u32,
    /// Rows of a dense layer's feed-forward matrices.
    pub feed_forward: u32,
    /// The attention's shape.
    pub attention: Attention,
    /// What stands in for attention in most layers of a hybrid model.
    pub recurrent: Option<Recurrent>,
    /// The experts' shape.
    pub experts: Experts,
    /// The name of the type in which the experts are usually downloaded; rows that are no whole
    /// number of its blocks fall back to another type, as they do in `llama-quantize`.
    pub expert_type: &'static str,
    /// Whether the output matrix is the token embedding.
    pub tied_output: bool,
    pub(super) dense_type: &'static str,
    pub(super) vocabulary: Vocabulary,
    pub(super) rope_base: f32,
    pub(super) layer_norms: &'static [&'static str],
    pub(super) variants: &'static [Variant],
    pub(super) keys: &'static [(&'static str, Setting)],
}

/// The shape of the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key and value heads, fewer than query heads in grouped-query attention.
    pub kv_heads: u32,
    /// Elements of a key, per head.
    pub key_length: u32,
    /// Elements of a value, per head.
    pub value_length: u32,
    /// Elements of a key that carry the position.
    pub rope_dimensions: u32,
    /// Multi-head latent attention: keys and values are kept compressed.
    pub latent: Option<Latent>,
    /// Layers that look back only so far.
    pub window: Option<Window>,
}

/// Multi-head latent attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latent {
    /// Rank of the compressed queries, 0 where they are not compressed.
    pub query_rank: u32,
    /// Rank of the compressed keys and values.
    pub kv_rank: u32,
}

/// Sliding-window attention in all but every `period`-th layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// How many tokens such a layer sees.
    pub tokens: u32,
    /// The last of so many layers sees everything.
    pub period: u32,
    /// Key and value heads of the windowed layers.
    pub kv_heads: u32,
    /// Elements of a key or value, per head, in the windowed layers.
    pub key_length: u32,
    pub(super) keys: WindowKeys,
}

/// Which metadata describes the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowKeys {
    /// None: the engine knows the architecture's window.
    Implied,
    /// The size; the engine knows the pattern.
    Size,
    /// The size, a flag per layer, and the windowed layers' own head shapes.
    All,
}

/// What a hybrid model has in place of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recurrent {
    /// The kind and its sizes.
    pub kind: RecurrentKind,
    /// The layers that do have attention.
    pub attention_layers: AttentionLayers,
}

/// A recurrent layer's kind and sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecurrentKind {
    /// A selective state space.
    Mamba {
        /// Width of the convolution.
        convolution: u32,
        /// Elements of the state per channel.
        state: u32,
        /// Rank of the time step.
        time_step_rank: u32,
    },
    /// A gated delta net.
    DeltaNet {
        /// Width of the convolution.
        convolution: u32,
        /// Elements of a key or value per head.
        state: u32,
        /// Key heads.
        key_heads: u32,
        /// Value heads.
        value_heads: u32,
    },
    /// A short gated convolution.
    ShortConvolution {
        /// Tokens that it spans.
        tokens: u32,
    },
}

/// Which layers of a hybrid model have attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttentionLayers {
    /// Every `period`-th, beginning with `first`.
    Every {
        /// The distance between two of them.
        period: u32,
        /// The first of them, counted from 0.
        first: u32,
    },
    /// These, counted from 0.
    These(&'static [u32]),
}

/// The shape of the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Experts {
    /// Experts per layer, of which the router chooses.
    pub count: u32,
    /// Experts chosen per token.
    pub active: u32,
    /// Rows of one expert's gate and up matrices.
    pub feed_forward: u32,
    /// Experts that every token uses.
    pub shared: u32,
    /// Rows of the shared experts' matrices, all together.
    pub shared_feed_forward: u32,
    /// Layers at the beginning that have a dense feed-forward instead.
    pub leading_dense: u32,
    /// After those, every so many-th layer has experts.
    pub every: u32,
    /// Groups that the router first chooses among, or 0.
    pub groups: u32,
    /// Groups chosen per token.
    pub groups_used: u32,
    /// Experts that share one chunk (a small expert of their own), or 0.
    pub chunk_group: u32,
    /// Rows of a chunk's gate and up matrices.
    pub chunk_feed_forward: u32,
}

impl Attention {
    /// Grouped-query attention where every element of a key carries the position.
    pub(super) const fn grouped(heads: u32, kv_heads: u32, length: u32) -> Self {
        Self {
            heads,
            kv_heads,
            key_length: length,
            value_length: length,
            rope_dimensions: length,
            latent: None,
            window: None,
        }
    }

    /// Latent attention in the sizes of `DeepSeek`: 128 elements without and 64 with position.
    pub(super) const fn latent(heads: u32, query_rank: u32) -> Self {
        Self {
            key_length: 192,
            value_length: 128,
            rope_dimensions: 64,
            latent: Some(Latent { query_rank, kv_rank: 512 }),
            ..Self::grouped(heads, heads, 0)
        }
    }

    pub(super) const fn rope(self, rope_dimensions: u32) -> Self {
        Self { rope_dimensions, ..self }
    }

    pub(super) const fn window(self, tokens: u32, period: u32, keys: WindowKeys) -> Self {
        let (kv_heads, key_length) = (self.kv_heads, self.key_length);
        let window = Window { tokens, period, kv_heads, key_length, keys };
        Self { window: Some(window), ..self }
    }
}

impl Experts {
    pub(super) const fn new(count: u32, active: u32, feed_forward: u32) -> Self {
        Self {
            count,
            active,
            feed_forward,
            shared: 0,
            shared_feed_forward: 0,
            leading_dense: 0,
            every: 1,
            groups: 0,
            groups_used: 0,
            chunk_group: 0,
            chunk_feed_forward: 0,
        }
    }

    pub(super) const fn shared(self, shared: u32, shared_feed_forward: u32) -> Self {
        Self { shared, shared_feed_forward, ..self }
    }

    pub(super) const fn after(self, leading_dense: u32) -> Self {
        Self { leading_dense, ..self }
    }

    pub(super) const fn every(self, every: u32) -> Self {
        Self { every, ..self }
    }

    pub(super) const fn groups(self, groups: u32, groups_used: u32) -> Self {
        Self { groups, groups_used, ..self }
    }
}

impl Family {
    /// How many layers have experts, those for prediction included.
    pub fn expert_layers(&self) -> u32 {
        let layers = (0..self.blocks()).filter(|&layer| self.has_experts(layer));
        u32::try_from(layers.count()).unwrap_or(u32::MAX)
    }

    /// All layers, those for prediction included: the value of `block_count`.
    pub fn blocks(&self) -> u32 {
        self.layers + self.prediction_layers
    }

    /// Whether a layer has experts.
    pub fn has_experts(&self, layer: u32) -> bool {
        let every = self.experts.every.max(1);
        layer >= self.experts.leading_dense && layer % every == every - 1
    }

    /// Whether a layer is recurrent.
    pub fn is_recurrent(&self, layer: u32) -> bool {
        let Some(recurrent) = self.recurrent else {
            return false;
        };
        layer < self.layers
            && match recurrent.attention_layers {
                AttentionLayers::Every { period, first } => layer % period.max(1) != first,
                AttentionLayers::These(layers) => !layers.contains(&layer),
            }
    }

    /// Whether a layer's attention sees a window only.
    pub fn is_windowed(&self, layer: u32) -> bool {
        self.attention.window.is_some_and(|window| layer % window.period.max(1) + 1 < window.period)
    }

    /// Key and value heads of a layer, 0 in a recurrent one.
    pub fn kv_heads(&self, layer: u32) -> u32 {
        match self.attention.window {
            _ if self.is_recurrent(layer) => 0,
            Some(window) if self.is_windowed(layer) => window.kv_heads,
            _ => self.attention.kv_heads,
        }
    }

    /// Elements of a key per head in a layer.
    pub fn key_length(&self, layer: u32) -> u32 {
        match self.attention.window {
            Some(window) if self.is_windowed(layer) => window.key_length,
            _ => self.attention.key_length,
        }
    }

    pub(super) fn has(&self, variant: Variant) -> bool {
        self.variants.contains(&variant)
    }

    /// What the engine multiplies embeddings with.
    #[allow(clippy::cast_precision_loss)] // a row's length
    pub(super) fn embedding_scale(&self) -> f32 {
        self.float("embedding_scale").unwrap_or(match self.architecture {
            "grok" => 78.383_67,
            "gemma4" => (self.embedding as f32).sqrt(),
            _ => 1.0,
        })
    }

    /// What the engine multiplies each layer's contribution with.
    pub(super) fn residual_scale(&self) -> f32 {
        self.float("residual_scale").unwrap_or(1.0)
    }

    /// What the engine multiplies the products of queries and keys with.
    #[allow(clippy::cast_precision_loss)] // a head's length
    pub(super) fn attention_scale(&self) -> f32 {
        self.float("attention.scale").unwrap_or(match self.architecture {
            "gemma4" => 1.0,
            _ => 1.0 / (self.attention.key_length as f32).sqrt(),
        })
    }

    fn float(&self, wanted: &str) -> Option<f32> {
        self.keys.iter().find_map(|&(key, setting)| match setting {
            Setting::F(number) if key == wanted => Some(number),
            _ => None,
        })
    }

    pub(super) fn default_expert_type(&self) -> GgmlType {
        GgmlType::from_name(self.expert_type).unwrap_or(GgmlType::Q8_0)
    }
}
