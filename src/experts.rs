//! Which tensors of a model are experts, of which layer and kind, and how large they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gguf::{GgmlType, GgufFile, TensorInfo, Value};

/// Layers of a model. The pinned engine runs at most 512.
pub const MAX_LAYERS: u32 = 65_535;

/// What a tensor is for, as far as placement is concerned.
///
/// Only the `Expert…` kinds are experts: weights of which the router picks a few per token.
/// Shared experts are used for every token and so are not among them, as in llama.cpp's own
/// `--cpu-moe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TensorKind {
    /// Gate projection of all experts of a layer (`ffn_gate_exps`).
    ExpertGate,
    /// Up projection of all experts of a layer (`ffn_up_exps`).
    ExpertUp,
    /// Down projection of all experts of a layer (`ffn_down_exps`).
    ExpertDown,
    /// Gate and up projection in one tensor (`ffn_gate_up_exps`).
    ExpertGateUp,
    /// Bias or scale of any of them (`ffn_…_exps.bias`).
    ExpertBias,
    /// An expert that every token uses (`ffn_…_shexp`).
    SharedExpert,
    /// The router (`ffn_gate_inp…`, `exp_probs_b`).
    Router,
    /// Anything else inside a layer: attention, norms, dense feed-forward. A few such tensors carry
    /// no layer number; the engine keeps them with the first layer.
    Dense,
    /// Rotary factors that the engine copies to every device that has layers.
    EveryLayer,
    /// Belongs to a layer for predicting several tokens (MTP), which the engine does not load.
    NextToken,
    /// Used before the first layer, such as the token embedding; the engine keeps it in CPU memory.
    Input,
    /// Used after the last layer.
    Output,
}

impl TensorKind {
    /// Whether the tensor belongs to the experts.
    pub fn is_expert(self) -> bool {
        matches!(
            self,
            Self::ExpertGate
                | Self::ExpertUp
                | Self::ExpertDown
                | Self::ExpertGateUp
                | Self::ExpertBias
        )
    }
}

impl fmt::Display for TensorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ExpertGate => "expert-gate",
            Self::ExpertUp => "expert-up",
            Self::ExpertDown => "expert-down",
            Self::ExpertGateUp => "expert-gate-up",
            Self::ExpertBias => "expert-bias",
            Self::SharedExpert => "shared-expert",
            Self::Router => "router",
            Self::Dense => "dense",
            Self::EveryLayer => "every-layer",
            Self::NextToken => "next-token",
            Self::Input => "input",
            Self::Output => "output",
        })
    }
}

/// A tensor with its layer and kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ClassifiedTensor {
    /// The tensor's name.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its layer, `None` outside the layers.
    pub layer: Option<u32>,
    /// What it is for.
    pub kind: TensorKind,
}

/// The tensors of a model by layer and kind, with the hyper-parameters that placement needs.
///
/// ```
/// # use moe_offload::gguf::{GgmlType, GgufFile};
/// # use moe_offload_synth::GgufWriter;
/// # let mut writer = GgufWriter::new();
/// # writer.set("general.architecture", "llama").set("llama.block_count", 1_u32);
/// # writer.set("llama.expert_count", 8_u32).set("llama.expert_used_count", 2_u32);
/// # writer.tensor("blk.0.ffn_up_exps.weight", &[32, 32, 8], GgmlType::F32);
/// # let mut file = Vec::new();
/// # writer.write(&mut file, |tensor, out| out.write_all(&vec![0; tensor.bytes as usize]))?;
/// # let gguf = GgufFile::read(&file[..], file.len() as u64, "memory")?;
/// use moe_offload::ExpertMap;
///
/// let experts = ExpertMap::new(&gguf)?;
/// assert_eq!(experts.expert_layers().len(), 1);
/// assert_eq!(experts.expert_bytes(), 32 * 32 * 8 * 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertMap {
    architecture: String,
    layers: u32,
    experts: Option<u64>,
    active_experts: Option<u64>,
    tensors: Vec<ClassifiedTensor>,
    /// Of each tensor its type and the elements of a row.
    rows: Vec<(GgmlType, u64)>,
    expert_bytes_by_layer: BTreeMap<u32, u64>,
}

