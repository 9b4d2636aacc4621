//! The devices with the layers dealt out, on which every tensor gets its place.

use std::collections::BTreeSet;

use super::context::ContextOptions;
use super::device::{self, Device};
use super::fit::{self, Candidate};
use super::rules::{Destination, Rule};
use super::{CPU, DevicePlan, NOT_LOADED, Placement, RuleMatch, TensorCopy};
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};
use crate::kv_cache::KvCache;
use crate::policy::FitLimit;

/// Where the engine puts a tensor that nothing overrides; `None` is the CPU.
pub(super) fn own_device(tensor: &ClassifiedTensor, layer_devices: &[usize]) -> Option<usize> {
    match (tensor.kind, tensor.layer) {
        (TensorKind::Input, _) => None,
        (TensorKind::Output, _) => layer_devices.last().copied(),
        (_, Some(layer)) => layer_devices.get(layer as usize).copied(),
        (_, None) => layer_devices.first().copied(),
    }
}

/// A place for one tensor while a plan is made.
pub(super) struct Place {
    pub(super) at: At,
    by_rule: bool,
    /// The rule was `fit`, which may still move it to the CPU.
    is_candidate: bool,
}

#[derive(Clone, Copy)]
pub(super) enum At {
    Cpu,
    /// A device's index.
    Device(usize),
    NotLoaded,
}

impl From<Option<usize>> for At {
    fn from(device: Option<usize>) -> Self {
        device.map_or(Self::Cpu, Self::Device)
    }
}

/// The devices with the layers dealt out to them.
pub(super) struct Board<'a> {
    devices: &'a [Device],
    /// For each layer and then the output a device's index; empty without devices.
    pub(super) layer_devices: Vec<usize>,
}

impl<'a> Board<'a> {
    pub(super) fn new(experts: &ExpertMap, devices: &'a [Device]) -> Self {
        let layers = experts.layers() as usize + 1;
        let layer_devices =
            if devices.is_empty() { Vec::new() } else { device::assign_layers(layers, devices) };
        Self { devices, layer_devices }
    }

    pub(super) fn name(&self, at: At) -> &str {
        match at {
            At::Cpu => CPU,
            At::Device(i) => self.devices.get(i).map_or(CPU, |device| &device.name),
            At::NotLoaded => NOT_LOADED,
        }
    }

