//! In the place of `area` on systems that it was not written for: an error.

use std::ops::Range;

use crate::error::HostMemoryFault;

#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) needs_huge: bool,
    pub(super) lock: bool,
    pub(super) nodes: Vec<u32>,
}

pub(super) fn take(bytes: usize, wanted: &Wanted) -> Result<Range<usize>, HostMemoryFault> {
    let bytes = bytes as u64;
    let reason = "this needs Linux".to_owned();
    if wanted.lock {
        return Err(HostMemoryFault::LockRefused { bytes, reason });
    }
    let action = if wanted.needs_huge { "make huge pages of" } else { "spread over NUMA nodes" };
    Err(HostMemoryFault::Refused { action, bytes, reason })
}

/// # Safety
/// None: nothing was taken.
pub(super) unsafe fn release(_base: usize, _bytes: usize) {}

/// That of the system is not asked: nothing can be locked.
pub(super) fn lock_limit() -> Option<u64> {
    Some(0)
}
