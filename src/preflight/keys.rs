//! A file's hyper-parameters as the engine reads them.

use std::collections::HashMap;

use super::Checked;
use crate::error::{ModelFault, Result};
use crate::gguf::{GgufFile, TensorInfo, Value};

/// Layers that the engine has room for (`LLAMA_MAX_LAYERS` in `llama-hparams.h`).
pub(super) const MAX_LAYERS: u64 = 512;

pub(super) struct Keys<'a> {
    pub(super) gguf: &'a GgufFile,
    pub(super) architecture: &'a str,
    /// No more than the engine takes.
    pub(super) layers: u64,
    names: HashMap<&'a str, &'a TensorInfo>,
}

/// As the engine keeps it: 32 bits without a sign.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // so does the engine
fn engine_u32(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(n) => Some(u64::from(*n as u32)),
        Value::Signed(n) => Some(u64::from(*n as u32)),
        Value::Bool(flag) => Some(u64::from(*flag)),
        _ => None,
    }
}

impl<'a> Keys<'a> {
    pub(super) fn new(gguf: &'a GgufFile) -> Result<Self> {
        let architecture = gguf.architecture()?;
        let layers = gguf.hyper_parameter("block_count").and_then(Value::as_u64).unwrap_or(0);
        let names = gguf.tensors().iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        Ok(Self { gguf, architecture, layers: layers.min(MAX_LAYERS), names })
    }

    /// The key's full name.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A number for all layers.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        self.gguf.hyper_parameter(key).and_then(engine_u32)
    }

    /// The numbers of all layers, or the one for all.
    pub(super) fn numbers(&self, key: &str) -> Vec<u64> {
        match self.gguf.hyper_parameter(key) {
            Some(Value::Array(values)) => {
                values.iter().take(1024).map(|value| engine_u32(&value).unwrap_or(0)).collect()
            }
            value => value.and_then(engine_u32).into_iter().collect(),
        }
    }

    /// The number of one layer, from an array or for all.
    pub(super) fn of_layer(&self, key: &str, layer: u64) -> Option<u64> {
        match self.gguf.hyper_parameter(key)? {
            Value::Array(values) => engine_u32(&values.iter().nth(usize::try_from(layer).ok()?)?),
            value => engine_u32(value),
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorInfo> {
        self.names.get(name).copied()
    }

    pub(super) fn layer_has(&self, layer: u64, tensor: &str) -> bool {
        self.names.contains_key(format!("blk.{layer}.{tensor}").as_str())
    }

    /// The longest side of any tensor whose name has one of the words in it, or of any layer's.
    pub(super) fn widest(&self, words: &[&str]) -> u64 {
        let among = |has: &dyn Fn(&str) -> bool| {
            let tensors = self.gguf.tensors().iter().filter(|tensor| has(&tensor.name));
            tensors.flat_map(|tensor| tensor.shape.iter().copied()).max()
        };
        among(&|name| words.iter().any(|word| name.contains(word)))
            .or_else(|| among(&|name| name.starts_with("blk.")))
            .unwrap_or(u64::MAX) // nothing that the engine would load
    }

    /// A size that must not be more than any tensor has.
    pub(super) fn at_most(&self, key: &str, value: u64, limit: u64) -> Checked {
        if value <= limit {
            return Ok(());
        }
        Err(ModelFault::TooLarge { key: self.name(key), value, limit })
    }

    pub(super) fn positive(&self, key: &str) -> Checked {
        match self.number(key) {
            Some(0) | None => Err(ModelFault::Zero { key: self.name(key) }),
            Some(_) => Ok(()),
        }
    }
}
