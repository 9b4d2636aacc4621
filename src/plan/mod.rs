//! A [`Plan`]: where every tensor of a model goes, before anything is loaded.
//!
//! A plan is made from a policy, a file's header, devices and a context, all of them plain values:
//! no engine, no hardware, no tensor data. It can be printed, compared and serialised.

mod bytes;
mod context;
mod device;
mod fingerprint;
mod patterns;
mod rules;
mod table;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

#[cfg(feature = "llama")]
pub(crate) use self::bytes::human_bytes;
pub use self::bytes::parse_bytes;
pub use self::context::ContextOptions;
pub use self::device::Device;
use self::rules::{Destination, Rule};
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};
use crate::gguf::GgufFile;
use crate::policy::{OffloadPolicy, Target};

/// The name under which CPU memory appears among the devices of a plan.
pub const CPU: &str = "cpu";

/// Where every tensor of a model goes. Made by [`OffloadPolicy::plan`].
///
/// Printed, it is a table for people; serialised, it is data for tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    policy: OffloadPolicy,
    model: ModelSummary,
    context: ContextOptions,
    devices: Vec<DevicePlan>,
    rules: Vec<RuleMatch>,
    tensors: Vec<Placement>,
    copies: Vec<TensorCopy>,
    /// For each layer and then the output, which of `devices`.
    layer_devices: Vec<usize>,
}

/// What a plan says of its model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelSummary {
    /// The architecture, for example `gpt-oss`.
    pub architecture: String,
    /// Layers, with experts or without.
    pub layers: u32,
    /// Layers that have experts.
    pub expert_layers: u32,
    /// Experts per layer, where the file says it.
    pub experts: Option<u64>,
    /// Experts that are used for a token, where the file says it.
    pub active_experts: Option<u64>,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Bytes of all experts.
    pub expert_bytes: u64,
    /// Identifies the file's header: tensors, their types, shapes and places, and the metadata.
    pub fingerprint: String,
}

/// What a plan puts on one device. The last device of a plan is always [`CPU`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DevicePlan {
    /// Its name; [`CPU`] for CPU memory.
    pub name: String,
    /// Bytes of the weights on it, copies included.
    pub weights_bytes: u64,
    /// Bytes of the experts among them.
    pub expert_bytes: u64,
    /// How many layers are computed on it, but for what is overridden.
    pub layers: u32,
    /// Memory free for use before loading, where known.
    pub free_bytes: Option<u64>,
}

/// Where one tensor goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Placement {
    /// The tensor, its size, layer and kind.
    #[serde(flatten)]
    pub tensor: ClassifiedTensor,
    /// The device, or [`CPU`].
    pub device: String,
}

/// A second copy that the engine makes of a tensor: an embedding that is used as output as well,
/// or rotary factors on every device that has layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TensorCopy {
    /// The tensor that is copied.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The device that gets the copy.
    pub device: String,
}

/// What one rule of the policy did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleMatch {
    /// The rule as text.
    pub text: String,
    /// How many tensors it placed; those that an earlier rule matched are not counted.
    pub matched_tensors: u64,
    /// Their bytes.
    pub matched_bytes: u64,
}

/// One entry of the override array that the engine is given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Override {
    /// An anchored pattern over exact tensor names.
    pub pattern: String,
    /// The device, or [`CPU`].
    pub device: String,
}

impl OffloadPolicy {
    /// What this policy does to a model on these devices. Pure: reads nothing, loads nothing.
    ///
    /// With no devices everything is on the CPU, whatever the policy.
    ///
    /// # Errors
    /// [`Error::NoExperts`], [`Error::NoMatch`], [`Error::TooManyLayers`],
    /// [`Error::NotAnExpertLayer`] or [`Error::UnknownDevice`] for a rule that does not fit the
    /// file or the devices, [`Error::DuplicateDevice`], [`Error::InvalidOption`] for an impossible
    /// context, and what [`ExpertMap::new`] returns.
    pub fn plan(
        &self,
        gguf: &GgufFile,
        devices: &[Device],
        context: &ContextOptions,
    ) -> Result<Plan> {
        check_devices(devices)?;
        let context = context.resolve(gguf)?;
        let experts = ExpertMap::new(gguf)?;
        let rules = rules::compile(self, gguf, &experts, devices)?;
        let board = Board::new(&experts, devices);
        let (placed, reports) = board.place_all(&experts, &rules)?;
        let copies = board.copies(&experts, &placed);
        let tensors: Vec<Placement> = std::iter::zip(experts.tensors(), &placed)
            .map(|(tensor, place)| Placement {
                tensor: tensor.clone(),
                device: board.name(place.device).to_owned(),
            })
            .collect();
        Ok(Plan {
            policy: self.clone(),
            model: summary(gguf, &experts),
            context,
            devices: board.device_plans(&experts, &tensors, &copies),
            rules: reports,
            tensors,
            copies,
            layer_devices: board.layer_devices,
        })
    }
}

