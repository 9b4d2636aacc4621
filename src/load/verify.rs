//! What the engine made of a plan, compared with the plan.

use std::collections::HashMap;

use crate::device::DeviceMemory;
use crate::engine::Weights;
use crate::error::{Error, Result};
use crate::plan::{self, Plan};
use crate::policy::FitLimit;

/// With several devices the engine's dry run can be a little off, so what it took is compared with
/// what it may take.
pub(crate) fn check_limits(plan: &Plan, memory: &[DeviceMemory]) -> Result<()> {
    for planned in plan.devices().iter().filter(|device| device.name != plan::CPU) {
        let measured = memory.iter().find(|memory| memory.name == planned.name);
        let allocated = measured.map_or(0, DeviceMemory::total_bytes);
        let needed_bytes = allocated.saturating_add(planned.overhead_bytes);
        let limit = plan.policy().fit().map_or(FitLimit::Free, |fit| fit.limit);
        if let Some(free_bytes) = limit.bytes(planned.free_bytes).filter(|&n| needed_bytes > n) {
            let (device, policy) = (planned.name.clone(), plan.policy().to_string());
            let compute_bytes = measured.map_or(0, |memory| memory.compute_bytes);
            return Err(Error::DoesNotFit {
                device,
                needed_bytes,
                free_bytes,
                compute_bytes,
                policy,
            });
        }
    }
    Ok(())
}

/// Every tensor that the engine holds must be where the plan puts it, or a copy that it foresees.
pub(crate) fn check(weights: &Weights, plan: &Plan) -> Result<()> {
    let placed = plan.tensors().iter().map(|p| (p.tensor.name.as_str(), p.device.as_str()));
    let planned: HashMap<&str, &str> = placed.collect();
    for (name, _, actual) in weights.tensors()? {
        let Some(&planned) = planned.get(name.as_str()) else {
            continue; // made by the engine, not from the file
        };
        let is_copy =
            || plan.copies().iter().any(|copy| copy.name == name && copy.device == actual);
        if actual != planned && !is_copy() {
            return Err(Error::PlanBroken { tensor: name, planned: planned.to_owned(), actual });
        }
    }
    Ok(())
}
