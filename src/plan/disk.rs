//! The third place: experts that stay in the file and are read when a router chooses them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::default_place::{Resolved, is_pageable};
use super::{CPU, DISK, DevicePlan, Plan};
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};

/// Bytes of a token embedding on disk that are kept. Texts use few different tokens, and a row is a page
/// or two.
pub(crate) const ROWS_BYTES: u64 = 16 << 20;
/// The unit of memory, and of direct reads.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// A smaller token embedding is not worth the trouble.
const EMBEDDING_BYTES: u64 = 2 * ROWS_BYTES;

/// What a plan leaves on disk, and how much of it is held in CPU memory at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DiskPlan {
    /// Bytes of the experts on disk.
    pub weights_bytes: u64,
    /// Bytes of the token embedding if it is on disk, of which a token reads one row.
    #[serde(default)]
    pub embedding_bytes: u64,
    /// Bytes of them in CPU memory, chosen by use; `None` if that is decided when the model is loaded,
    /// by the memory that is free then.
    pub cache_bytes: Option<u64>,
    /// Bytes of them that one token uses.
    pub token_bytes: u64,
}

impl DiskPlan {
    /// The share of these experts' bytes that can be in memory at once, which is how many would be found
    /// there if a router chose evenly and at random. Real routers do better.
    #[allow(clippy::cast_precision_loss)] // shares of bytes
    pub fn even_hit_rate(&self) -> Option<f64> {
        let share = |cache: u64| cache as f64 / self.weights_bytes.max(1) as f64;
        self.cache_bytes.map(|cache| share(cache).min(1.0))
    }

    /// All of them: with the pages that two experts share they are a little more than the weights.
    pub(crate) fn most_cache_bytes(&self) -> u64 {
        self.weights_bytes.saturating_add(self.weights_bytes / 64)
    }

    /// What is kept of a token embedding on disk.
    fn rows_bytes(&self) -> u64 {
        self.embedding_bytes.min(ROWS_BYTES)
    }

    /// Without a `ram:` the cache is what was set by hand, in this plan or for a load of it.
    #[cfg(feature = "llama")]
    pub(crate) fn cache_by_hand(&self, wanted: Option<u64>) -> Option<u64> {
        // Where that is all, the pages are a little more than the plan counts.
        let is_all = self.cache_bytes == Some(self.most_cache_bytes());
        wanted.filter(|_| is_all).or(self.cache_bytes)
    }

    /// Most tokens per second that a disk allows, if it reads so many bytes per second and this share of
    /// the needed bytes is in memory: `disk / (token_bytes · (1 − hit_rate))`. Infinite if nothing is read.
    ///
    /// ```
    /// # use moe_offload_synth::{self as synth, SynthOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.gguf");
    /// # let options = SynthOptions::default().layers(2);
    /// # synth::family("gpt-oss-20b")?.build(&options)?.save_without_weights(&path, 1)?;
    /// use moe_offload::{GgufFile, OffloadPolicy};
    ///
    /// let gguf = GgufFile::open(&path)?;
    /// let policy: OffloadPolicy = "all-experts=disk".parse()?;
    /// let plan = policy.plan(&gguf, &[], &Default::default())?;
    /// let disk = plan.disk().expect("the policy says so");
    /// // 4 experts of 3 matrices in each of 2 layers.
    /// assert_eq!(disk.token_bytes, 2 * 4 * 3 * 2880 * 2880 / 32 * 17);
    /// let half = disk.tokens_per_second_at_most(2e9, 0.5);
    /// assert!((half - 2e9 / (disk.token_bytes as f64 / 2.0)).abs() < 1e-9);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[allow(clippy::cast_precision_loss)] // a rate
    pub fn tokens_per_second_at_most(&self, disk_bytes_per_second: f64, hit_rate: f64) -> f64 {
        disk_bytes_per_second / (self.token_bytes as f64 * (1.0 - hit_rate))
    }
}

impl Plan {
    /// Moves the experts that `fit` left to the CPU, and the token embedding, to disk, if they and the rest do not fit `ram_bytes`,
    /// and notes how much is on disk.
    pub(super) fn settle_disk(
        &mut self,
        experts: &ExpertMap,
        resolved: &[Resolved],
        ram_bytes: Option<u64>,
    ) -> Result<()> {
        let held = |plan: &Self| plan.device(CPU).map_or(0, DevicePlan::besides_disk_cache);
        if ram_bytes.is_some_and(|ram| held(self) > ram) {
            for (placed, resolved) in std::iter::zip(&mut self.tensors, resolved) {
                let tensor = &placed.tensor;
                let goes = match tensor.kind {
                    TensorKind::Input => !resolved.by_rule && tensor.bytes >= EMBEDDING_BYTES,
                    _ => resolved.by_fit,
                };
                if goes && placed.device == CPU && is_pageable(tensor, experts) {
                    DISK.clone_into(&mut placed.device);
                    if let Some(cpu) = self.devices.iter_mut().find(|device| device.name == CPU) {
                        cpu.forget(tensor);
                    }
                }
            }
        }
        let on_disk = self.tensors.iter().filter(|placed| placed.device == DISK);
        let (mut weights_bytes, mut embedding_bytes) = (0, 0);
        for placed in on_disk {
            let is_expert = placed.tensor.kind.is_expert();
            *if is_expert { &mut weights_bytes } else { &mut embedding_bytes } +=
                placed.tensor.bytes;
        }
        if weights_bytes + embedding_bytes == 0 {
            return match ram_bytes.filter(|&ram| held(self) > ram) {
                None => Ok(()),
                Some(ram) => Err(too_little(held(self), ram)),
            };
        }
        if let Some(cpu) = self.devices.iter_mut().find(|device| device.name == CPU) {
            cpu.read_instead_of_mapped();
        }
        let (active, all) =
            (self.model.active_experts.unwrap_or(1), experts.experts().unwrap_or(1));
        let token_bytes = weights_bytes / all.max(1) * active.min(all);
        self.disk =
            Some(DiskPlan { weights_bytes, embedding_bytes, cache_bytes: None, token_bytes });
        self.size_cache(ram_bytes)
    }

