//! A [`Plan`]: where every tensor of a model goes, before anything is loaded.
//!
//! A plan is made from a policy, a file's header, devices and a context, all of them plain values:
//! no engine, no hardware, no tensor data. It can be printed, compared and serialised.

mod board;
mod bytes;
mod context;
mod device;
mod fingerprint;
mod patterns;
mod rules;
mod table;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::board::{Board, count, own_device};
#[cfg(feature = "llama")]
pub(crate) use self::bytes::human_bytes;
pub use self::bytes::parse_bytes;
pub use self::context::ContextOptions;
pub use self::device::Device;
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap};
use crate::gguf::GgufFile;
use crate::kv_cache::KvCache;
use crate::policy::{OffloadPolicy, Target};

/// The name under which CPU memory appears among the devices of a plan.
pub const CPU: &str = "cpu";

/// The name under which tensors appear that the engine leaves in the file: layers for predicting
/// several tokens at once.
pub const NOT_LOADED: &str = "not-loaded";

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
    /// Bytes that the weights take besides, because the device aligns every tensor; 0 where its
    /// alignment is not known, and for CPU memory.
    pub padding_bytes: u64,
    /// Bytes of the experts among them.
    pub expert_bytes: u64,
    /// Bytes of the KV cache and recurrent state of its layers; `None` where the architecture's
    /// cache is not known (see [`kv_cache`](crate::kv_cache)) and only the engine can tell.
    pub context_bytes: Option<u64>,
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
    /// The device, or [`CPU`], or [`NOT_LOADED`].
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
        let cache = KvCache::new(gguf);
        let (placed, reports) = board.place_all(&experts, &rules)?;
        let copies = board.copies(&experts, &placed);
        let tensors: Vec<Placement> = std::iter::zip(experts.tensors(), &placed)
            .map(|(tensor, place)| Placement {
                tensor: tensor.clone(),
                device: board.name(place.at).to_owned(),
            })
            .collect();
        Ok(Plan {
            policy: self.clone(),
            model: summary(gguf, &experts),
            devices: board.device_plans(&experts, &tensors, &copies, &context, cache.as_ref()),
            context,
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
                .filter(|placement| placement.device != NOT_LOADED)
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
