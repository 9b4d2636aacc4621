//! How large a model's cache is, layer by layer, from its file's own keys.
//!
//! Attention keeps a key and a value per token and layer: all heads', one latent vector, or only
//! those of a sliding window; recurrent layers keep a state of fixed size instead. The rules are
//! those of `llama-kv-cache.cpp`, `llama-kv-cache-iswa.cpp`, `llama-memory-recurrent.cpp` and
//! `llama-hparams.cpp` in the pinned llama.cpp. An architecture that is not listed here is not
//! guessed at.

use crate::context::ContextOptions;
use crate::gguf::{GgmlType, GgufFile, Value};

/// Bytes of an element of a recurrent state, which is `f32`.
const STATE_ELEMENT_BYTES: u64 = 4;
/// The engine has room for no more; this bounds the time and memory taken.
const MAX_LAYERS: u64 = 512;
/// The engine rounds numbers of cells up to this.
const CELLS: u64 = 256;

/// What the cache of each layer holds.
///
/// ```
/// use moe_offload::ContextOptions;
/// use moe_offload::kv_cache::KvCache;
/// # let mut writer = moe_offload_synth::GgufWriter::new();
/// # writer.set("general.architecture", "llama").set("llama.block_count", 32_u32);
/// # writer.set("llama.embedding_length", 4096_u32).set("llama.attention.head_count", 32_u32);
/// # writer.set("llama.attention.head_count_kv", 8_u32);
/// # let mut file = Vec::new();
/// # writer.write(&mut file, |_, _| Ok(()))?;
/// # let mixtral = moe_offload::GgufFile::read(&file[..], file.len() as u64, "memory")?;
/// let cache = KvCache::new(&mixtral).expect("a known architecture");
/// // Keys and values of 8 heads of 128 in 16 bits: 4 KiB per token and layer.
/// let context = ContextOptions::with_context_tokens(8192);
/// assert_eq!(cache.layers()[0].bytes(&context), Some(8192 * 4096));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvCache {
    layers: Vec<LayerCache>,
}

/// What the cache of one layer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerCache {
    /// Elements of the keys of one token.
    pub key_elements: u64,
    /// Elements of the values of one token; 0 where they are a part of the keys.
    pub value_elements: u64,
    /// Tokens that a sliding window sees; `None` for all.
    pub window_tokens: Option<u64>,
    /// Elements of the two parts of a recurrent state.
    pub state_elements: [u64; 2],
}

impl LayerCache {
    /// Bytes in this context, for all its sequences; `None` if the cache's type does not divide the keys
    /// or values of a token.
    pub fn bytes(&self, context: &ContextOptions) -> Option<u64> {
        self.parts(context)?.into_iter().try_fold(0_u64, u64::checked_add)
    }

    /// The elements in a row of each of [`Self::parts`], with their type.
    pub(crate) fn part_rows(&self, context: &ContextOptions) -> [(GgmlType, u64); 4] {
        let [a, b] = self.state_elements.map(|elements| (GgmlType::F32, elements));
        [(context.kv_type, self.key_elements), (context.kv_type, self.value_elements), a, b]
    }

    /// The same by allocation: each takes what the device makes of it.
    pub(crate) fn parts(&self, context: &ContextOptions) -> Option<[u64; 4]> {
        let tokens = u64::from(context.context_tokens?);
        let all = tokens.checked_next_multiple_of(CELLS)?;
        let cells = match self.window_tokens {
            // Every cell that a batch needs beside the window.
            Some(window) => {
                let batch = context.computed_at_once().min(tokens);
                let windows = window.checked_mul(u64::from(context.sequences))?;
                all.min(windows.checked_add(batch)?).checked_next_multiple_of(CELLS)?
            }
            None => all,
        };
        let rows = |elements: u64| match elements {
            0 => Some(0),
            elements => context.kv_type.tensor_bytes(&[elements, cells]),
        };
        let state_bytes = STATE_ELEMENT_BYTES * u64::from(context.sequences);
        let [a, b] = self.state_elements.map(|n| n.checked_mul(state_bytes));
        Some([rows(self.key_elements)?, rows(self.value_elements)?, a?, b?])
    }
}

