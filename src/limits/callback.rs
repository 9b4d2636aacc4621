//! Calls into the caller's own code.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Calls back. A panic there becomes an error, as it must not unwind through the engine, nor end
/// what else the model does.
pub(crate) fn call(callback: &'static str, call: impl FnOnce()) -> Result<()> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|panic| Error::CallbackPanicked { callback, message: message(panic.as_ref()) })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}
