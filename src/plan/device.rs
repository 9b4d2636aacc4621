//! Devices as plain values: what a plan needs to know of the hardware.

use serde::{Deserialize, Serialize};

/// A device that can hold layers, such as a GPU or a server reached over RPC.
///
/// The CPU is never listed: it is always there and takes what no device takes.
///
/// ```
/// use moe_offload::Device;
/// let card = Device::new("RTX-4070").with_free_bytes(12 << 30);
/// assert_eq!(card.free_bytes, Some(12 << 30));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Device {
    /// The name to use in policies, for example `CUDA0`.
    pub name: String,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The engine's backend that drives it, such as `CUDA` or `RPC`; empty for a device that is
    /// only planned for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// Memory free for use, in bytes, where known.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// All its memory in bytes, where known.
    #[serde(default)]
    pub total_bytes: Option<u64>,
    /// Every tensor on it takes a whole number of so many bytes, where known.
    #[serde(default)]
    pub alignment_bytes: Option<u64>,
}

impl Device {
    /// A device of which only the name is known.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            backend: String::new(),
            free_bytes: None,
            total_bytes: None,
            alignment_bytes: None,
        }
    }

    /// The same device with so much free memory.
    #[must_use]
    pub fn with_free_bytes(self, free_bytes: u64) -> Self {
        Self { free_bytes: Some(free_bytes), ..self }
    }
}

/// Divides `layers` contiguously over the devices in proportion to their free memory, equally
/// where that is unknown. The result holds a device's index for each layer.
///
/// The rule is the engine's own for its default split (`llama_model_base::load_tensors`).
pub(super) fn assign_layers(layers: usize, devices: &[Device]) -> Vec<usize> {
    let known: Option<Vec<u64>> = devices.iter().map(|device| device.free_bytes).collect();
    let weights = known
        .filter(|free| free.iter().any(|&bytes| bytes > 0))
        .unwrap_or_else(|| vec![1; devices.len()]);
    let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let mut assigned = Vec::with_capacity(layers);
    let (mut device, mut below) = (0, u128::from(weights.first().copied().unwrap_or(0)));
    for layer in 0..layers {
        // layer / layers >= below / total, in whole numbers
        while device + 1 < devices.len() && (layer as u128) * total >= below * (layers as u128) {
            device += 1;
            below += u128::from(weights[device]);
        }
        assigned.push(device);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_follow_free_memory() {
        let one = Device::new("a").with_free_bytes(10);
        let three = Device::new("b").with_free_bytes(30);
        assert_eq!(assign_layers(4, &[one.clone(), three.clone()]), [0, 1, 1, 1]);
        assert_eq!(assign_layers(4, &[three, one]), [0, 0, 0, 1]);
    }

    #[test]
    fn unknown_memory_divides_equally_and_none_left_over() {
        let devices = [Device::new("a"), Device::new("b").with_free_bytes(5), Device::new("c")];
        assert_eq!(assign_layers(7, &devices), [0, 0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn a_full_device_takes_nothing() {
        let full = Device::new("a").with_free_bytes(0);
        let free = Device::new("b").with_free_bytes(8);
        assert_eq!(assign_layers(3, &[full, free]), [1, 1, 1]);
    }
}