impl Plan {
    /// The policy that the plan was made from.
    pub fn policy(&self) -> &OffloadPolicy {
        &self.policy
    }

    /// The model that the plan was made for.
    pub fn model(&self) -> &ModelSummary {
        &self.model
    }

    /// The context, every choice made.
    pub fn context(&self) -> &ContextOptions {
        &self.context
    }

    /// Tokens that the context holds.
    pub fn context_tokens(&self) -> u32 {
        self.context.context_tokens.unwrap_or(0)
    }

    /// Every device and what it gets, [`CPU`] last.
    pub fn devices(&self) -> &[DevicePlan] {
        &self.devices
    }

    /// What the device of this name gets.
    pub fn device(&self, name: &str) -> Option<&DevicePlan> {
        self.devices.iter().find(|device| device.name == name)
    }

    /// What each rule of the policy matched.
    pub fn rules(&self) -> &[RuleMatch] {
        &self.rules
    }

    /// Where every tensor of the file goes, in file order.
    pub fn tensors(&self) -> &[Placement] {
        &self.tensors
    }

    /// Copies that the engine makes besides.
    pub fn copies(&self) -> &[TensorCopy] {
        &self.copies
    }

    /// The entries of the engine's override array: none where the engine's own choice is the plan's.
    pub fn overrides(&self) -> Vec<Override> {
        patterns::overrides(
            self.tensors
                .iter()
                .filter(|placement| placement.device != self.own_device(&placement.tensor))
                .map(|placement| (&placement.tensor, placement.device.as_str())),
        )
    }

    /// Whether the plan was made for this file.
    pub fn is_for(&self, gguf: &GgufFile) -> bool {
        self.model.fingerprint == fingerprint::of(gguf)
    }

    /// How many layers each device gets, the output counted as one, without the CPU.
    #[cfg(feature = "llama")]
    pub(crate) fn layer_split(&self) -> Vec<u32> {
        let devices = self.devices.len().saturating_sub(1);
        let mut split = vec![0; devices];
        for &device in &self.layer_devices {
            if let Some(count) = split.get_mut(device) {
                *count += 1;
            }
        }
        split
    }

    fn own_device(&self, tensor: &ClassifiedTensor) -> &str {
        own_device(tensor, &self.layer_devices)
            .and_then(|device| self.devices.get(device))
            .map_or(CPU, |device| &device.name)
    }
}

/// Where the engine puts a tensor that nothing overrides; `None` is the CPU.
fn own_device(tensor: &ClassifiedTensor, layer_devices: &[usize]) -> Option<usize> {
    match (tensor.kind, tensor.layer) {
        (TensorKind::Input, _) => None,
        (TensorKind::Output, _) => layer_devices.last().copied(),
        (_, Some(layer)) => layer_devices.get(layer as usize).copied(),
        (_, None) => layer_devices.first().copied(),
    }
}

/// A place for one tensor while a plan is made.
struct Place {
    /// A device's index; `None` is the CPU.
    device: Option<usize>,
    by_rule: bool,
}

/// The devices with the layers dealt out to them.
struct Board<'a> {
    devices: &'a [Device],
    /// For each layer and then the output a device's index; empty without devices.
    layer_devices: Vec<usize>,
}

impl<'a> Board<'a> {
    fn new(experts: &ExpertMap, devices: &'a [Device]) -> Self {
        let layers = experts.layers() as usize + 1;
        let layer_devices =
            if devices.is_empty() { Vec::new() } else { device::assign_layers(layers, devices) };
        Self { devices, layer_devices }
    }

    fn name(&self, device: Option<usize>) -> &str {
        device.and_then(|i| self.devices.get(i)).map_or(CPU, |device| &device.name)
    }

    fn place_all(
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
    fn copies(&self, experts: &ExpertMap, placed: &[Place]) -> Vec<TensorCopy> {
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

    fn device_plans(
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
            let copied = copies.iter().filter(|copy| copy.device == plan.name);
            plan.weights_bytes += copied.map(|copy| copy.bytes).sum::<u64>();
        }
        plans
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn check_devices(devices: &[Device]) -> Result<()> {
    let mut names = BTreeSet::new();
    for device in devices {
        if device.name.eq_ignore_ascii_case(CPU) {
            return Err(Error::DuplicateDevice { name: device.name.clone() });
        }
        // `gpu` may be a device's name: where there is only one, the word means it anyway.
        device.name.parse::<Target>()?;
        if !names.insert(device.name.to_ascii_lowercase()) {
            return Err(Error::DuplicateDevice { name: device.name.clone() });
        }
    }
    Ok(())
}

fn summary(gguf: &GgufFile, experts: &ExpertMap) -> ModelSummary {
    ModelSummary {
        architecture: experts.architecture().to_owned(),
        layers: experts.layers(),
        expert_layers: count(experts.expert_layers().len()),
        experts: experts.experts(),
        active_experts: experts.active_experts(),
        tensor_bytes: experts.total_bytes(),
        expert_bytes: experts.expert_bytes(),
        fingerprint: fingerprint::of(gguf),
    }
}
