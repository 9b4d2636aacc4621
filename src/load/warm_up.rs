//! The warm-up of a load: what a device takes for computing is only known when it has computed.
//!
//! Kernels are loaded when they are first used, a library's workspace with them, and a pool grows with
//! the largest piece. So a micro-batch of the largest size and a single token are computed and forgotten,
//! and the device says how much it has left. Where that is too little, the load fails, and not the first
//! long prompt.

use super::trial;
use crate::device::{CPU, Device, DeviceKind, DeviceMemory};
use crate::engine::{self, Context};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::limits::{CancelHandle, Limits};
use crate::model::reservation;
use crate::plan::{DevicePlan, Plan};
use crate::policy::FitLimit;

/// What a device that ran out of memory lacked is not told. This is the largest piece of a size that is known:
/// cuBLAS's workspace (docs/engine.md).
const LEAST_SHORTAGE: u64 = 32 << 20;

/// A load itself takes some 3 to 13 MiB beyond the engine's account (docs/engine.md). Where much more is gone before
/// anything was computed, another program took it.
const MOST_AT_LOAD: u64 = 128 << 20;

/// What was there before a load, to be compared with what is left after it.
pub(crate) struct WarmUp {
    /// The devices before anything was allocated.
    before: Vec<Device>,
    rpc_servers: Vec<String>,
    cancel: Option<CancelHandle>,
    /// What this process had on its devices.
    changes: u64,
}

impl WarmUp {
    /// To be called with the load's memory reserved, and nothing allocated.
    pub(crate) fn before(rpc_servers: &[String], cancel: Option<&CancelHandle>) -> Result<Self> {
        let changes = reservation::changes();
        let before = engine::devices_with(rpc_servers, cancel)?;
        Ok(Self { before, rpc_servers: rpc_servers.to_vec(), cancel: cancel.cloned(), changes })
    }

    /// Notes by how much each device's free memory has fallen.
    pub(crate) fn note_free(&self, memory: &mut [DeviceMemory]) -> Result<()> {
        let after = self.devices()?;
        for row in memory {
            row.note_free(&self.before, &after);
        }
        Ok(())
    }

    fn devices(&self) -> Result<Vec<Device>> {
        engine::devices_with(&self.rpc_servers, self.cancel.as_ref())
    }

    /// Whether to compute before a model is handed out: as `wanted` says, or else under `fit`, if there is a
    /// device to learn something of. Experts on disk would all be read for it.
    pub(crate) fn is_due(&self, wanted: Option<bool>, plan: &Plan) -> bool {
        let under_fit = plan.policy().fit().is_some() && plan.disk().is_none();
        let tells = |device: &DevicePlan| self.device(&device.name).is_some();
        wanted.unwrap_or(under_fit) && used(plan).any(tells)
    }

    /// A card of this machine that told its free memory, which is its own: of what is shared with the CPU,
    /// other things take some too.
    fn device(&self, name: &str) -> Option<&Device> {
        let tells =
            |device: &&Device| device.kind == DeviceKind::Gpu && device.free_bytes.is_some();
        self.before.iter().filter(tells).find(|device| device.name == name)
    }

    /// Computes and forgets; notes what each device took beyond the engine's account.
    ///
    /// # Errors
    /// [`Error::NoRoomToCompute`], [`Error::Cancelled`], or what the engine reports.
    pub(crate) fn run(
        &self,
        gguf: &GgufFile,
        context: &mut Context,
        plan: &Plan,
        memory: &mut [DeviceMemory],
    ) -> Result<()> {
        context.watch(&Limits::of_load(self.cancel.as_ref()));
        let computed = compute(context, plan);
        context.watch(&Limits::default());
        match computed {
            Err(error) if context.ran_out_of_memory() => {
                let after = self.devices()?;
                return Err(self.out_of_memory(&error, plan, memory, &after).unwrap_or(error));
            }
            computed => computed?,
        }
        // What other loads of this process took meanwhile is not this one's. (This one's own reservation
        // has changed from pending to loaded.)
        if reservation::changes() != self.changes + 1 {
            return Ok(());
        }
        let after = self.devices()?;
        for row in memory.iter_mut() {
            row.note_overhead(self.taken_by(row, &after));
        }
        for planned in used(plan) {
            let growth = self.device(&planned.name).map_or(Ok(0), |device| {
                device.overhead.growth_bytes(gguf, plan.context(), context.micro_batch_tokens())
            })?;
            let row = memory.iter().find(|row| row.name == planned.name);
            if let Some(taken) = row.and_then(|row| self.taken_by(row, &after)) {
                check_limit(plan, planned, memory, taken.saturating_add(growth))?;
            }
        }
        Ok(())
    }

