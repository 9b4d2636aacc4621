//! The engine's process-wide state.

use once_cell::sync::OnceCell;

use super::call::{c_string, guarded};
use super::{ffi, logs};
use crate::error::Result;

static READY: OnceCell<()> = OnceCell::new();

/// Makes the engine ready: backends, log, assertions. Cheap after the first time.
pub(super) fn init() -> Result<()> {
    READY
        .get_or_try_init(|| {
            let folder = ffi::BACKENDS_DIR.map(|folder| c_string("the backends' folder", folder));
            let folder = folder.transpose()?;
            let folder = folder.as_ref().map_or(std::ptr::null(), |folder| folder.as_ptr());
            // SAFETY: `on_log` is a plain function without state, callable from every thread for
            // ever; the folder's string lives during the call.
            guarded(|message| unsafe { ffi::moe_init(Some(logs::on_log), folder, message) })
                .map_err(|failure| failure.into_error("start"))
        })
        .copied()
}
