//! Identifies a model by its header.

use crate::gguf::{GgufFile, Value};

/// FNV-1a over what placement and sizes depend on. It tells files apart, it is no seal.
pub(super) fn of(gguf: &GgufFile) -> String {
    let mut hash = Fnv::new();
    for shard in gguf.shards() {
        hash.add(&shard.file_bytes.to_le_bytes());
    }
    for tensor in gguf.tensors() {
        hash.add(tensor.name.as_bytes());
        hash.add(&tensor.ggml_type.id().to_le_bytes());
        for dimension in &tensor.shape {
            hash.add(&dimension.to_le_bytes());
        }
        hash.add(&tensor.file_offset.to_le_bytes());
    }
    for (key, value) in gguf.metadata() {
        hash.add(key.as_bytes());
        match value {
            // A vocabulary is megabytes; its length tells enough beside the embedding's shape.
            Value::Array(array) => hash.add(&array.len().to_le_bytes()),
            scalar => hash.add(format!("{scalar:?}").as_bytes()),
        }
    }
    format!("{:016x}", hash.0)
}

struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds the bytes and their number, so that fields cannot run into each other.
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