impl ExpertMap {
    /// Classifies every tensor of the file.
    ///
    /// # Errors
    /// [`Error::MissingMetadata`] without architecture or a layer count up to [`MAX_LAYERS`], [`Error::LayerOutOfRange`]
    /// for a tensor of a layer that the metadata does not count, [`Error::LegacyExperts`] for a
    /// file with one tensor per expert.
    pub fn new(gguf: &GgufFile) -> Result<Self> {
        let architecture = gguf.architecture()?.to_owned();
        let key = format!("{architecture}.block_count");
        let layers = number(gguf, "block_count")
            .and_then(|n| u32::try_from(n).ok())
            .filter(|&n| n <= MAX_LAYERS)
            .ok_or_else(|| gguf.missing(&key))?;
        let first_next_token = u64::from(layers).saturating_sub(next_token_layers(gguf));
        let mut tensors = Vec::with_capacity(gguf.tensors().len());
        let row =
            |tensor: &TensorInfo| (tensor.ggml_type, tensor.shape.first().copied().unwrap_or(1));
        let rows = gguf.tensors().iter().map(row).collect();
        let mut expert_bytes_by_layer = BTreeMap::new();
        for tensor in gguf.tensors() {
            let (layer, mut kind) = classify(gguf, tensor, &architecture)?;
            if layer.is_some_and(|layer| u64::from(layer) >= first_next_token) {
                kind = TensorKind::NextToken;
            }
            if let Some(layer) = layer.filter(|&layer| layer >= layers) {
                return Err(Error::LayerOutOfRange {
                    path: gguf.path().to_owned(),
                    tensor: tensor.name.clone(),
                    layer,
                    key,
                    layers,
                });
            }
            if let Some(layer) = layer.filter(|_| kind.is_expert()) {
                *expert_bytes_by_layer.entry(layer).or_insert(0) += tensor.bytes;
            }
            let (name, bytes) = (tensor.name.clone(), tensor.bytes);
            tensors.push(ClassifiedTensor { name, bytes, layer, kind });
        }
        Ok(Self {
            layers,
            experts: number(gguf, "expert_count"),
            active_experts: number(gguf, "expert_used_count"),
            architecture,
            tensors,
            rows,
            expert_bytes_by_layer,
        })
    }

    /// Of each tensor, in file order, its type and the elements of a row.
    pub(crate) fn rows(&self) -> &[(GgmlType, u64)] {
        &self.rows
    }

    /// The model's architecture, for example `gpt-oss`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Number of layers (blocks), with experts or without.
    pub fn layers(&self) -> u32 {
        self.layers
    }

    /// Experts per layer, where the file says it.
    pub fn experts(&self) -> Option<u64> {
        self.experts
    }

