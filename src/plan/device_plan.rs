//! What a plan puts on one device.

use serde::{Deserialize, Serialize};

use super::CPU;
use crate::device::{HostMemory, is_zero};

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
    /// Bytes that the device is expected to take beyond all of these, for kernels, workspaces and pools
    /// ([`Overhead`](super::Overhead)); 0 where nothing is known to, and for CPU memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub overhead_bytes: u64,
    /// For [`CPU`](super::CPU): bytes of it that experts on disk, and rows of an embedding on disk,
    /// may take; `None` where that is decided when the model is loaded.
    #[serde(default = "nothing_on_disk")]
    pub disk_cache_bytes: Option<u64>,
    /// All of these together; what is not known counts nothing.
    pub total_bytes: u64,
    /// Something that is used here is not known, so that `total_bytes` is the least that it can be.
    #[serde(default)]
    pub total_is_at_least: bool,
    /// How many layers are computed on it, but for what is overridden.
    pub layers: u32,
    /// Memory free for use before loading, where known.
    pub free_bytes: Option<u64>,
    /// Bytes that must be in its memory beyond those that are free: then the plan does not fit.
    #[serde(default)]
    pub short_by_bytes: u64,
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
            overhead_bytes: 0,
            disk_cache_bytes: nothing_on_disk(),
            total_bytes: 0,
            total_is_at_least: false,
            layers,
            free_bytes,
            short_by_bytes: 0,
            host: None,
        }
    }

    /// Bytes that must be in its memory at once: all but what is mapped from the file, which the
    /// system may drop and read again.
    pub fn resident_bytes(&self) -> u64 {
        let allocated = |host: HostMemory| host.anonymous_bytes.saturating_add(host.pinned_bytes);
        let cache = self.disk_cache_bytes.unwrap_or(0);
        self.host.map_or(self.total_bytes, |host| allocated(host).saturating_add(cache))
    }

    /// Bytes of its buffers for intermediate results: those measured, or what is held back for them.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.compute_bytes.unwrap_or(self.reserved_bytes)
    }

    /// Bytes that a load takes of its memory, but for experts on disk, which take what there is.
    #[cfg(feature = "llama")]
    pub(crate) fn load_bytes(&self) -> u64 {
        self.resident_bytes().saturating_sub(self.disk_cache_bytes.unwrap_or(0))
    }

    /// Free memory that is left over: none where [`short_by_bytes`](Self::short_by_bytes) are missing,
    /// `None` where the free memory is not known.
    pub fn left_over_bytes(&self) -> Option<u64> {
        self.free_bytes.map(|free| free.saturating_sub(self.resident_bytes()))
    }

    /// All but what experts on disk may take.
    pub(crate) fn besides_disk_cache(&self) -> u64 {
        self.total_bytes.saturating_sub(self.disk_cache_bytes.unwrap_or(0))
    }

    /// Whether anything is on it, or computed there.
    pub(crate) fn is_used(&self) -> bool {
        self.layers > 0 || self.weights_bytes > 0
    }

    /// Whether compute buffers are counted, be it by a reserve.
    pub(super) fn knows_compute(&self) -> bool {
        self.compute_bytes.is_some() || self.compute_from == Source::Reserve
    }

    /// The parts of the total; `None` if no number holds their sum.
    fn sum(&self) -> Option<u64> {
        let compute = self.compute_bytes.unwrap_or(self.reserved_bytes);
        let known = [self.context_bytes.unwrap_or(0), self.disk_cache_bytes.unwrap_or(0)];
        let others = known.into_iter().chain([compute, self.overhead_bytes]);
        let weights = self.weights_bytes.checked_add(self.padding_bytes);
        others.fold(weights, |sum, bytes| sum?.checked_add(bytes))
    }

    /// Whether the figures of a plan from outside agree.
    pub(super) fn adds_up(&self) -> bool {
        let host = self.host.unwrap_or_default();
        let held = [host.mapped_bytes, host.anonymous_bytes, host.pinned_bytes];
        let held = held.into_iter().try_fold(self.disk_cache_bytes.unwrap_or(0), u64::checked_add);
        self.sum() == Some(self.total_bytes)
            && held.is_some()
            && self.expert_bytes <= self.weights_bytes
    }

    /// Computes what follows from the other figures.
    pub(super) fn recompute_total(&mut self) {
        self.total_bytes = self.sum().unwrap_or(u64::MAX);
        let is_used = self.name == CPU || self.is_used();
        let is_known = self.context_bytes.is_some() && self.disk_cache_bytes.is_some();
        self.total_is_at_least = is_used && !(is_known && self.knows_compute());
        let free = self.free_bytes.unwrap_or(u64::MAX);
        self.short_by_bytes = self.resident_bytes().saturating_sub(free);
    }
}

#[allow(clippy::unnecessary_wraps)] // as serde calls it
fn nothing_on_disk() -> Option<u64> {
    Some(0)
}
