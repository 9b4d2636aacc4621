//! A [`Plan`]: where every tensor of a model goes, before anything is loaded.
//!
//! A plan is made from a policy, a file's header, devices and a context, all of them plain values:
//! no engine, no hardware, no tensor data. It can be printed, compared and serialised.

mod account;
mod assignment;
mod check;
mod decision;
mod default_place;
mod device_plan;
mod disk;
mod estimate;
mod fallback;
mod fingerprint;
mod fit;
pub(crate) mod kv_cache;
mod micro_batch;
mod offload;
mod open_sizes;
mod overhead;
mod padding;
mod patterns;
mod picture;
mod problem;
#[cfg(feature = "llama")]
mod rebind;
mod rules;
mod solve;
mod split;
mod table;
pub(crate) mod verify;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::assignment::{Assignment, Place, count};
pub use self::decision::Decision;
pub use self::device_plan::{DevicePlan, Source};
pub use self::disk::DiskPlan;
#[cfg(feature = "llama")]
pub(crate) use self::disk::{PAGE_BYTES, ROWS_BYTES};
use self::kv_cache::KvCache;
#[cfg(feature = "llama")]
pub(crate) use self::kv_cache::cell_bytes;
#[cfg(feature = "llama")]
pub(crate) use self::offload::ENGINE_OFFLOAD_TOKENS;
pub(crate) use self::offload::check_offload;
pub use self::overhead::pool_bytes;
pub use self::picture::Picture;
pub(crate) use self::problem::Compute;
pub use self::rules::RuleMatch;
pub(crate) use self::solve::plan as solve;
pub use crate::context::{ContextOptions, OpenChoices};
pub use crate::device::{CPU, DISK, Device, DeviceKind, NOT_LOADED, Overhead};
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap};
use crate::gguf::GgufFile;
pub use crate::policy::bytes::parse_bytes;
use crate::policy::{OffloadPolicy, Target};
pub use crate::units::human_bytes;

/// Devices that the engine takes beside the CPU. Its scheduler has room for 16 backends
/// (`GGML_SCHED_MAX_BACKENDS` in `ggml-backend.cpp`), of which the CPU is one; its array of shares has
/// as many entries (`llama_max_devices`), and it reads one for each device.
pub(crate) const MAX_DEVICES: usize = 15;

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
    #[serde(default)]
    decisions: Vec<Decision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disk: Option<DiskPlan>,
    /// For each layer and then the output, which of `devices`; `None` for the CPU.
    layer_devices: Vec<Option<usize>>,
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

/// Where one tensor goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Placement {
    /// The tensor, its size, layer and kind.
    #[serde(flatten)]
    pub tensor: ClassifiedTensor,
    /// The device, or [`CPU`], [`DISK`] or [`NOT_LOADED`].
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

