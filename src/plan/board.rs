//! The devices with the layers dealt out, on which every tensor gets its place.

use std::collections::BTreeSet;

use super::device::{self, Device};
use super::rules::{Destination, Rule};
use super::{CPU, DevicePlan, Placement, RuleMatch, TensorCopy};
use crate::error::Result;
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};

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
    /// A device's index; `None` is the CPU.
    pub(super) device: Option<usize>,
    by_rule: bool,
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

    pub(super) fn name(&self, device: Option<usize>) -> &str {
        device.and_then(|i| self.devices.get(i)).map_or(CPU, |device| &device.name)
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
            places.push(Place { device, by_rule: decided.is_some() });
        }
        match found.iter().position(|&found| !found) {
            Some(i) => Err(rules[i].no_match(experts)),
            None => Ok((places, reports)),
        }
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
                device: self.name(Some(device)).to_owned(),
            }));
        }
        copies
    }

    pub(super) fn device_plans(
        &self,
        experts: &ExpertMap,
        tensors: &[Placement],
        copies: &[TensorCopy],
    ) -> Vec<DevicePlan> {
        let repeating = &self.layer_devices[..self.layer_devices.len().saturating_sub(1)];
        let mut plans: Vec<DevicePlan> = self
            .devices
            .iter()
            .enumerate()
            .map(|(i, device)| DevicePlan {
                name: device.name.clone(),
                weights_bytes: 0,
                expert_bytes: 0,
                layers: count(repeating.iter().filter(|&&d| d == i).count()),
                free_bytes: device.free_bytes,
            })
            .collect();
        plans.push(DevicePlan {
            name: CPU.to_owned(),
            weights_bytes: 0,
            expert_bytes: 0,
            layers: experts.layers() - count(repeating.len()),
            free_bytes: None,
        });
        for plan in &mut plans {
            let here = tensors.iter().filter(|placement| placement.device == plan.name);
            for placement in here {
                plan.weights_bytes += placement.tensor.bytes;
                if placement.tensor.kind.is_expert() {
                    plan.expert_bytes += placement.tensor.bytes;
                }
            }
            let doubled = copies.iter().filter(|copy| copy.device == plan.name);
            plan.weights_bytes += doubled.map(|copy| copy.bytes).sum::<u64>();
        }
        plans
    }
}

pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
