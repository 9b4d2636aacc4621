//! In which types the values are that the engine takes in one type only.
//!
//! The engine does not convert: a key that it asks for as a number of 32 bits must not be one of 16.

use std::path::Path;

use super::value::ElementType;
use crate::error::{Error, Result};

/// What every file may have, and the engine refuses in any other type (`gguf.cpp`,
/// `llama-model-loader.cpp`).
pub(super) const ALWAYS_TYPED: [(&str, ElementType); 2] =
    [("general.alignment", ElementType::U32), ("split.count", ElementType::U16)];
/// The same of files that are parts.
pub(super) const TYPED_IN_PARTS: [(&str, ElementType); 2] =
    [("split.no", ElementType::U16), ("split.tensors.count", ElementType::I32)];

/// Hyper-parameters that the engine takes as one number of 32 bits without a sign, in every architecture, by
/// their names after it (`llama_model_base::load_hparams`).
pub(crate) const NUMBERS: [&str; 7] = [
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_group_count",
    "expert_group_used_count",
    "nextn_predict_layers",
];
/// The same, or a list with one for each layer.
pub(crate) const NUMBERS_BY_LAYER: [&str; 4] =
    ["attention.head_count", "attention.head_count_kv", "expert_used_count", "feed_forward_length"];

/// The type codes of those values that the file has, without other keys.
#[derive(Clone, Debug, Default)]
pub(super) struct ScalarTypes(Vec<(Box<str>, u32)>);

impl ScalarTypes {
    /// Keeps the type if somebody may ask for it.
    pub(super) fn note(&mut self, key: &str, type_id: u32) {
        let named = ALWAYS_TYPED.iter().chain(&TYPED_IN_PARTS).any(|(name, _)| *name == key);
        let hyper_parameter = key
            .split_once('.')
            .is_some_and(|(_, name)| NUMBERS.contains(&name) || NUMBERS_BY_LAYER.contains(&name));
        if named || hyper_parameter {
            self.0.push((key.into(), type_id));
        }
    }

    /// The name of the value's type, as the format has it.
    pub(super) fn name(&self, key: &str) -> Option<&'static str> {
        self.0.iter().find(|(name, _)| **name == *key).map(|&(_, id)| type_name(id))
    }

    /// Refuses another type than the one that the engine takes.
    pub(super) fn expect(&self, path: &Path, key: &str, expected: ElementType) -> Result<()> {
        match self.name(key) {
            Some(found) if found != expected.name() => Err(Error::MetadataType {
                path: path.to_owned(),
                key: key.to_owned(),
                found,
                expected: expected.name(),
            }),
            _ => Ok(()),
        }
    }
}

fn type_name(id: u32) -> &'static str {
    ElementType::from_id(id).map_or("a list", ElementType::name)
}
