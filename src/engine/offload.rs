//! From how many tokens on a thread's work has experts in CPU memory computed on a device.

use super::ffi;

/// Says it for the engine's work on this thread, until it is dropped; then what was said before counts again, as a
/// callback of a computation may use another context.
#[must_use]
pub(super) struct OffloadFrom {
    before: u32,
}

impl OffloadFrom {
    /// `None` leaves it to the engine.
    pub(super) fn tokens(tokens: Option<u32>) -> Self {
        // SAFETY: sets a number of this thread's.
        Self { before: unsafe { ffi::moe_experts_offloaded_from(tokens.unwrap_or(0)) } }
    }
}

impl Drop for OffloadFrom {
    fn drop(&mut self) {
        // SAFETY: as above; it is dropped on the thread that made it, as it is never stored.
        unsafe { ffi::moe_experts_offloaded_from(self.before) };
    }
}