impl KvCache {
    /// What the file's keys say; `None` for an architecture whose cache is not known here, or keys
    /// that are missing or contradict each other.
    pub fn new(gguf: &GgufFile) -> Option<Self> {
        let keys = Keys { gguf };
        let architecture = gguf.architecture().ok()?;
        let kind = Kind::of(architecture)?;
        let blocks = keys.number("block_count")?;
        let layers = blocks.checked_sub(keys.number("nextn_predict_layers").unwrap_or(0))?;
        if layers > MAX_LAYERS {
            return None;
        }
        let layers =
            (0..layers).map(|layer| keys.layer(kind, layer)).collect::<Option<Vec<_>>>()?;
        Some(Self { layers })
    }

    /// Layer by layer, without those for predicting several tokens.
    pub fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// Bytes of all layers together in this context; `None` as for one layer.
    pub fn bytes(&self, context: &ContextOptions) -> Option<u64> {
        self.layers.iter().try_fold(0_u64, |sum, layer| sum.checked_add(layer.bytes(context)?))
    }
}

/// Bytes of what the engine notes about the cells of an attention cache, beside the cache: it writes
/// them all when the context is made. None for a file without attention.
#[cfg(feature = "llama")]
pub(crate) fn cell_bytes(gguf: &GgufFile, context: &ContextOptions) -> u64 {
    /// A position, a shift, two coordinates, and a bit for each of 256 sequences
    /// (`llama_kv_cells` in `llama-kv-cells.h`).
    const CELL_BYTES: u64 = 4 + 4 + 8 + 256 / 8;
    let is_attention = |name: &str| ["attn_k", "attn_qkv"].iter().any(|part| name.contains(part));
    let has_attention = gguf.tensors().iter().any(|tensor| is_attention(&tensor.name));
    let windowed = KvCache::new(gguf).is_some_and(|cache| {
        cache.layers().iter().all(|layer| layer.key_elements == 0 || layer.window_tokens.is_some())
    });
    let tokens = u64::from(context.context_tokens.unwrap_or(0));
    if has_attention && !windowed { tokens.saturating_mul(CELL_BYTES) } else { 0 }
}

/// What kinds of layers an architecture has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Attention over all tokens in every layer.
    Full,
    /// Latent attention where the file has the keys for it.
    Latent,
    /// Of so many layers the last sees everything, the others a window, unless the file says
    /// otherwise. The window is the file's, or fixed.
    Windowed { period: u64, fixed: Option<u64> },
    /// A layer without key-value heads is recurrent.
    Hybrid,
    /// Of so many layers the last has attention, the others are recurrent, unless the file says
    /// otherwise.
    Interval { period: u64 },
}

impl Kind {
    fn of(architecture: &str) -> Option<Self> {
        Some(match architecture {
            "llama" | "qwen2moe" | "qwen3moe" | "phimoe" | "dbrx" | "olmoe" | "granitemoe"
            | "grok" | "arctic" | "deepseek" | "dots1" | "grovemoe" | "glm4moe"
            | "ernie4_5-moe" | "hunyuan-moe" | "minimax-m2" | "bailingmoe2" => Self::Full,
            "deepseek2" => Self::Latent,
            "gpt-oss" => Self::Windowed { period: 2, fixed: None },
            "llama4" => Self::Windowed { period: 4, fixed: Some(8192) },
            "gemma4" => Self::Windowed { period: 6, fixed: None },
            "jamba" | "lfm2moe" => Self::Hybrid,
            "qwen3next" | "qwen35moe" => Self::Interval { period: 4 },
            _ => return None,
        })
    }
}

/// The file's hyper-parameters.
struct Keys<'a> {
    gguf: &'a GgufFile,
}