    pub(super) fn place_all(
        &self,
        experts: &ExpertMap,
        rules: &[Rule],
    ) -> Result<(Vec<Place>, Vec<RuleMatch>)> {
        let mut reports: Vec<RuleMatch> = rules
            .iter()
            .map(|rule| RuleMatch { text: rule.text.clone(), matched_tensors: 0, matched_bytes: 0 })
            .collect();
        let mut found = vec![false; rules.len()];
        let mut places = Vec::with_capacity(experts.tensors().len());
        for tensor in experts.tensors() {
            if tensor.kind == TensorKind::NextToken {
                places.push(Place { at: At::NotLoaded, by_rule: false, is_candidate: false });
                continue;
            }
            let mut decided = None;
            for (i, rule) in rules.iter().enumerate() {
                if (decided.is_none() || !found[i]) && rule.matches(tensor) {
                    found[i] = true;
                    decided = decided.or(Some(i));
                }
            }
            let own = own_device(tensor, &self.layer_devices);
            let device = decided.map_or(own, |i| match rules[i].destination {
                Destination::Cpu => None,
                Destination::OwnDevice => own.or(self.layer_devices.first().copied()),
                Destination::Device(device) => Some(device),
            });
            if let Some(i) = decided {
                reports[i].matched_tensors += 1;
                reports[i].matched_bytes += tensor.bytes;
            }
            let is_candidate = decided.is_some_and(|i| rules[i].is_fit());
            places.push(Place { at: device.into(), by_rule: decided.is_some(), is_candidate });
        }
        match found.iter().position(|&found| !found) {
            Some(i) => Err(rules[i].no_match(experts)),
            None => Ok((places, reports)),
        }
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
            let unknown = || Error::UnknownFreeMemory { device: device.name.clone() };
            let limit = limit.bytes(device.free_bytes).ok_or_else(unknown)?;
            let candidates: Vec<Candidate> = std::iter::zip(experts.tensors(), places.iter())
                .enumerate()
                .filter(|(_, (_, place))| {
                    place.is_candidate && matches!(place.at, At::Device(at) if at == i)
                })
                .map(|(index, (tensor, _))| Candidate {
                    tensor: index,
                    layer: tensor.layer.unwrap_or(0),
                    bytes: tensor.bytes + padding(tensor.bytes, device.alignment_bytes),
                    is_small: tensor.kind == TensorKind::ExpertBias,
                })
                .collect();
            let movable: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
            let fixed = full[i].total_bytes.saturating_sub(movable);
            let room = limit.checked_sub(fixed).ok_or_else(|| Error::DoesNotFit {
                device: device.name.clone(),
                needed_bytes: fixed,
                free_bytes: limit,
            })?;
            let taken: BTreeSet<usize> = fit::choose(&candidates, room).into_iter().collect();
            for candidate in candidates.iter().filter(|c| !taken.contains(&c.tensor)) {
                places[candidate.tensor].at = At::Cpu;
            }
        }
        Ok(())
    }

    /// The engine copies an embedding that serves as output too, and rotary factors to each device
    /// that has layers; a tensor that a rule places stays one.
    pub(super) fn copies(&self, experts: &ExpertMap, placed: &[Place]) -> Vec<TensorCopy> {
        let has_output = experts.tensors().iter().any(|tensor| tensor.name == "output.weight");
        let with_layers: BTreeSet<usize> =
            self.layer_devices.iter().rev().skip(1).copied().collect();
        let mut copies = Vec::new();
        for (tensor, place) in std::iter::zip(experts.tensors(), placed) {
            if place.by_rule || self.devices.is_empty() {
                continue;
            }
            let targets: Vec<usize> = match tensor.kind {
                TensorKind::EveryLayer => with_layers.iter().copied().skip(1).collect(),
                TensorKind::Input if tensor.name == "token_embd.weight" && !has_output => {
                    self.layer_devices.last().copied().into_iter().collect()
                }
                _ => Vec::new(),
            };
            copies.extend(targets.into_iter().map(|device| TensorCopy {
                name: tensor.name.clone(),
                bytes: tensor.bytes,
                device: self.name(At::Device(device)).to_owned(),
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
                let layers = repeating.iter().filter(|&&at| at == i).count();
                DevicePlan::empty(&device.name, count(layers), device.free_bytes)
            })
            .collect();
        plans.push(DevicePlan::empty(CPU, experts.layers() - count(repeating.len()), None));
        for (i, plan) in plans.iter_mut().enumerate() {
            let alignment = self.devices.get(i).and_then(|device| device.alignment_bytes);
            plan.context_bytes =
                cache.and_then(|cache| self.cache_bytes(i, alignment, context, cache));
            let mut add = |bytes: u64, is_expert: bool| {
                plan.weights_bytes += bytes;
                plan.padding_bytes += padding(bytes, alignment);
                plan.expert_bytes += if is_expert { bytes } else { 0 };
            };
            for placement in tensors.iter().filter(|placement| placement.device == plan.name) {
                add(placement.tensor.bytes, placement.tensor.kind.is_expert());
            }
            for copy in copies.iter().filter(|copy| copy.device == plan.name) {
                add(copy.bytes, false);
            }
        }
        plans
    }
}

impl Board<'_> {
    /// The cache of the layers on device `index`; without devices the CPU has index 0.
    fn cache_bytes(
        &self,
        index: usize,
        alignment: Option<u64>,
        context: &ContextOptions,
        cache: &KvCache,
    ) -> Option<u64> {
        let mut here = cache.layers().iter().enumerate().filter(|&(layer, _)| {
            self.layer_devices.get(layer).copied().unwrap_or(self.devices.len()) == index
        });
        here.try_fold(0_u64, |sum, (_, layer)| {
            let padded = layer.parts(context)?.map(|bytes| bytes + padding(bytes, alignment));
            padded.into_iter().try_fold(sum, u64::checked_add)
        })
    }
}

/// What a tensor takes beyond its own bytes.
fn padding(bytes: u64, alignment: Option<u64>) -> u64 {
    let alignment = alignment.unwrap_or(1).max(1);
    bytes.checked_next_multiple_of(alignment).map_or(0, |padded| padded - bytes)
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
