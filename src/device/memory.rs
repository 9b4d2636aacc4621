//! What the engine has allocated, device by device.

use serde::{Deserialize, Serialize};

use super::CPU;
#[cfg(feature = "llama")]
use super::Device;

/// What the engine has allocated on one device, by its own account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// The device, or [`CPU`] for all memory of the host: mapped, allocated or pinned.
    pub name: String,
    /// Bytes of weights. For mapped files the engine counts whole stretches of the file, so that
    /// the CPU's figure can be larger than the tensors in it.
    pub weights_bytes: u64,
    /// Bytes of the KV cache and other state.
    pub context_bytes: u64,
    /// Bytes of the buffers for intermediate results.
    pub compute_bytes: u64,
    /// For [`CPU`]: how its memory is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostMemory>,
    /// By how much the device's own free memory fell while the model was loaded; `None` for
    /// [`CPU`], for a dry run, and where the device does not tell: an RPC server's CPU always
    /// reports all its memory as free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_fell_bytes: Option<u64>,
    /// What the device took beyond weights, context and compute bytes, by its own account after the
    /// warm-up of the load (`MoeModelBuilder::warm_up`): kernels, workspaces, pools, and what allocations
    /// are rounded up by. `None` without a warm-up, for [`CPU`],
    /// where the device does not tell, and where another load of this process, or 128 MiB or more of another
    /// program's, changed its memory meanwhile. Another program that takes some in the second of the warm-up
    /// makes it wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overhead_bytes: Option<u64>,
}

/// How CPU memory is held: the first three together are the CPU's weights, context and compute bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostMemory {
    /// Mapped from the file: the system may drop it and read it again. The engine counts whole
    /// stretches of the file.
    pub mapped_bytes: u64,
    /// Allocated, such as repacked weights, a cache or buffers.
    pub anonymous_bytes: u64,
    /// Allocated where a device can read it directly, and never swapped.
    pub pinned_bytes: u64,
    /// Of the anonymous bytes: weights in huge pages, as the system tells after loading in a mode that
    /// asks for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub huge_bytes: u64,
    /// Of the anonymous bytes: weights that are never swapped, as the system tells.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub locked_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
pub(crate) fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl HostMemory {
    #[cfg(feature = "llama")]
    fn add(&mut self, other: Self) {
        self.mapped_bytes += other.mapped_bytes;
        self.anonymous_bytes += other.anonymous_bytes;
        self.pinned_bytes += other.pinned_bytes;
        self.huge_bytes += other.huge_bytes;
        self.locked_bytes += other.locked_bytes;
    }
}

impl DeviceMemory {
    #[cfg(feature = "llama")]
    pub(crate) fn empty(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            weights_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
            host: None,
            free_fell_bytes: None,
            overhead_bytes: None,
        }
    }

    /// Notes what the device took beyond the engine's account; `taken` is all that it took.
    #[cfg(feature = "llama")]
    pub(crate) fn note_overhead(&mut self, taken: Option<u64>) {
        self.overhead_bytes = taken.and_then(|taken| taken.checked_sub(self.total_bytes()));
    }

    /// Notes by how much the device's free memory fell, if it tells.
    #[cfg(feature = "llama")]
    pub(crate) fn note_free(&mut self, before: &[Device], after: &[Device]) {
        let free = |devices: &[Device]| {
            devices.iter().find(|device| device.name == self.name).and_then(|d| d.free_bytes)
        };
        let fell = free(before).zip(free(after)).and_then(|(a, b)| a.checked_sub(b));
        self.free_fell_bytes = fell.filter(|&bytes| bytes > 0);
    }

    /// Weights, context and compute bytes together.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes.saturating_add(self.context_bytes).saturating_add(self.compute_bytes)
    }

    /// Raises the context and compute bytes of each device to those of `other`; whether any of the
    /// compute bytes rose.
    pub(crate) fn raise(rows: &mut Vec<Self>, other: &[Self]) -> bool {
        let mut rose = false;
        for other in other.iter().filter(|other| other.name != CPU) {
            let Some(row) = rows.iter_mut().find(|row| row.name == other.name) else {
                rows.push(other.clone());
                rose = true;
                continue;
            };
            rose |= other.compute_bytes > row.compute_bytes;
            row.context_bytes = row.context_bytes.max(other.context_bytes);
            row.compute_bytes = row.compute_bytes.max(other.compute_bytes);
        }
        rose
    }

    /// Adds up rows of the same device; the CPU comes last and is always there.
    #[cfg(feature = "llama")]
    pub(crate) fn by_device(rows: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut cpu = Self::empty(CPU);
        let mut devices: Vec<Self> = Vec::new();
        for row in rows {
            let known = devices.iter().position(|device| device.name == row.name);
            let sum = match known {
                _ if row.name == CPU => &mut cpu,
                Some(i) => &mut devices[i],
                None => {
                    devices.push(row);
                    continue;
                }
            };
            sum.weights_bytes += row.weights_bytes;
            sum.context_bytes += row.context_bytes;
            sum.compute_bytes += row.compute_bytes;
            if let Some(host) = row.host {
                sum.host.get_or_insert_default().add(host);
            }
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices.push(cpu);
        devices
    }
}
