//! A stored plan on the devices of the process that loads it.
//!
//! `RPC0` is whichever server a process connected first. So a plan remembers the servers' addresses,
//! and its devices take the names that they have now.

use std::collections::BTreeMap;

use super::{CPU, Device, DevicePlan, Plan};
use crate::error::{Error, Result};
use crate::policy::DeviceName;

impl Plan {
    /// The same plan with its devices by the names that they have now. Those that it does not use and
    /// that are not there are left out.
    ///
    /// # Errors
    /// [`Error::PlannedDeviceMissing`], or [`Error::InvalidPlan`] if two devices are the same one.
    pub(crate) fn rebound(&self, devices: &[Device]) -> Result<Self> {
        let used: Vec<&str> = self.used_devices().map(|(name, _)| name).collect();
        let mut names = BTreeMap::new();
        let mut kept = vec![true; self.devices.len()];
        let mut plan = self.clone();
        for (i, planned) in self.devices.iter().enumerate().filter(|(_, d)| d.name != CPU) {
            match self.found(i, devices) {
                Some(device) if names.values().any(|name| name == &device.name) => {
                    let what = format!("two of its devices are `{}` now", device.name);
                    return Err(Error::InvalidPlan { what });
                }
                Some(device) => {
                    names.insert(planned.name.as_str(), device.name.as_str());
                    // Stored again, the plan finds it by its address.
                    plan.devices[i].server = device.server().map(str::to_owned);
                }
                None if used.contains(&planned.name.as_str()) => {
                    return Err(missing(planned, devices));
                }
                None => kept[i] = false,
            }
        }
        plan.rename(&names);
        plan.keep(&kept);
        // What follows from other figures is not believed.
        plan.devices.iter_mut().for_each(DevicePlan::recompute_total);
        Ok(plan)
    }

    /// The device that is meant by the planned one of this index.
    fn found<'a>(&self, index: usize, devices: &'a [Device]) -> Option<&'a Device> {
        let planned = &self.devices[index];
        // A plan that was made without the engine may use an address as a name.
        let address = planned.server.as_ref().unwrap_or(&planned.name);
        let is_of_server = |other: &&DevicePlan| other.server.as_ref() == Some(address);
        let before = self.devices[..index].iter().filter(is_of_server).count();
        let mut at_address = devices.iter().filter(|device| device.server() == Some(address));
        at_address.nth(before).or_else(|| {
            let is_named = |device: &&Device| device.name == planned.name;
            devices.iter().find(is_named).filter(|_| planned.server.is_none())
        })
    }

    fn rename(&mut self, names: &BTreeMap<&str, &str>) {
        let new = |name: &mut String| {
            if let Some(&now) = names.get(name.as_str()) {
                now.clone_into(name);
            }
        };
        self.devices.iter_mut().for_each(|device| new(&mut device.name));
        self.tensors.iter_mut().for_each(|placement| new(&mut placement.device));
        self.copies.iter_mut().for_each(|copy| new(&mut copy.device));
        let in_policy = |name: &str| {
            let meant = |planned: &str| DeviceName::new(planned).is_ok_and(|d| d.matches(name));
            let (_, &now) = names.iter().find(|&(planned, _)| meant(planned))?;
            DeviceName::new(now).ok()
        };
        self.policy = self.policy.clone().renamed(&in_policy);
        for (rule, report) in std::iter::zip(self.policy.rules(), &mut self.rules) {
            report.text = rule.to_string();
        }
    }

    /// Leaves devices out on which nothing is.
    fn keep(&mut self, kept: &[bool]) {
        let index_now = |i: usize| kept[..i].iter().filter(|&&kept| kept).count();
        for device in self.layer_devices.iter_mut().flatten() {
            *device = index_now(*device);
        }
        let mut is_kept = kept.iter();
        self.devices.retain(|_| is_kept.next().copied().unwrap_or(true));
        if self.devices.len() == 1 {
            self.layer_devices.clear();
        }
    }
}

fn missing(planned: &DevicePlan, devices: &[Device]) -> Error {
    let known = devices.iter().map(|device| match device.server() {
        Some(address) => format!("{} ({address})", device.name),
        None => device.name.clone(),
    });
    let known = known.collect();
    Error::PlannedDeviceMissing {
        name: planned.name.clone(),
        server: planned.server.clone(),
        known,
    }
}