impl Keys<'_> {
    fn number(&self, key: &str) -> Option<u64> {
        self.gguf.hyper_parameter(key)?.as_u64()
    }

    /// A number for all layers, or an array with one for each.
    fn of_layer(&self, key: &str, layer: u64) -> Option<u64> {
        match self.gguf.hyper_parameter(key)? {
            Value::Array(values) => values.iter_u64().nth(usize::try_from(layer).ok()?)?,
            value => value.as_u64(),
        }
    }

    fn layer(&self, kind: Kind, layer: u64) -> Option<LayerCache> {
        if self.is_recurrent(kind, layer) {
            return self.state();
        }
        let shared = self.number("attention.shared_kv_layers").unwrap_or(0);
        let own = self.number("block_count")?.saturating_sub(shared);
        if shared > 0 && layer >= own {
            return Some(LayerCache::default());
        }
        let window_tokens = self.window(kind, layer)?;
        let heads = self.of_layer("attention.head_count", layer)?;
        let kv_heads = self.of_layer("attention.head_count_kv", layer).unwrap_or(heads);
        let plain = || self.number("embedding_length")?.checked_div(heads);
        let of_window =
            |key: &str| window_tokens.and_then(|_| self.number(&format!("attention.{key}_swa")));
        let length = |key: &str| {
            of_window(key).or_else(|| self.number(&format!("attention.{key}"))).or_else(plain)
        };
        // Latent attention keeps one vector, of which the values are a part.
        let latent = kind == Kind::Latent
            && ["attention.key_length_mla", "attention.value_length_mla"]
                .iter()
                .all(|key| self.number(key).is_some_and(|length| length > 0));
        let values = if latent { 0 } else { length("value_length")? };
        Some(LayerCache {
            key_elements: kv_heads.checked_mul(length("key_length")?)?,
            value_elements: kv_heads.checked_mul(values)?,
            window_tokens,
            state_elements: [0, 0],
        })
    }

    fn is_recurrent(&self, kind: Kind, layer: u64) -> bool {
        match kind {
            Kind::Hybrid => self.of_layer("attention.head_count_kv", layer) == Some(0),
            Kind::Interval { period } => {
                if let Some(Value::Array(flags)) =
                    self.gguf.hyper_parameter("attention.recurrent_layers")
                {
                    return usize::try_from(layer)
                        .ok()
                        .and_then(|layer| flags.iter().nth(layer))
                        .is_some_and(|flag| flag.as_bool() == Some(true));
                }
                let period = self.number("full_attention_interval").unwrap_or(period).max(1);
                layer % period != period - 1
            }
            _ => false,
        }
    }

    /// The state of a recurrent layer (`n_embd_r` and `n_embd_s`).
    fn state(&self) -> Option<LayerCache> {
        let or_zero = |key: &str| self.number(key).unwrap_or(0);
        let scan = or_zero("ssm.state_size").checked_mul(or_zero("ssm.inner_size"))?;
        let convolution = if let Some(length) = self.number("shortconv.l_cache") {
            self.number("embedding_length")?.checked_mul(length.checked_sub(1)?)?
        } else {
            let groups = or_zero("ssm.group_count").checked_mul(or_zero("ssm.state_size"))?;
            let width = or_zero("ssm.inner_size").checked_add(groups.checked_mul(2)?)?;
            or_zero("ssm.conv_kernel").saturating_sub(1).checked_mul(width)?
        };
        Some(LayerCache { state_elements: [convolution, scan], ..LayerCache::default() })
    }

    /// The tokens that the layer's window sees, `Some(None)` where it sees all.
    #[allow(clippy::option_option)] // the outer is "not known"
    fn window(&self, kind: Kind, layer: u64) -> Option<Option<u64>> {
        let Kind::Windowed { period, fixed } = kind else {
            return Some(None);
        };
        let given = self.number("attention.sliding_window");
        if fixed.is_some() && given == Some(0) {
            return Some(None);
        }
        let windowed = match self.gguf.hyper_parameter("attention.sliding_window_pattern") {
            Some(Value::Array(flags)) => {
                flags.iter().nth(usize::try_from(layer).ok()?)?.as_bool()?
            }
            pattern => match pattern.and_then(Value::as_u64).unwrap_or(period) {
                0 => true,
                period => layer % period < period - 1,
            },
        };
        Some(if windowed { Some(fixed.or(given)?) } else { None })
    }
}
