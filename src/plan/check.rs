//! Whether a plan that comes from outside can be kept.

use std::collections::BTreeSet;

use super::assignment::own_device;
use super::default_place::{DefaultPlace, is_pageable, resolve_all};
use super::open_sizes::trained_tokens;
use super::{CPU, DISK, Device, DiskPlan, NOT_LOADED, Plan, rules, summary};
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};
use crate::gguf::GgufFile;

impl Plan {
    /// Checks a plan that was stored against the file that it is to be used with: that it was made
    /// for it, names every tensor as the file does, and agrees with itself. A plan that
    /// [`OffloadPolicy::plan`](crate::OffloadPolicy::plan) made for the file always passes.
    ///
    /// # Errors
    /// [`Error::ForeignPlan`] for another file's, [`Error::InvalidPlan`] for one that was changed,
    /// also to an impossible context, [`Error::TooManyDevices`].
    pub fn check(&self, gguf: &GgufFile) -> Result<()> {
        if !self.is_for(gguf) {
            return Err(Error::ForeignPlan { path: gguf.path().to_owned() });
        }
        match self.context.resolve(trained_tokens(gguf)) {
            Ok(context) if context == self.context => {}
            Ok(_) => return Err(invalid("its context leaves a choice open")),
            // It is nobody's option here.
            Err(Error::InvalidOption { option, value, expected }) => {
                return Err(invalid(&format!(
                    "its `context.{option}` is {value}, but must be {expected}"
                )));
            }
            Err(error) => return Err(error),
        }
        self.check_devices()?;
        let experts = ExpertMap::new(gguf)?;
        if self.model != summary(gguf, &experts) {
            return Err(invalid("its summary of the model is not the file's"));
        }
        let layers = experts.layers() as usize + 1;
        let devices = self.devices.len() - 1;
        let expected = if devices == 0 { 0 } else { layers };
        if self.layer_devices.len() != expected
            || self.layer_devices.iter().flatten().any(|&device| device >= devices)
            // The CPU's layers come first.
            || !self.layer_devices.is_sorted()
        {
            return Err(invalid("it does not give every layer to a device, in order"));
        }
        self.check_tensors(&experts)?;
        self.check_device_count()?;
        self.check_policy(gguf, &experts)
    }

    /// What a rule places, or none, is where the policy says; `fit` decides by more than a plan holds.
    fn check_policy(&self, gguf: &GgufFile, experts: &ExpertMap) -> Result<()> {
        let devices = self.devices.iter().filter(|device| device.name != CPU);
        let devices: Vec<Device> = devices.map(|device| Device::new(&device.name)).collect();
        // A policy may name a device by its server's address, or one that was left out as nothing is on it.
        let Ok(rules) = rules::compile(&self.policy, gguf, experts, &devices) else {
            return Ok(());
        };
        let may_page = self.policy.fit().is_some_and(|fit| fit.ram_bytes.is_some());
        let host_layers = self.layer_devices.iter().take_while(|device| device.is_none()).count();
        let (resolved, reports) = resolve_all(experts, &rules, host_layers)?;
        if reports.len() != self.rules.len() {
            return Err(invalid(&format!(
                "its rules are not those of its policy `{}`",
                self.policy
            )));
        }
        for (resolved, placed) in resolved.iter().zip(&self.tensors) {
            if resolved.by_fit || (may_page && !resolved.by_rule && placed.device == DISK) {
                continue;
            }
            let of = |device: Option<usize>| device.map_or(CPU, |i| &devices[i].name);
            let expected = match resolved.default_place {
                DefaultPlace::Cpu => CPU,
                DefaultPlace::Disk => DISK,
                DefaultPlace::NotLoaded => NOT_LOADED,
                DefaultPlace::Device(device) => of(Some(device)),
                DefaultPlace::WithLayer(layer) => {
                    of(self.layer_devices.get(layer).copied().flatten())
                }
            };
            if placed.device != expected {
                let (name, policy) = (&placed.tensor.name, &self.policy);
                return Err(invalid(&format!(
                    "`{name}` is on {}, where its policy `{policy}` does not put it",
                    placed.device
                )));
            }
        }
        Ok(())
    }

    fn check_devices(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for device in &self.devices {
            if !names.insert(device.name.to_ascii_lowercase()) {
                return Err(Error::DuplicateDevice { name: device.name.clone() });
            }
            if !device.adds_up() {
                let name = &device.name;
                return Err(invalid(&format!("the bytes of `{name}` do not add up to its total")));
            }
        }
        match self.devices.last() {
            Some(last) if last.name == CPU => Ok(()),
            _ => Err(invalid("its last device is not the cpu")),
        }
    }

    fn check_tensors(&self, experts: &ExpertMap) -> Result<()> {
        let listed = self.tensors.iter().map(|placement| &placement.tensor);
        if !listed.eq(experts.tensors()) {
            return Err(invalid("its tensors are not those of the file"));
        }
        let mut weights = vec![0_u64; self.devices.len()];
        let placed = self.tensors.iter().map(|p| (p.tensor.bytes, &p.device, p.tensor.kind));
        for (bytes, name, kind) in placed {
            if (name == NOT_LOADED) != (kind == TensorKind::NextToken) {
                return Err(invalid("it does not load what it should, or loads what it cannot"));
            }
            if name == DISK {
                continue;
            }
            if name != NOT_LOADED {
                weights[self.index_of(name)?] += bytes;
            }
        }
        let on_disk = self.tensors.iter().filter(|placed| placed.device == DISK);
        if on_disk.clone().any(|placed| !is_pageable(&placed.tensor, experts)) {
            return Err(invalid("it leaves on disk what it cannot"));
        }
        let on_disk: u64 = on_disk.map(|placed| placed.tensor.bytes).sum();
        let all = |disk: &DiskPlan| disk.weights_bytes.checked_add(disk.embedding_bytes);
        if Some(on_disk) != self.disk.as_ref().map_or(Some(0), all) {
            return Err(invalid("its bytes on disk are not the sum of its tensors"));
        }
        for copy in &self.copies {
            let is_of_file = |tensor: &&ClassifiedTensor| tensor.name == copy.name;
            let copied = experts.tensors().iter().find(is_of_file).map(|tensor| tensor.bytes);
            let here = &mut weights[self.index_of(&copy.device)?];
            let sum = here.checked_add(copy.bytes).filter(|_| copied == Some(copy.bytes));
            *here = sum.ok_or_else(|| invalid("its copies are not those of the file's tensors"))?;
        }
        let sums = self.devices.iter().map(|device| device.weights_bytes);
        if !sums.eq(weights) {
            return Err(invalid("its bytes per device are not the sums of its tensors"));
        }
        Ok(())
    }

    fn index_of(&self, name: &str) -> Result<usize> {
        self.devices
            .iter()
            .position(|device| device.name == *name)
            .ok_or_else(|| invalid(&format!("it has no device `{name}`, but puts a tensor there")))
    }

    /// Where the engine would put a tensor of this plan by itself.
    pub(super) fn own_device(&self, tensor: &ClassifiedTensor) -> &str {
        own_device(tensor, &self.layer_devices)
            .and_then(|device| self.devices.get(device))
            .map_or(CPU, |device| &device.name)
    }
}

fn invalid(what: &str) -> Error {
    Error::InvalidPlan { what: what.to_owned() }
}
