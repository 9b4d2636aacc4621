//! For tests: a device that behaves as a card does, for which the CPU computes.

use super::call::guarded;
use super::{backend, ffi, locks};
use crate::error::{Error, Result};

/// A device for tests, `PLANTED0`, with memory of its own, of which it tells how much is free.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct PlantedDevice {
    /// All its memory in bytes.
    pub total_bytes: u64,
    /// The last row of a quantised tensor takes a whole number of so many elements; 0: what it has.
    pub row_padding_elements: u64,
    /// Bytes that it takes with the first graph, which the engine does not count.
    pub hidden_bytes: u64,
    /// Likewise for each of the most tokens that were computed at once.
    pub hidden_bytes_per_token: u64,
    /// Where there is no memory to compute, an assertion fails, as in the CUDA backend; else the
    /// computation fails.
    pub aborts: bool,
    /// It pins memory of the host, and computes large batches of what is there.
    pub offloads: bool,
}

impl PlantedDevice {
    /// Registers the device, or changes it.
    ///
    /// # Errors
    /// [`Error::Engine`] while anything is in use of it.
    pub fn plant(self) -> Result<()> {
        backend::init()?;
        let wanted = ffi::moe_planted_device {
            total_bytes: self.total_bytes,
            row_padding_elements: self.row_padding_elements,
            hidden_bytes: self.hidden_bytes,
            hidden_bytes_per_token: self.hidden_bytes_per_token,
            aborts: self.aborts,
            offloads: self.offloads,
        };
        let operation = "plant a device";
        let Some(_writing) = locks::write_registry() else {
            let reason = "it cannot be done from inside a load's callback".to_owned();
            return Err(Error::Engine { operation, reason });
        };
        let mut in_use = 0;
        // SAFETY: both live during the call, and nobody looks at the list of devices meanwhile.
        guarded(|message| unsafe {
            ffi::moe_plant_device(&raw const wanted, &raw mut in_use, message)
        })
        .map_err(|failure| Error::Engine {
            operation,
            reason: format!("{} ({in_use} bytes)", failure.reason),
        })
    }

    /// As another program: takes so many bytes of the device, or gives them back if negative.
    ///
    /// # Errors
    /// [`Error::Engine`] if there are none left.
    pub fn take_elsewhere(bytes: i64) -> Result<()> {
        // SAFETY: it only counts.
        guarded(|message| unsafe { ffi::moe_planted_take(bytes, message) })
            .map_err(|failure| failure.into_error("take memory of the planted device"))
    }

    /// Bytes of the host's memory that are pinned for it.
    #[cfg(test)]
    pub(crate) fn pinned_bytes() -> u64 {
        // SAFETY: reads a counter.
        unsafe { ffi::moe_planted_pinned() }
    }

    /// Multiplications with experts that it has computed.
    #[cfg(test)]
    pub(crate) fn expert_operations() -> u64 {
        // SAFETY: reads a counter.
        unsafe { ffi::moe_planted_computed() }
    }
}