    /// Experts that the router picks per token, where the file says it.
    pub fn active_experts(&self) -> Option<u64> {
        self.active_experts
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[ClassifiedTensor] {
        &self.tensors
    }

    /// The layers that have experts, ascending. Empty for a dense model.
    pub fn expert_layers(&self) -> BTreeSet<u32> {
        self.expert_bytes_by_layer.keys().copied().collect()
    }

    /// Bytes of the experts of one layer, 0 if it has none.
    pub fn expert_bytes_of(&self, layer: u32) -> u64 {
        self.expert_bytes_by_layer.get(&layer).copied().unwrap_or(0)
    }

    /// Bytes of all experts.
    pub fn expert_bytes(&self) -> u64 {
        self.expert_bytes_by_layer.values().sum()
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Whether the model has experts at all.
    pub fn is_moe(&self) -> bool {
        !self.expert_bytes_by_layer.is_empty()
    }
}

/// Layers at the end that predict further tokens: the engine counts them among the layers, and does
/// not load them.
pub(crate) fn next_token_layers(gguf: &GgufFile) -> u64 {
    let count = number(gguf, "nextn_predict_layers").unwrap_or(0);
    // Here the engine looks first whether they are in the file, and if not takes all for ordinary ones.
    if count > 0 && gguf.architecture().is_ok_and(|name| name == "deepseek4") {
        let first = number(gguf, "block_count").unwrap_or(0).saturating_sub(count);
        let name = format!("blk.{first}.nextn.eh_proj.weight");
        if !gguf.tensors().iter().any(|tensor| tensor.name == name) {
            return 0;
        }
    }
    count
}

/// A hyper-parameter that is one number, or, for files with one value per layer, its maximum.
fn number(gguf: &GgufFile, key: &str) -> Option<u64> {
    match gguf.hyper_parameter(key)? {
        Value::Array(values) => values.iter_u64().flatten().max(),
        value => value.as_u64(),
    }
}

fn classify(
    gguf: &GgufFile,
    tensor: &TensorInfo,
    architecture: &str,
) -> Result<(Option<u32>, TensorKind)> {
    let Some((layer, rest)) = split_layer(&tensor.name) else {
        return Ok((None, outside_layers(&tensor.name, architecture)));
    };
    let base = rest.split('.').next().unwrap_or(rest);
    let kind = match base {
        "ffn_gate_inp" | "ffn_gate_inp_shexp" | "exp_probs_b" => TensorKind::Router,
        "ffn_gate" | "ffn_up" | "ffn_down" if has_expert_number(rest) => {
            return Err(Error::LegacyExperts {
                path: gguf.path().to_owned(),
                tensor: tensor.name.clone(),
            });
        }
        _ if base.ends_with("_shexp") => TensorKind::SharedExpert,
        _ => expert_kind(base, rest).unwrap_or(TensorKind::Dense),
    };
    Ok((Some(layer), kind))
}

/// `blk.7.attn_q.weight` is `attn_q.weight` of layer 7.
fn split_layer(name: &str) -> Option<(u32, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer = layer.bytes().all(|b| b.is_ascii_digit()).then(|| layer.parse().ok())??;
    Some((layer, rest))
}

/// The names that llama.cpp's own `\.ffn_(up|down|gate|gate_up)_(ch|)exps` finds.
fn expert_kind(base: &str, rest: &str) -> Option<TensorKind> {
    let projection = base.strip_prefix("ffn_")?.strip_suffix("exps")?;
    let projection = projection.strip_suffix("ch").unwrap_or(projection).strip_suffix('_')?;
    let weight = match projection {
        "gate" => TensorKind::ExpertGate,
        "up" => TensorKind::ExpertUp,
        "down" => TensorKind::ExpertDown,
        "gate_up" => TensorKind::ExpertGateUp,
        _ => return None,
    };
    Some(if rest.ends_with(".weight") { weight } else { TensorKind::ExpertBias })
}

/// `ffn_up.3.weight` is expert 3 of a legacy file, `ffn_up.weight` a dense layer.
fn has_expert_number(rest: &str) -> bool {
    rest.split('.').nth(1).is_some_and(|part| part.bytes().all(|b| b.is_ascii_digit()))
}

/// The layer class that llama.cpp gives to tensors without a layer number (`llama-arch.cpp`).
fn outside_layers(name: &str, architecture: &str) -> TensorKind {
    match name.split('.').next().unwrap_or(name) {
        // These call their last norm so.
        "token_embd_norm" if architecture.starts_with("lfm2") => TensorKind::Output,
        "token_embd" | "position_embd" | "token_types" | "per_layer_token_embd" => {
            TensorKind::Input
        }
        "rope_freqs" | "rope_factors_long" | "rope_factors_short" => TensorKind::EveryLayer,
        "token_embd_norm" | "per_layer_model_proj" | "per_layer_proj_norm" => TensorKind::Dense,
        _ => TensorKind::Output,
    }
}
