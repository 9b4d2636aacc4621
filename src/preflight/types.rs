//! Element types that the engine computes with.

use super::Checked;
use crate::error::ModelFault;
use crate::gguf::{GgmlType, GgufFile, TensorInfo};

/// Ids of types that only occur inside computations: integers, doubles, and the two 8-bit types
/// that activations are quantised to.
const NOT_WEIGHTS: [u32; 7] = [9, 15, 24, 25, 26, 27, 28];
/// Tables of numbers, which are read as such.
const TABLES: [&str; 2] = ["d2t", "ffn_gate_tid2eid"];
/// Used element by element, in 32 bits only.
const EXACT: [&str; 10] = [
    ".bias",
    "norm.weight",
    ".ssm_a",
    ".ssm_d",
    ".ssm_conv1d.weight",
    ".shortconv.conv.weight",
    "rope_freqs.weight",
    ".scale",
    "attn_sinks.weight",
    "exp_probs_b",
];
/// Matrices that may have a single row: classifiers, and the gate of a shared expert.
const SINGLE_ROW: [&str; 2] = ["cls", "ffn_gate_inp_shexp"];

pub(super) fn check(gguf: &GgufFile) -> Checked {
    gguf.tensors().iter().try_for_each(check_one)
}

fn check_one(tensor: &TensorInfo) -> Checked {
    if TABLES.iter().any(|table| tensor.name.contains(table)) {
        return Ok(());
    }
    let fault = |expected| {
        let (tensor, ggml_type) = (tensor.name.clone(), tensor.ggml_type);
        Err(ModelFault::TensorType { tensor, ggml_type, expected })
    };
    let is_row = tensor.shape.iter().skip(1).all(|&n| n == 1);
    let is_matrix =
        tensor.shape.len() > 1 && SINGLE_ROW.iter().any(|word| tensor.name.contains(word));
    let is_exact = (is_row && !is_matrix) || EXACT.iter().any(|end| tensor.name.ends_with(end));
    if is_exact && tensor.ggml_type != GgmlType::F32 {
        return fault("f32");
    }
    if NOT_WEIGHTS.contains(&tensor.ggml_type.id()) {
        return fault("a type for weights");
    }
    Ok(())
}
