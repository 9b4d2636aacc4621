//! Any bytes as a model file: read, checked, classified and planned, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moe_offload::{ContextOptions, GgufFile, OffloadPolicy, preflight};

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = GgufFile::read(bytes, bytes.len() as u64, "fuzz.gguf") else {
        return;
    };
    for tensor in gguf.tensors() {
        assert!(tensor.file_offset + tensor.bytes <= bytes.len() as u64);
    }
    for value in gguf.metadata().values() {
        value.as_array().into_iter().flat_map(|array| array.iter()).for_each(drop);
    }
    let _ = preflight::check(&gguf);
    let _ = OffloadPolicy::AllExperts.plan(&gguf, &[], &ContextOptions::default());
});
