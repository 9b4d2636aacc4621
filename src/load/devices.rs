//! Which devices a load may use, and what it may take of them.

use std::collections::BTreeMap;

use super::MoeModelBuilder;
use crate::device::{CPU, Device, DeviceKind, Overhead, system_memory};
use crate::engine;
use crate::error::{Error, Result};
use crate::policy::DeviceName;
use crate::units::human_bytes;

impl MoeModelBuilder {
    /// Those that a load may use, with what it may take of them.
    pub(super) fn devices(&self) -> Result<Vec<Device>> {
        let mut devices = engine::devices_with(&self.rpc_servers, self.load.cancel.as_ref())?;
        if let Some(names) = &self.local_devices {
            devices = only(names, devices)?;
        }
        self.hold_back(&mut devices)?;
        for (name, budget) in self.budgets.iter().filter(|(name, _)| !is_cpu(name)) {
            let device = meant(name, &mut devices)?;
            device.free_bytes = Some(device.free_bytes.map_or(*budget, |free| free.min(*budget)));
            device.total_bytes = Some(device.total_bytes.map_or(*budget, |all| all.min(*budget)));
        }
        Ok(devices)
    }

    /// Gives the devices the overheads that were set by hand, one each.
    fn hold_back(&self, devices: &mut [Device]) -> Result<()> {
        let refused = |value: String, expected: &'static str| {
            Err(Error::InvalidOption { option: "device_overhead", value, expected })
        };
        let shown = |name: &str, bytes: u64| format!("{} of `{name}`", human_bytes(bytes));
        let mut given = BTreeMap::new();
        for (name, bytes) in &self.overheads {
            if is_cpu(name) {
                let expected = "of a device: of CPU memory nothing is held back";
                return refused(shown(name, *bytes), expected);
            }
            let device = meant(name, devices)?;
            device.overhead = Overhead::Bytes(*bytes);
            if let Some(first) = given.insert(device.name.clone(), shown(name, *bytes)) {
                let both = format!("{first} and {}", shown(name, *bytes));
                return refused(both, "given once for each device");
            }
        }
        Ok(())
    }

    /// The CPU with the memory that a load may take of it.
    pub(super) fn cpu(&self, reads: bool) -> Device {
        // What is read at once has to be there; what lies unused for long may be swapped.
        let free = if reads {
            system_memory::available_bytes()
        } else {
            system_memory::allocatable_bytes()
        };
        let budgets = self.budgets.iter().filter(|(name, _)| is_cpu(name));
        Device::cpu(free, budgets.map(|(_, bytes)| *bytes).min())
    }
}

/// Of this machine's devices those of these names, and all others.
fn only(names: &[String], mut devices: Vec<Device>) -> Result<Vec<Device>> {
    let is_local = |device: &Device| device.kind != DeviceKind::Remote;
    let local = devices.iter().filter(|device| is_local(device));
    let known: Vec<String> = local.map(|device| device.name.clone()).collect();
    let unknown = names.iter().find(|name| !known.iter().any(|one| one.eq_ignore_ascii_case(name)));
    if let Some(name) = unknown.cloned() {
        return Err(Error::UnknownDevice { name, known });
    }
    let is_named =
        |device: &Device| names.iter().any(|name| name.eq_ignore_ascii_case(&device.name));
    devices.retain(|device| !is_local(device) || is_named(device));
    Ok(devices)
}

fn is_cpu(name: &str) -> bool {
    name.eq_ignore_ascii_case(CPU)
}

/// The device that a name, or a server's address, stands for.
fn meant<'a>(name: &str, devices: &'a mut [Device]) -> Result<&'a mut Device> {
    let meant = named(name, devices).or_else(|| DeviceName::new(name).ok());
    let is_meant = |device: &Device| meant.as_ref().is_some_and(|name| name.matches(&device.name));
    let Some(i) = devices.iter().position(is_meant) else {
        let known = devices.iter().map(|device| device.name.clone()).collect();
        return Err(Error::UnknownDevice { name: name.to_owned(), known });
    };
    Ok(&mut devices[i])
}

/// A server's address names its first device, whatever number that has in this process.
pub(super) fn named(address: &str, devices: &[Device]) -> Option<DeviceName> {
    let is_meant = |device: &&Device| device.server() == Some(address);
    devices.iter().find(is_meant).and_then(|device| DeviceName::new(&device.name).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_one_overhead_whatever_the_spelling_of_its_name() {
        let devices = || vec![Device::new("CUDA0"), Device::new("CUDA1")];
        let held_back = |given: &[(&str, u64)]| {
            let builder = MoeModelBuilder::new("x.gguf".into());
            let builder = given
                .iter()
                .fold(builder, |builder, &(name, bytes)| builder.device_overhead(name, bytes));
            let mut devices = devices();
            builder.hold_back(&mut devices).map(|()| devices)
        };
        let one = held_back(&[("cuda1", 7 << 20), ("CUDA0", 5 << 20)]).unwrap();
        let bytes = [5 << 20, 7 << 20].map(Overhead::Bytes);
        assert_eq!([one[0].overhead, one[1].overhead], bytes);
        let refused = |given: &[(&str, u64)]| held_back(given).unwrap_err().to_string();
        let twice = refused(&[("CUDA0", 1 << 20), ("CUDA1", 1 << 20), ("cuda0", 9 << 20)]);
        for part in ["1.00 MiB of `CUDA0`", "9.00 MiB of `cuda0`", "once for each device"] {
            assert!(twice.contains(part), "{twice}");
        }
        assert!(refused(&[("CPU", 1)]).contains("of CPU memory nothing is held back"));
        for name in ["CUDA7", "gpu", "a;b", ""] {
            let unknown = format!("there is no device `{name}`; there are CUDA0, CUDA1");
            assert!(refused(&[(name, 1)]).contains(&unknown), "{name}");
        }
    }

    #[test]
    fn of_this_machine_s_devices_only_those_named_are_left() {
        let device = |name: &str, kind| {
            let mut device = Device::new(name);
            device.kind = kind;
            device
        };
        let left = |names: &[&str]| {
            let all = vec![
                device("RPC0", DeviceKind::Remote),
                device("CUDA0", DeviceKind::Gpu),
                device("CUDA1", DeviceKind::Gpu),
            ];
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let left = only(&names, all)?.into_iter().map(|device| device.name);
            Ok::<_, Error>(left.collect::<Vec<_>>())
        };
        assert_eq!(left(&["cuda1"]).unwrap(), ["RPC0", "CUDA1"]);
        assert_eq!(left(&[]).unwrap(), ["RPC0"]);
        // A server's device is named by its server.
        for unknown in ["CUDA2", "RPC0"] {
            let error = left(&["CUDA0", unknown]).unwrap_err();
            let known = vec!["CUDA0".to_owned(), "CUDA1".to_owned()];
            assert!(
                matches!(&error, Error::UnknownDevice { name, known: there } if name == unknown && *there == known),
                "{error}"
            );
        }
    }
}
