//! What devices compute of what is in CPU memory.

use super::{CPU, ContextOptions, DISK, Device, Plan};
use crate::error::{Error, Result};

/// The tokens from which the engine's backends take a batch of what is in CPU memory by themselves, unless
/// `GGML_OP_OFFLOAD_MIN_BATCH` says otherwise (`ggml-cuda.cu`, `ggml-vulkan.cpp`).
#[cfg(feature = "llama")]
pub(crate) const ENGINE_OFFLOAD_TOKENS: u32 = 32;

/// Refuses a number of tokens that no device would keep to.
pub(crate) fn check_offload(context: &ContextOptions, devices: &[Device]) -> Result<()> {
    let Some(tokens) = context.expert_offload_tokens else { return Ok(()) };
    if devices.iter().any(Device::takes_operations) {
        return Ok(());
    }
    let devices = devices.iter().map(|device| device.name.clone()).collect();
    Err(Error::NoOffloadDevice { tokens, devices })
}

impl Plan {
    /// Whether experts are in CPU memory and a device may compute with them.
    pub(crate) fn offloads_from_cpu(&self) -> bool {
        let has_experts = self.device(CPU).is_some_and(|cpu| cpu.expert_bytes > 0);
        has_experts
            && self.context.operation_offload
            && self.tensors.iter().all(|placed| placed.device != DISK)
    }

    /// Whether a device computes prompts with experts that are in CPU memory: one of `devices`, which has layers here.
    pub(crate) fn offloads_experts(&self, devices: &[Device]) -> bool {
        let has_layers = |device: &Device| {
            self.used_devices().any(|(name, layers)| name == device.name && layers > 0)
        };
        self.offloads_from_cpu()
            && devices.iter().filter(|device| device.takes_operations()).any(has_layers)
    }
}
