//! Devices as plain values: what a plan needs to know of the hardware, and what was measured of it.

mod memory;
mod overhead;
pub(crate) mod system_memory;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::memory::is_zero;
pub use self::memory::{DeviceMemory, HostMemory};
pub use self::overhead::Overhead;
pub use self::system_memory::allocatable_bytes;

/// The name under which CPU memory appears among the devices of a plan.
pub const CPU: &str = "cpu";

/// The name under which tensors appear that the engine leaves in the file: layers for predicting
/// several tokens at once.
pub const NOT_LOADED: &str = "not-loaded";

/// The name under which experts appear that stay in the file and are read when a router chooses them.
pub const DISK: &str = "disk";

/// A device that can hold layers, such as a GPU or a server reached over RPC.
///
/// The CPU is never listed: it is always there and takes what no device takes.
///
/// ```
/// use moe_offload::Device;
/// let card = Device::new("RTX-4070").with_free_bytes(12 << 30);
/// assert_eq!(card.free_bytes, Some(12 << 30));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Device {
    /// The name to use in policies, for example `CUDA0`. No two devices have the same.
    pub name: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What kind of device it is.
    #[serde(default)]
    pub kind: DeviceKind,
    /// The engine's backend that drives it, such as `CUDA` or `RPC`; empty for a device that is
    /// only planned for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// Memory free for use, in bytes, where known.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// All its memory in bytes, where known.
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// Every tensor on it takes a whole number of so many bytes, where known.
    #[serde(default)]
    pub alignment_bytes: Option<u64>,
    /// The last row of every quantised tensor on it takes a whole number of so many elements; `None`
    /// where a row takes what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row_padding_elements: Option<u64>,
    /// What it takes beyond weights, cache and compute buffers.
    #[serde(default)]
    pub overhead: Overhead,
    /// It computes large batches of what is in CPU memory, which is copied to it for that, if it is not
    /// [remote](DeviceKind::Remote); see `MoeModelBuilder::operation_offload`.
    #[serde(default = "yes")]
    pub operation_offload: bool,
}

/// What kind of device can hold layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeviceKind {
    /// A graphics card with memory of its own; also a device that is only planned for.
    #[default]
    Gpu,
    /// A graphics unit that shares the CPU's memory.
    IntegratedGpu,
    /// Another processor beside the CPU.
    Accelerator,
    /// A device of an RPC server, whatever that is; its description is the server's address.
    Remote,
}

fn yes() -> bool {
    true
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Gpu => "GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::Accelerator => "accelerator",
            Self::Remote => "remote",
        })
    }
}

impl Device {
    /// A device of which only the name is known.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            kind: DeviceKind::default(),
            backend: String::new(),
            free_bytes: None,
            total_bytes: None,
            alignment_bytes: None,
            row_padding_elements: None,
            overhead: Overhead::NONE,
            operation_offload: true,
        }
    }

    /// The same device with what is known of a backend of the engine, by the name that the engine
    /// has for it; a device that the engine itself lists has all this already.
    ///
    /// | backend | alignment | quantised rows | overhead |
    /// | --- | ---: | ---: | --- |
    /// | `CUDA` | 128 bytes | 512 elements | [`Overhead::CUDA`], measured |
    /// | `ROCm`, `MUSA` | 128 bytes | 512 elements | the same, as they are the same source; not measured |
    /// | `CANN` | 128 bytes | 512 elements | none known |
    /// | `SYCL` | not known here | 512 elements | none known |
    /// | any other | not known here | as they are | none known |
    ///
    /// The figures are those of `get_alignment` and `get_alloc_size` in `ggml-cuda.cu`,
    /// `ggml-cann.cpp` and `ggml-sycl.cpp` of the pinned engine.
    ///
    /// ```
    /// use moe_offload::Device;
    /// let card = Device::new("CUDA0").of_backend("CUDA");
    /// assert_eq!((card.alignment_bytes, card.row_padding_elements), (Some(128), Some(512)));
    /// ```
    #[must_use]
    pub fn of_backend(self, backend: &str) -> Self {
        let of_cuda = matches!(backend, "CUDA" | "ROCm" | "MUSA");
        let pads = of_cuda || matches!(backend, "CANN" | "SYCL");
        let is_aligned = pads && backend != "SYCL";
        Self {
            backend: backend.to_owned(),
            alignment_bytes: if is_aligned { Some(128) } else { self.alignment_bytes },
            row_padding_elements: if pads { Some(512) } else { self.row_padding_elements },
            overhead: if of_cuda { Overhead::CUDA } else { self.overhead },
            ..self
        }
    }

    /// The same device with another overhead, such as one that was measured
    /// ([`DeviceMemory::overhead_bytes`](crate::DeviceMemory::overhead_bytes)), or none.
    #[must_use]
    pub fn with_overhead(self, overhead: Overhead) -> Self {
        Self { overhead, ..self }
    }

    /// The same device with so much free memory.
    #[must_use]
    pub fn with_free_bytes(self, free_bytes: u64) -> Self {
        Self { free_bytes: Some(free_bytes), ..self }
    }

    /// The CPU with so much free memory, and perhaps a limit on what this process takes of it.
    #[cfg(feature = "llama")]
    pub(crate) fn cpu(free_bytes: Option<u64>, budget: Option<u64>) -> Self {
        let free_bytes = free_bytes.into_iter().chain(budget).min();
        Self { free_bytes, total_bytes: budget, ..Self::new(CPU) }
    }

    /// Whether it computes what is in CPU memory. A server would be sent the weights over the network.
    pub(crate) fn takes_operations(&self) -> bool {
        self.operation_offload && self.kind != DeviceKind::Remote
    }

    /// The address of the RPC server whose device it is.
    pub(crate) fn server(&self) -> Option<&str> {
        let is_known = self.kind == DeviceKind::Remote && !self.description.is_empty();
        is_known.then_some(self.description.as_str())
    }
}
