//! The shim's device for tests; see `vendor/shim/test_device.cpp`.

use super::call::guarded;
use super::{backend, ffi, locks};
use crate::error::Result;

/// Adds it, with so many bytes of memory.
pub(crate) fn add(bytes: u64) -> Result<()> {
    backend::init()?;
    let _writing = locks::write_registry();
    // SAFETY: nobody looks at the list of devices meanwhile.
    guarded(|message| unsafe { ffi::moe_test_device(bytes, message) })
        .map_err(|failure| failure.into_error("add the device of the tests"))
}

/// Bytes of the host's memory that are pinned for it.
pub(crate) fn pinned() -> u64 {
    // SAFETY: reads a counter.
    unsafe { ffi::moe_test_device_pinned() }
}

/// Multiplications with experts that it has computed.
pub(crate) fn computed() -> u64 {
    // SAFETY: reads a counter.
    unsafe { ffi::moe_test_device_computed() }
}
