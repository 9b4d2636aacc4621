//! A [`Plan`]: where every tensor of a model goes, before anything is loaded.
//!
//! A plan is made from a policy, a file's header, devices and a context, all of them plain values:
//! no engine, no hardware, no tensor data. It can be printed, compared and serialised.

mod board;
mod bytes;
mod check;
mod context;
mod device;
mod fingerprint;
mod fit;
mod patterns;
mod picture;
mod rules;
mod table;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::board::{Board, Place, count};
pub(crate) use self::bytes::human_bytes;
pub use self::bytes::parse_bytes;
pub use self::context::ContextOptions;
pub use self::device::Device;
pub use self::picture::Picture;
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap};
use crate::gguf::GgufFile;
use crate::kv_cache::KvCache;
use crate::memory::DeviceMemory;
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
    /// Bytes of the buffers for intermediate results; `None` until a dry run of the engine has
    /// measured them.
    pub compute_bytes: Option<u64>,
    /// Bytes that `fit` holds back for compute buffers, by a cautious formula, as long as no dry
    /// run has measured them.
    pub reserved_bytes: u64,
    /// All of these together; what is not known counts nothing.
    pub total_bytes: u64,
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

impl DevicePlan {
    fn empty(name: &str, layers: u32, free_bytes: Option<u64>) -> Self {
        Self {
            name: name.to_owned(),
            weights_bytes: 0,
            padding_bytes: 0,
            expert_bytes: 0,
            context_bytes: None,
            compute_bytes: None,
            reserved_bytes: 0,
            total_bytes: 0,
            layers,
            free_bytes,
        }
    }

    /// Free memory that is left over; `None` where the free memory is not known.
    pub fn left_over_bytes(&self) -> Option<u64> {
        self.free_bytes.map(|free| free.saturating_sub(self.total_bytes))
    }

    fn settle(&mut self) {
        let context = self.context_bytes.unwrap_or(0);
        let compute = self.compute_bytes.unwrap_or(self.reserved_bytes);
        self.total_bytes = [self.padding_bytes, context, compute]
            .into_iter()
            .fold(self.weights_bytes, u64::saturating_add);
    }
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
        self.plan_with(gguf, devices, context, &[])
    }

    /// As [`Self::plan`], with the context and compute bytes of a dry run where there are some.
    pub(crate) fn plan_with(
        &self,
        gguf: &GgufFile,
        devices: &[Device],
        context: &ContextOptions,
        measured: &[DeviceMemory],
    ) -> Result<Plan> {
        check_devices(devices)?;
        let context = context.resolve(gguf)?;
        let experts = ExpertMap::new(gguf)?;
        let rules = rules::compile(self, gguf, &experts, devices)?;
        let board = Board::new(&experts, devices);
        let (mut places, rules) = board.place_all(&experts, &rules)?;
        let mut plan = Plan {
            policy: self.clone(),
            model: summary(gguf, &experts),
            context,
            devices: Vec::new(),
            rules,
            tensors: Vec::new(),
            copies: board.copies(&experts, &places),
            layer_devices: board.layer_devices.clone(),
        };
        let cache = KvCache::new(gguf);
        plan.fill(&board, &experts, &places, cache.as_ref());
        if let Some(limit) = self.fit_limit() {
            let reserve = compute_reserve(gguf, &plan.context);
            plan.reserve(reserve);
            plan.refine(measured);
            board.fit(&experts, &mut places, &plan.devices, limit)?;
            plan.fill(&board, &experts, &places, cache.as_ref());
            plan.reserve(reserve);
        }
        plan.refine(measured);
        Ok(plan)
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

    /// Writes down where everything is.
    fn fill(
        &mut self,
        board: &Board<'_>,
        experts: &ExpertMap,
        places: &[Place],
        cache: Option<&KvCache>,
    ) {
        self.tensors = std::iter::zip(experts.tensors(), places)
            .map(|(tensor, place)| Placement {
                tensor: tensor.clone(),
                device: board.name(place.at).to_owned(),
            })
            .collect();
        self.devices =
            board.device_plans(experts, &self.tensors, &self.copies, &self.context, cache);
        self.devices.iter_mut().for_each(DevicePlan::settle);
    }

    fn reserve(&mut self, bytes: u64) {
        for device in self.devices.iter_mut().filter(|device| device.name != CPU) {
            device.reserved_bytes = bytes;
            device.settle();
        }
    }

    /// Takes over what a dry run measured: context and compute bytes are then exact.
    pub(crate) fn refine(&mut self, measured: &[DeviceMemory]) {
        for device in &mut self.devices {
            if let Some(memory) = measured.iter().find(|memory| memory.name == device.name) {
                device.context_bytes = Some(memory.context_bytes);
                device.compute_bytes = Some(memory.compute_bytes);
                device.reserved_bytes = 0;
                device.settle();
            }
        }
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
