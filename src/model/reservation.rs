//! Which memory this process's models hold or are about to, of devices and of the CPU.
//!
//! Between a look at the free memory and the allocation another load may take it. So each load
//! first reserves what its plan needs, and gives it back when the model goes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::device::{CPU, Device};
use crate::error::{Error, Result};
use crate::plan::{DevicePlan, Plan};

/// Bytes by device.
static LEDGER: Mutex<BTreeMap<String, Held>> = Mutex::new(BTreeMap::new());

/// How often anything in it changed.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// How often a model of this process reserved memory, allocated or gave back what it had reserved.
pub(crate) fn changes() -> u64 {
    CHANGES.load(Ordering::SeqCst)
}

#[derive(Clone, Copy, Default)]
struct Held {
    /// Of loaded models; the device's free memory shows it, unless it always reports all of it.
    live: u64,
    /// Of loads under way; the device may not know it yet.
    pending: u64,
}

/// Memory that one model holds. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    devices: Vec<(String, u64)>,
    loaded: bool,
}

impl Reservation {
    /// Reserves what the plan needs, or says which device lacks how much. `cpu` has the CPU's memory.
    pub(crate) fn new(plan: &Plan, devices: &[Device], cpu: &Device) -> Result<Self> {
        Self::of(plan, devices, cpu, DevicePlan::load_bytes)
    }

    /// Reserves what one more context over the same weights needs.
    pub(crate) fn of_context(plan: &Plan, devices: &[Device], cpu: &Device) -> Result<Self> {
        Self::of(plan, devices, cpu, |device| {
            let known = [device.context_bytes, device.compute_bytes, Some(device.overhead_bytes)];
            known.into_iter().flatten().fold(0, u64::saturating_add)
        })
    }

    fn of(
        plan: &Plan,
        devices: &[Device],
        cpu: &Device,
        bytes: impl Fn(&DevicePlan) -> u64,
    ) -> Result<Self> {
        let mut ledger = lock();
        CHANGES.fetch_add(1, Ordering::SeqCst);
        let needs: Vec<(String, u64)> =
            plan.devices().iter().map(|device| (device.name.clone(), bytes(device))).collect();
        for (name, needed_bytes) in &needs {
            let device = devices.iter().chain([cpu]).find(|device| device.name == *name);
            let available = device.and_then(|device| available(&ledger, device));
            // More than the ledger can count is nowhere.
            let held = ledger.get(name).copied().unwrap_or_default();
            let countable = u64::MAX - held.live.saturating_add(held.pending);
            let available = available.unwrap_or(countable).min(countable);
            if *needed_bytes > available {
                let (device, needed_bytes) = (name.clone(), *needed_bytes);
                return Err(Error::DoesNotFit {
                    device,
                    needed_bytes,
                    free_bytes: available,
                    compute_bytes: plan.device(name).map_or(0, DevicePlan::buffer_bytes),
                    policy: plan.policy().to_string(),
                });
            }
        }
        for (name, bytes) in &needs {
            ledger.entry(name.clone()).or_default().pending += bytes;
        }
        Ok(Self { devices: needs, loaded: false })
    }

    /// The memory is allocated now.
    pub(crate) fn loaded(&mut self) {
        let mut ledger = lock();
        CHANGES.fetch_add(1, Ordering::SeqCst);
        for (name, bytes) in &self.devices {
            let held = ledger.entry(name.clone()).or_default();
            held.pending -= bytes;
            held.live += bytes;
        }
        self.loaded = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut ledger = lock();
        CHANGES.fetch_add(1, Ordering::SeqCst);
        for (name, bytes) in &self.devices {
            let held = ledger.entry(name.clone()).or_default();
            let kind = if self.loaded { &mut held.live } else { &mut held.pending };
            *kind -= bytes;
        }
    }
}

/// Refuses a plan whose cache alone, with what is noted about it, needs more of the CPU's memory than
/// there is. How weights will be held is not known before a dry run.
pub(crate) fn check_cache(plan: &Plan, cpu: &Device, notes_bytes: u64) -> Result<()> {
    let cache = plan.device(CPU).and_then(|cpu| cpu.context_bytes).unwrap_or(0);
    let needed_bytes = cache.saturating_add(notes_bytes);
    match available(&lock(), cpu).filter(|&free| needed_bytes > free) {
        Some(free_bytes) => {
            let (device, policy) = (CPU.to_owned(), plan.policy().to_string());
            Err(Error::DoesNotFit { device, needed_bytes, free_bytes, compute_bytes: 0, policy })
        }
        None => Ok(()),
    }
}

/// The same devices with the memory that is really free for a new model.
pub(crate) fn with_available(mut devices: Vec<Device>) -> Vec<Device> {
    let ledger = lock();
    for device in &mut devices {
        device.free_bytes = available(&ledger, device);
    }
    devices
}

/// Some devices report all their memory as free, whatever is in use; then the ledger knows better.
fn available(ledger: &BTreeMap<String, Held>, device: &Device) -> Option<u64> {
    let held = ledger.get(&device.name).copied().unwrap_or_default();
    // A load under way shows in the system's account, in part: taken off twice, it would refuse
    // another one that fits.
    let unseen = if device.name == CPU { 0 } else { held.pending };
    let by_device = device.free_bytes?.saturating_sub(unseen);
    let by_ledger = device.total_bytes.map(|total| total.saturating_sub(held.live + held.pending));
    Some(by_ledger.map_or(by_device, |bytes| bytes.min(by_device)))
}

fn lock() -> MutexGuard<'static, BTreeMap<String, Held>> {
    // Every change is a plain sum: a panic elsewhere leaves nothing half-done.
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}
