//! What tensors take on a device that pads them, and how much of a device `fit` may use.

use super::Device;
use crate::error::{Error, Result};
use crate::gguf::GgmlType;
use crate::policy::FitLimit;

/// A tensor's bytes, with what a device may make of its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) bytes: u64,
    pub(super) ggml_type: GgmlType,
    pub(super) row_elements: u64,
}

impl Device {
    /// What a tensor takes on it, as `ggml_backend_buft_get_alloc_size_n` sums it up: its bytes, the rest
    /// of its last row, and what the alignment leaves free.
    pub(super) fn padded(&self, tensor: Stored) -> u64 {
        let alignment = self.alignment_bytes.unwrap_or(1).max(1);
        let bytes = tensor.bytes.saturating_add(self.rest_of_row(tensor));
        bytes.checked_next_multiple_of(alignment).unwrap_or(bytes)
    }

    fn rest_of_row(&self, Stored { ggml_type, row_elements, .. }: Stored) -> u64 {
        let Some(padding) = self.row_padding_elements.filter(|&n| n > 0) else { return 0 };
        let beyond = row_elements % padding;
        if !ggml_type.is_quantised() || beyond == 0 {
            return 0;
        }
        (padding - beyond)
            .div_ceil(ggml_type.block_elements())
            .saturating_mul(ggml_type.block_bytes())
    }

    /// The bytes that `fit` may use of it.
    pub(super) fn limit_bytes(&self, limit: FitLimit) -> Result<u64> {
        let unknown = || Error::UnknownFreeMemory { device: self.name.clone() };
        limit.bytes(self.free_bytes).ok_or_else(unknown)
    }
}