/// One entry of the override array that the engine is given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Override {
    /// An anchored pattern over exact tensor names.
    pub pattern: String,
    /// The device, or [`CPU`], or [`DISK`].
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
    /// file or the devices, [`Error::TooManyDevices`], [`Error::DoesNotFit`] or [`Error::UnknownFreeMemory`] under `fit`,
    /// [`Error::DuplicateDevice`], [`Error::InvalidOption`] for an impossible context or device, and
    /// what [`ExpertMap::new`] returns.
    pub fn plan(
        &self,
        gguf: &GgufFile,
        devices: &[Device],
        context: &ContextOptions,
    ) -> Result<Plan> {
        solve(self, gguf, devices, context, &mut Compute::Formula)
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

    /// What stays on disk, if anything does.
    pub fn disk(&self) -> Option<&DiskPlan> {
        self.disk.as_ref()
    }

    /// Experts that are used for a token, at least one.
    #[cfg(feature = "llama")]
    pub(crate) fn active_experts(&self) -> usize {
        let active = self.model.active_experts.and_then(|active| usize::try_from(active).ok());
        active.unwrap_or(1).max(1)
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

    /// What `fit` gave up or chose beside the places of experts, in order.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
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

    /// Refuses more devices than the engine has room for.
    fn check_device_count(&self) -> Result<()> {
        let count = self.used_devices().count();
        if count > MAX_DEVICES {
            return Err(Error::TooManyDevices { count, most: MAX_DEVICES });
        }
        Ok(())
    }

    /// Writes down where everything is.
    fn fill(
        &mut self,
        assignment: &Assignment<'_>,
        experts: &ExpertMap,
        places: &[Place],
        cache: Option<&KvCache>,
    ) {
        self.tensors = std::iter::zip(experts.tensors(), places)
            .map(|(tensor, &at)| Placement {
                tensor: tensor.clone(),
                device: assignment.name(at).to_owned(),
            })
            .collect();
        self.devices =
            assignment.device_plans(experts, &self.tensors, &self.copies, &self.context, cache);
        self.devices.iter_mut().for_each(DevicePlan::recompute_total);
    }

    /// Whether the plan was made for this file.
    pub fn is_for(&self, gguf: &GgufFile) -> bool {
        self.model.fingerprint == fingerprint::of(gguf)
    }

    /// How many layers are not the CPU's, the output counted as one.
    #[cfg(feature = "llama")]
    pub(crate) fn device_layers(&self) -> usize {
        self.layer_devices.iter().flatten().count()
    }

    /// How many layers each device gets, the output counted as one, without the CPU.
    fn layer_split(&self) -> Vec<u32> {
        let devices = self.devices.len().saturating_sub(1);
        let mut split = vec![0; devices];
        for &device in self.layer_devices.iter().flatten() {
            if let Some(count) = split.get_mut(device) {
                *count += 1;
            }
        }
        split
    }

    /// The devices that get anything, in order, with the number of their layers, the output counted
    /// as one.
    pub(crate) fn used_devices(&self) -> impl Iterator<Item = (&str, u32)> {
        let devices = std::iter::zip(&self.devices, self.layer_split());
        let used = devices.filter(|(device, layers)| *layers > 0 || device.weights_bytes > 0);
        used.map(|(device, layers)| (device.name.as_str(), layers))
    }
}

fn check_devices(devices: &[Device]) -> Result<()> {
    const MAX_ALIGNMENT: u64 = 1 << 30;
    let mut names = BTreeSet::new();
    for device in devices {
        if let Some(alignment) = device.alignment_bytes.filter(|&n| n == 0 || n > MAX_ALIGNMENT) {
            let (option, value) = ("alignment_bytes", alignment.to_string());
            return Err(Error::InvalidOption { option, value, expected: "from 1 to 2^30" });
        }
        if let Some(padding) = device.row_padding_elements.filter(|&n| n == 0 || n > MAX_ALIGNMENT)
        {
            let (option, value) = ("row_padding_elements", padding.to_string());
            return Err(Error::InvalidOption { option, value, expected: "from 1 to 2^30" });
        }
        if [CPU, DISK].iter().any(|name| device.name.eq_ignore_ascii_case(name)) {
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

/// A cautious guess at the compute buffers of one device, for `fit` without the engine: the scores
/// of a micro-batch over the vocabulary, which are nearly all of it in models with a large one, and
/// sixteen activations beside them.
fn compute_reserve(gguf: &GgufFile, context: &ContextOptions) -> u64 {
    const ACTIVATIONS: u64 = 16;
    const FLOAT_BYTES: u64 = 4;
    let embedding = gguf.tensors().iter().find(|tensor| tensor.name == "token_embd.weight");
    let side = |i: usize| embedding.and_then(|tensor| tensor.shape.get(i).copied()).unwrap_or(0);
    side(0)
        .saturating_mul(ACTIVATIONS)
        .saturating_add(side(1))
        .saturating_mul(context.computed_at_once())
        .saturating_mul(FLOAT_BYTES)
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
