//! What a plan's devices hold, as far as it is known, and whether they have it.

#[cfg(feature = "llama")]
use super::Decision;
use super::{CPU, DevicePlan, Plan, Source};
use crate::device::DeviceMemory;

impl Plan {
    /// Holds memory back for compute buffers where something is computed.
    pub(super) fn reserve(&mut self, bytes: u64) {
        let used = |device: &&mut DevicePlan| device.layers > 0 || device.weights_bytes > 0;
        for device in self.devices.iter_mut().filter(|device| device.name != CPU).filter(used) {
            device.reserved_bytes = bytes;
            device.compute_from = Source::Reserve;
            device.recompute_total();
        }
    }

    /// Says that the weights in CPU memory are read, not mapped; a dry run has its own account.
    #[cfg(feature = "llama")]
    pub(crate) fn expect_reading(&mut self) {
        self.devices.iter_mut().for_each(DevicePlan::read_instead_of_mapped);
    }

    /// Says that they are read into pinned memory.
    #[cfg(feature = "llama")]
    pub(crate) fn expect_pinning(&mut self) {
        for device in &mut self.devices {
            if let Some(host) = &mut device.host {
                host.pinned_bytes += std::mem::take(&mut host.mapped_bytes);
            }
            device.recompute_total();
        }
    }

    /// Notes what was decided for one load, in the place of what another load decided.
    #[cfg(feature = "llama")]
    pub(crate) fn note_load(&mut self, decision: Option<Decision>) {
        self.decisions.retain(|decision| !decision.is_of_load());
        self.decisions.extend(decision);
    }

    /// Takes over what was measured for a similar plan: the compute bytes, and the context's where
    /// no formula knows them.
    pub(super) fn assume(&mut self, measured: &[DeviceMemory]) {
        self.take_over(measured, |device| device.context_from != Source::Formula);
    }

    /// Takes over what a dry run of this plan measured: context and compute bytes are then exact.
    pub(crate) fn refine(&mut self, measured: &[DeviceMemory]) {
        self.take_over(measured, |_| true);
    }

    fn take_over(&mut self, measured: &[DeviceMemory], context: impl Fn(&DevicePlan) -> bool) {
        for device in &mut self.devices {
            let row = measured.iter().find(|memory| memory.name == device.name);
            // A device that is not used has no row.
            let (context_bytes, compute_bytes) = match row {
                Some(memory) => (memory.context_bytes, memory.compute_bytes),
                None if measured.is_empty() => continue,
                None => (0, 0),
            };
            if context(device) {
                device.context_bytes = Some(context_bytes);
                device.context_from = Source::DryRun;
            }
            device.compute_bytes = Some(compute_bytes);
            device.compute_from = Source::DryRun;
            device.reserved_bytes = 0;
            device.host = row.and_then(|memory| memory.host).or(device.host);
            device.recompute_total();
        }
    }

    /// Bytes of experts that are not on the CPU.
    pub fn expert_bytes_on_devices(&self) -> u64 {
        let devices = self.devices.iter().filter(|device| device.name != CPU);
        devices.fold(0, |sum, device| sum.saturating_add(device.expert_bytes))
    }

    /// The same plan where so many bytes of CPU memory are free, as
    /// [`allocatable_bytes`](crate::memory::allocatable_bytes) tells for this machine.
    ///
    /// ```
    /// # use moe_offload_synth::{self as synth, SynthOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.gguf");
    /// # synth::family("dbrx")?.build(&SynthOptions::tiny())?.save(&path, 1, |_| {})?;
    /// use moe_offload::{ContextOptions, GgufFile, OffloadPolicy};
    ///
    /// let gguf = GgufFile::open(&path)?;
    /// let context = ContextOptions::with_context_tokens(4_000_000);
    /// let plan = OffloadPolicy::default().plan(&gguf, &[], &context)?.with_cpu_memory(1 << 30);
    /// assert!(!plan.fits());
    /// assert!(plan.devices()[0].short_by_bytes > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_cpu_memory(mut self, free_bytes: u64) -> Self {
        if let Some(cpu) = self.devices.iter_mut().find(|device| device.name == CPU) {
            cpu.free_bytes = Some(free_bytes);
            cpu.recompute_total();
        }
        self
    }

    /// Whether no device is short of memory, as far as its free memory and what it needs are known.
    pub fn fits(&self) -> bool {
        self.devices.iter().all(|device| device.short_by_bytes == 0)
    }
}