    /// Leaves to experts on disk what the rest leaves of `ram_bytes`.
    pub(crate) fn size_cache(&mut self, ram_bytes: Option<u64>) -> Result<()> {
        let held = self.device(CPU).map_or(0, DevicePlan::besides_disk_cache);
        let least = self.least_cache_bytes();
        if let (Some(disk), Some(ram)) = (&mut self.disk, ram_bytes) {
            let held = held.saturating_add(disk.rows_bytes());
            let needed = held.saturating_add(least);
            if needed > ram {
                return Err(too_little(needed, ram));
            }
            disk.cache_bytes = Some((ram - held).min(disk.most_cache_bytes()));
        }
        self.count_cache();
        Ok(())
    }

    /// Counts what is on disk among the memory that the CPU needs.
    fn count_cache(&mut self) {
        let Some(disk) = &self.disk else { return };
        let cache = disk.cache_bytes.map(|bytes| bytes.saturating_add(disk.rows_bytes()));
        if let Some(cpu) = self.devices.iter_mut().find(|device| device.name == CPU) {
            cpu.disk_cache_bytes = cache;
            cpu.recompute_total();
        }
    }

    /// The same with so many bytes of CPU memory for the experts on disk, as
    /// `PagingOptions::cache_bytes` gives them, and no more than a policy's `ram:` leaves.
    /// Without experts on disk nothing changes.
    ///
    /// # Errors
    /// [`Error::PagingBudget`] if they hold less than a token uses of a layer at once. What else must be there, a page
    /// between any two experts, is exact only in a load.
    ///
    /// ```
    /// # use moe_offload_synth::{self as synth, SynthOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.gguf");
    /// # let options = SynthOptions::default().layers(2);
    /// # synth::family("gpt-oss-20b")?.build(&options)?.save_without_weights(&path, 1)?;
    /// use moe_offload::{GgufFile, OffloadPolicy};
    ///
    /// let gguf = GgufFile::open(&path)?;
    /// let policy: OffloadPolicy = "all-experts=disk".parse()?;
    /// let plan = policy.plan(&gguf, &[], &Default::default())?.with_expert_cache(200 << 20)?;
    /// let hit_rate = plan.disk().and_then(|disk| disk.even_hit_rate());
    /// assert!(hit_rate.is_some_and(|rate| 0.2 < rate && rate < 0.3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_expert_cache(mut self, bytes: u64) -> Result<Self> {
        let (used, ends) = self.layer_use();
        if let Some(disk) = &mut self.disk {
            // How many ends there really are only a load knows.
            if bytes < used {
                let needed_bytes = used.saturating_add(ends);
                return Err(Error::PagingBudget { budget_bytes: bytes, needed_bytes });
            }
            let most = disk.cache_bytes.unwrap_or_else(|| disk.most_cache_bytes());
            disk.cache_bytes = Some(bytes.min(most));
        }
        self.count_cache();
        Ok(self)
    }

    /// What must be in memory at least, or a little more.
    pub(crate) fn least_cache_bytes(&self) -> u64 {
        let (used, ends) = self.layer_use();
        used.saturating_add(ends)
    }

    /// What a token uses of the layer where that is most, and the pages at the ends of a tensor's experts, which stay.
    fn layer_use(&self) -> (u64, u64) {
        let all = self.model.experts.unwrap_or(1).max(1);
        let active = self.model.active_experts.unwrap_or(1).min(all);
        let (mut layers, mut ends) = (BTreeMap::new(), 0_u64);
        for placed in self.tensors.iter().filter(|placed| placed.device == DISK) {
            if let Some(layer) = placed.tensor.layer {
                let sum = layers.entry(layer).or_insert(0_u64);
                *sum = sum.saturating_add(placed.tensor.bytes);
                ends = ends.saturating_add(all).saturating_add(1);
            }
        }
        let most = layers.into_values().max().unwrap_or(0);
        (most / all * active, ends.saturating_mul(PAGE_BYTES))
    }
}

fn too_little(needed_bytes: u64, free_bytes: u64) -> Error {
    let (device, policy) = (CPU.to_owned(), String::new());
    Error::DoesNotFit { device, needed_bytes, free_bytes, compute_bytes: 0, policy }
}

impl DevicePlan {
    fn forget(&mut self, tensor: &ClassifiedTensor) {
        let bytes = tensor.bytes;
        self.weights_bytes -= bytes;
        self.expert_bytes -= if tensor.kind.is_expert() { bytes } else { 0 };
        if let Some(host) = &mut self.host {
            let mut left = bytes;
            for held in [&mut host.mapped_bytes, &mut host.anonymous_bytes, &mut host.pinned_bytes]
            {
                let here = left.min(*held);
                *held -= here;
                left -= here;
            }
        }
        self.recompute_total();
    }

    /// What a file that is not mapped, such as one of which experts are paged, means for memory.
    pub(super) fn read_instead_of_mapped(&mut self) {
        if let Some(host) = &mut self.host {
            host.anonymous_bytes += std::mem::take(&mut host.mapped_bytes);
        }
        self.recompute_total();
    }
}