    /// By how much a device's free memory has fallen, if that is this load's doing.
    fn taken_by(&self, row: &DeviceMemory, after: &[Device]) -> Option<u64> {
        let at_load = row.free_fell_bytes.unwrap_or(0).saturating_sub(row.total_bytes());
        self.taken(&row.name, after).filter(|_| at_load <= MOST_AT_LOAD)
    }

    /// By how much a device's free memory has fallen.
    fn taken(&self, name: &str, after: &[Device]) -> Option<u64> {
        let after = after.iter().find(|device| device.name == name)?.free_bytes?;
        Some(self.device(name)?.free_bytes?.saturating_sub(after))
    }

    /// Of the devices that are used, the one with least left is taken to be the one that ran out.
    fn out_of_memory(
        &self,
        error: &Error,
        plan: &Plan,
        memory: &[DeviceMemory],
        after: &[Device],
    ) -> Option<Error> {
        let left = |name: &str| {
            after.iter().find(|device| device.name == name).and_then(|device| device.free_bytes)
        };
        let told = used(plan).filter(|planned| self.device(&planned.name).is_some());
        let planned = told.min_by_key(|planned| left(&planned.name).unwrap_or(u64::MAX))?;
        let limit = limit(plan, planned)?;
        let taken = self.taken(&planned.name, after)?.max(limit);
        let reason = match error {
            Error::Engine { reason, .. } => reason,
            _ => "",
        };
        Some(no_room(plan, planned, memory, limit, taken.saturating_add(LEAST_SHORTAGE), reason))
    }
}

/// Devices with something on them.
fn used(plan: &Plan) -> impl Iterator<Item = &DevicePlan> {
    plan.devices().iter().filter(|device| device.name != CPU && device.is_used())
}

/// Bytes of a device that may be used.
fn limit(plan: &Plan, planned: &DevicePlan) -> Option<u64> {
    let limit = plan.policy().fit().map_or(FitLimit::Free, |fit| fit.limit);
    limit.bytes(planned.free_bytes)
}

/// Whether what the device really took, and will when the context is full, is within what the policy allows.
fn check_limit(
    plan: &Plan,
    planned: &DevicePlan,
    memory: &[DeviceMemory],
    taken: u64,
) -> Result<()> {
    let limit = limit(plan, planned).unwrap_or(u64::MAX);
    if taken <= limit {
        return Ok(());
    }
    Err(no_room(plan, planned, memory, limit, taken, ""))
}

/// `taken` is what the device took, or needs at least.
fn no_room(
    plan: &Plan,
    planned: &DevicePlan,
    memory: &[DeviceMemory],
    limit_bytes: u64,
    taken: u64,
    reason: &str,
) -> Error {
    let row = memory.iter().find(|row| row.name == planned.name);
    let allocated_bytes = row.map_or(0, DeviceMemory::total_bytes);
    Error::NoRoomToCompute {
        device: planned.name.clone(),
        allocated_bytes,
        overhead_bytes: taken.saturating_sub(allocated_bytes),
        planned_overhead_bytes: planned.overhead_bytes,
        limit_bytes,
        policy: plan.policy().to_string(),
        reason: reason.to_owned(),
    }
}

/// The largest micro-batch, then one token more, then nothing is left of them.
fn compute(context: &mut Context, plan: &Plan) -> Result<()> {
    let room = plan.context_tokens();
    let tokens = trial::tokens(context, context.micro_batch_tokens().min(room));
    trial::compute(context, &tokens)?;
    if context.micro_batch_tokens() < room {
        trial::compute(context, &trial::tokens(context, 1))?;
    }
    context.truncate(0, None)?;
    if let Some(pager) = context.weights().pager() {
        pager.reset();
    }
    context.forget_expert_use();
    Ok(())
}
