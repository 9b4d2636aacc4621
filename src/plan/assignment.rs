//! The devices with the layers dealt out, on which every tensor gets its place.

use std::collections::{BTreeMap, BTreeSet};

use super::default_place::{DefaultPlace, Resolved, is_tied_embedding, own_layer};
use super::fit::{self, Candidate};
use super::kv_cache::{KvCache, LayerCache};
use super::padding::Stored;
use super::{
    CPU, ContextOptions, DISK, Device, DevicePlan, NOT_LOADED, Placement, Source, TensorCopy,
};
use crate::device::HostMemory;
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};
use crate::policy::FitLimit;

/// Where the engine puts a tensor that nothing overrides; `None` is the CPU.
pub(super) fn own_device(
    tensor: &ClassifiedTensor,
    layer_devices: &[Option<usize>],
) -> Option<usize> {
    let layer = own_layer(tensor, layer_devices.len().checked_sub(1)?)?;
    layer_devices.get(layer).copied().flatten()
}

#[derive(Clone, Copy)]
pub(super) enum Place {
    Cpu,
    Disk,
    /// A device's index.
    Device(usize),
    NotLoaded,
}

/// The devices with the layers dealt out to them.
pub(super) struct Assignment<'a> {
    pub(super) devices: &'a [Device],
    pub(super) resolved: &'a [Resolved],
    /// For each layer and then the output a device's index, or `None` for the CPU; empty without
    /// devices.
    pub(super) layer_devices: Vec<Option<usize>>,
}

