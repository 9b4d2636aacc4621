//! What a plan puts on one device.

use serde::{Deserialize, Serialize};

use crate::memory::HostMemory;

/// What a plan puts on one device. The last device of a plan is always [`CPU`](super::CPU).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DevicePlan {
    /// Its name; [`CPU`](super::CPU) for CPU memory.
    pub name: String,
    /// For a device of an RPC server: the server's address. A stored plan finds the device by it,
    /// whatever number the device has in the process that loads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Bytes of the weights on it, copies included.
    pub weights_bytes: u64,
    /// Bytes that the weights take besides, because the device aligns every tensor; 0 where its
    /// alignment is not known, and for CPU memory.
    pub padding_bytes: u64,
    /// Bytes of the experts among them.
    pub expert_bytes: u64,
    /// Bytes of the KV cache and recurrent state of its layers; `None` where the architecture's
    /// cache is not known (see [`kv_cache`](crate::kv_cache)) and only the engine can tell.
    pub context_bytes: Option<u64>,
    /// Where `context_bytes` comes from.
    #[serde(default)]
    pub context_from: Source,
    /// Bytes of the buffers for intermediate results; `None` until a dry run of the engine has
    /// measured them.
    pub compute_bytes: Option<u64>,
    /// Where `compute_bytes` comes from; [`Source::Reserve`] for `reserved_bytes` in its stead.
    #[serde(default)]
    pub compute_from: Source,
    /// Bytes that `fit` holds back for compute buffers, by a cautious formula, as long as no dry
    /// run has measured them.
    pub reserved_bytes: u64,
    /// All of these together; what is not known counts nothing.
    pub total_bytes: u64,
    /// How many layers are computed on it, but for what is overridden.
    pub layers: u32,
    /// Memory free for use before loading, where known.
    pub free_bytes: Option<u64>,
    /// For [`CPU`](super::CPU): how its memory is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostMemory>,
}

/// Where a figure of a plan comes from. Weights are always the file's own, exact to the byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Source {
    /// Not known without the engine.
    #[default]
    Unknown,
    /// Computed from the file's keys; agrees with the engine to the byte.
    Formula,
    /// A cautious formula that holds memory back.
    Reserve,
    /// The engine went through loading without allocating; exact, but for compute bytes with several
    /// devices, which can be a little off.
    DryRun,
}

impl DevicePlan {
    pub(super) fn empty(name: &str, layers: u32, free_bytes: Option<u64>) -> Self {
        Self {
            name: name.to_owned(),
            server: None,
            weights_bytes: 0,
            padding_bytes: 0,
            expert_bytes: 0,
            context_bytes: None,
            context_from: Source::Unknown,
            compute_bytes: None,
            compute_from: Source::Unknown,
            reserved_bytes: 0,
            total_bytes: 0,
            layers,
            free_bytes,
            host: None,
        }
    }

    /// Free memory that is left over; `None` where the free memory is not known.
    pub fn left_over_bytes(&self) -> Option<u64> {
        self.free_bytes.map(|free| free.saturating_sub(self.total_bytes))
    }

    pub(super) fn settle(&mut self) {
        let context = self.context_bytes.unwrap_or(0);
        let compute = self.compute_bytes.unwrap_or(self.reserved_bytes);
        self.total_bytes = [self.padding_bytes, context, compute]
            .into_iter()
            .fold(self.weights_bytes, u64::saturating_add);
    }
}
