//! Which devices a load may use, and what it may take of them.

use super::MoeModelBuilder;
use crate::device::{CPU, Device, DeviceKind, Overhead, system_memory};
use crate::engine;
use crate::error::{Error, Result};
use crate::policy::DeviceName;

impl MoeModelBuilder {
    /// Those that a load may use, with what it may take of them.
    pub(super) fn devices(&self) -> Result<Vec<Device>> {
        let mut devices = engine::devices_with(&self.rpc_servers, self.load.cancel.as_ref())?;
        if let Some(names) = &self.local_devices {
            devices = only(names, devices)?;
        }
        for (name, bytes) in &self.overheads {
            meant(name, &mut devices)?.overhead = Overhead::Bytes(*bytes);
        }
        for (name, budget) in self.budgets.iter().filter(|(name, _)| !is_cpu(name)) {
            let device = meant(name, &mut devices)?;
            device.free_bytes = Some(device.free_bytes.map_or(*budget, |free| free.min(*budget)));
            device.total_bytes = Some(device.total_bytes.map_or(*budget, |all| all.min(*budget)));
        }
        Ok(devices)
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
    let name = named(name, devices).map_or_else(|| DeviceName::new(name), Ok)?;
    let Some(i) = devices.iter().position(|device| name.matches(&device.name)) else {
        let known = devices.iter().map(|device| device.name.clone()).collect();
        return Err(Error::UnknownDevice { name: name.as_str().to_owned(), known });
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
