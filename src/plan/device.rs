//! Devices as plain values: what a plan needs to know of the hardware.

use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(feature = "llama")]
use super::CPU;
use crate::error::{Error, Result};
use crate::policy::FitLimit;

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
            operation_offload: true,
        }
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

    /// What a tensor of so many bytes takes on it.
    pub(super) fn padded(&self, bytes: u64) -> u64 {
        let alignment = self.alignment_bytes.unwrap_or(1).max(1);
        bytes.checked_next_multiple_of(alignment).unwrap_or(bytes)
    }

    /// The bytes that `fit` may use of it.
    pub(super) fn limit_bytes(&self, limit: FitLimit) -> Result<u64> {
        let unknown = || Error::UnknownFreeMemory { device: self.name.clone() };
        limit.bytes(self.free_bytes).ok_or_else(unknown)
    }
}
