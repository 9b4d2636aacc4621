//! What a device takes and the engine does not count.

use serde::{Deserialize, Serialize};

/// What a device takes beyond weights, cache and compute buffers.
///
/// ```
/// use moe_offload::Device;
/// use moe_offload::plan::Overhead;
///
/// // As far as the engine's source and measurements tell.
/// let card = Device::new("CUDA0").of_backend("CUDA").with_free_bytes(24 << 30);
/// assert_eq!(card.overhead, Overhead::CUDA);
/// // What `MoeModel::memory` told of an earlier load.
/// let measured = Device::new("Vulkan0").with_overhead(Overhead::Bytes(200 << 20));
/// assert_eq!(measured.overhead, Overhead::Bytes(200 << 20));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Overhead {
    /// So many bytes, whatever the model.
    Bytes(u64),
    /// The largest pieces that the engine's CUDA backend makes for one operation of this model and
    /// micro-batch, by [`pool_bytes`](crate::plan::pool_bytes), and so many bytes besides.
    Pool {
        /// Kernels, workspaces and graphs, which depend little on the model.
        beside_bytes: u64,
    },
}

impl Default for Overhead {
    fn default() -> Self {
        Self::NONE
    }
}

impl Overhead {
    /// Nothing.
    pub const NONE: Self = Self::Bytes(0);

    /// Of the engine's CUDA backend.
    pub const CUDA: Self = Self::Pool { beside_bytes: CUDA_BESIDE };
}

/// Beside the pool, measured on an H100: see docs/engine.md, "Memory of devices".
const CUDA_BESIDE: u64 = 176 << 20;