impl Assignment<'_> {
    pub(super) fn name(&self, at: Place) -> &str {
        match at {
            Place::Cpu => CPU,
            Place::Device(i) => self.devices.get(i).map_or(CPU, |device| &device.name),
            Place::Disk => DISK,
            Place::NotLoaded => NOT_LOADED,
        }
    }

    /// Every tensor in its default place; what `fit` decides over is on the devices.
    pub(super) fn place_all(&self) -> Vec<Place> {
        let place = |resolved: &Resolved| match resolved.default_place {
            DefaultPlace::Cpu => Place::Cpu,
            DefaultPlace::Disk => Place::Disk,
            DefaultPlace::NotLoaded => Place::NotLoaded,
            DefaultPlace::Device(device) => Place::Device(device),
            DefaultPlace::WithLayer(layer) => {
                self.layer_devices.get(layer).copied().flatten().map_or(Place::Cpu, Place::Device)
            }
        };
        self.resolved.iter().map(place).collect()
    }

    /// Moves the candidates that do not fit to the CPU. `full` says what each device holds with
    /// all of them.
    pub(super) fn fit(
        &self,
        experts: &ExpertMap,
        places: &mut [Place],
        full: &[DevicePlan],
        limit: FitLimit,
    ) -> Result<()> {
        for (i, device) in self.devices.iter().enumerate() {
            let limit = device.limit_bytes(limit)?;
            let candidates = self.candidates(i, device, experts, places);
            let movable: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
            let fixed = full[i].total_bytes.saturating_sub(movable);
            let room = limit.checked_sub(fixed).ok_or_else(|| Error::DoesNotFit {
                device: device.name.clone(),
                needed_bytes: fixed,
                free_bytes: limit,
                compute_bytes: full[i].buffer_bytes(),
                policy: String::new(),
            })?;
            let taken: BTreeSet<usize> = fit::choose(&candidates, room).into_iter().collect();
            for &tensor in candidates.iter().flat_map(|candidate| &candidate.tensors) {
                if !taken.contains(&tensor) {
                    places[tensor] = Place::Cpu;
                }
            }
        }
        Ok(())
    }

    /// What `fit` decides over on one device.
    pub(super) fn candidates(
        &self,
        index: usize,
        device: &Device,
        experts: &ExpertMap,
        places: &[Place],
    ) -> Vec<Candidate> {
        let is_here = |i: usize| {
            self.resolved[i].is_candidate && matches!(places[i], Place::Device(at) if at == index)
        };
        let mut by_stem: BTreeMap<&str, Candidate> = BTreeMap::new();
        for (i, tensor) in experts.tensors().iter().enumerate().filter(|&(i, _)| is_here(i)) {
            let layer = tensor.layer.unwrap_or(0);
            let candidate = by_stem.entry(stem(&tensor.name)).or_insert(Candidate {
                tensors: Vec::new(),
                layer,
                bytes: 0,
            });
            candidate.tensors.push(i);
            candidate.bytes += device.padded(stored(experts, i));
        }
        let mut candidates: Vec<Candidate> = by_stem.into_values().collect();
        candidates.sort_by(|a, b| a.tensors.cmp(&b.tensors));
        candidates
    }

    /// The engine copies an embedding that serves as output too, and rotary factors to each device
    /// that has layers; a tensor that a rule places stays one.
    pub(super) fn copies(&self, experts: &ExpertMap) -> Vec<TensorCopy> {
        let Some((output, layers)) = self.layer_devices.split_last() else { return Vec::new() };
        let is_tied = |tensor: &ClassifiedTensor| is_tied_embedding(experts, tensor);
        let with_layers: BTreeSet<usize> = layers.iter().copied().flatten().collect();
        let first = layers.first().copied().flatten();
        let mut copies = Vec::new();
        for (tensor, _) in std::iter::zip(experts.tensors(), self.resolved)
            .filter(|(_, resolved)| !resolved.by_rule)
        {
            let targets: Vec<usize> = match tensor.kind {
                TensorKind::EveryLayer => {
                    with_layers.iter().copied().filter(|&at| Some(at) != first).collect()
                }
                TensorKind::Input if is_tied(tensor) => output.iter().copied().collect(),
                _ => Vec::new(),
            };
            copies.extend(targets.into_iter().map(|device| TensorCopy {
                name: tensor.name.clone(),
                bytes: tensor.bytes,
                device: self.name(Place::Device(device)).to_owned(),
            }));
        }
        copies
    }

    pub(super) fn device_plans(
        &self,
        experts: &ExpertMap,
        tensors: &[Placement],
        copies: &[TensorCopy],
        context: &ContextOptions,
        cache: Option<&KvCache>,
    ) -> Vec<DevicePlan> {
        let repeating = &self.layer_devices[..self.layer_devices.len().saturating_sub(1)];
        let mut plans: Vec<DevicePlan> = self
            .devices
            .iter()
            .enumerate()
            .map(|(i, device)| {
                let layers = repeating.iter().filter(|&&at| at == Some(i)).count();
                let server = device.server().map(str::to_owned);
                let plan = DevicePlan::empty(&device.name, count(layers), device.free_bytes);
                DevicePlan { server, ..plan }
            })
            .collect();
        let dealt: u32 = plans.iter().map(|plan| plan.layers).sum();
        plans.push(DevicePlan::empty(CPU, experts.layers() - dealt, None));
        for (i, plan) in plans.iter_mut().enumerate() {
            let device = self.devices.get(i);
            plan.context_bytes = match cache {
                _ if device.is_some() && context.cache_on_host => Some(0),
                cache => cache.and_then(|cache| self.cache_bytes(device, i, context, cache)),
            };
            plan.context_from = match plan.context_bytes {
                Some(_) => Source::Formula,
                None => Source::Unknown,
            };
            let padded =
                |tensor: Stored| device.map_or(tensor.bytes, |device| device.padded(tensor));
            let mut add = |tensor: Stored, is_expert: bool| {
                plan.weights_bytes += tensor.bytes;
                plan.padding_bytes += padded(tensor) - tensor.bytes;
                plan.expert_bytes += if is_expert { tensor.bytes } else { 0 };
            };
            let here = |placement: &Placement| placement.device == plan.name;
            for (i, placement) in tensors.iter().enumerate().filter(|(_, placed)| here(placed)) {
                add(stored(experts, i), placement.tensor.kind.is_expert());
            }
            for copy in copies.iter().filter(|copy| copy.device == plan.name) {
                let is_copied = |tensor: &ClassifiedTensor| tensor.name == copy.name;
                if let Some(i) = experts.tensors().iter().position(is_copied) {
                    add(stored(experts, i), false);
                }
            }
            // As the engine does if it is left to it; copies in another layout it does not tell.
            plan.host = device.is_none().then(|| HostMemory {
                mapped_bytes: plan.weights_bytes,
                anonymous_bytes: plan.context_bytes.unwrap_or(0),
                ..HostMemory::default()
            });
        }
        plans
    }

    /// The cache of the layers on `device`, or on the CPU, which comes after all devices.
    fn cache_bytes(
        &self,
        device: Option<&Device>,
        index: usize,
        context: &ContextOptions,
        cache: &KvCache,
    ) -> Option<u64> {
        let at = |layer: usize| match self.layer_devices.get(layer) {
            Some(Some(device)) if !context.cache_on_host => *device,
            _ => self.devices.len(),
        };
        let mut here = cache.layers().iter().enumerate().filter(|&(layer, _)| at(layer) == index);
        here.try_fold(0_u64, |sum, (_, layer)| {
            sum.checked_add(layer_cache(device, layer, context)?)
        })
    }
}

/// What a tensor of weights and its biases and scales have in common.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// Bytes of one layer's cache on a device, padding included; `None` is the CPU.
pub(super) fn layer_cache(
    device: Option<&Device>,
    layer: &LayerCache,
    context: &ContextOptions,
) -> Option<u64> {
    let padded = |(bytes, (ggml_type, row_elements))| {
        let part = Stored { bytes, ggml_type, row_elements };
        device.map_or(bytes, |device| device.padded(part))
    };
    let parts = std::iter::zip(layer.parts(context)?, layer.part_rows(context));
    parts.map(padded).try_fold(0_u64, u64::checked_add)
}

/// The tensor of this index, as far as a device pads it.
pub(super) fn stored(experts: &ExpertMap, index: usize) -> Stored {
    let (ggml_type, row_elements) = experts.rows()[index];
    Stored { bytes: experts.tensors()[index].bytes, ggml_type, row_elements }
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
