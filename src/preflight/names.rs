//! How many different names the tensors have.

use std::collections::HashSet;

use super::Checked;
use crate::error::ModelFault;
use crate::gguf::GgufFile;

/// An architecture has fewer than a hundred. The engine is given patterns made of names, and its
/// regular expressions recurse once for each.
const MAX_NAMES: usize = 1024;

pub(super) fn check(gguf: &GgufFile) -> Checked {
    let names: HashSet<&str> =
        gguf.tensors().iter().map(|tensor| without_layer(&tensor.name)).collect();
    if names.len() > MAX_NAMES {
        return Err(ModelFault::TooManyNames { count: names.len(), max: MAX_NAMES });
    }
    Ok(())
}

fn without_layer(name: &str) -> &str {
    let rest = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    match rest {
        Some((layer, rest)) if layer.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => name,
    }
}
