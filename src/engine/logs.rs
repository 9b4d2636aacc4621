//! The engine's log: to `tracing`, and as the reason when a call fails.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ffi;

/// Lines of warnings and errors kept as the reason of a failure.
const KEPT_LINES: usize = 6;

thread_local! {
    /// What the engine complained about on this thread since the outermost capture began.
    static COMPLAINTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs `body` and returns what the engine complained about meanwhile, errors before warnings.
pub(super) fn capture<T>(body: impl FnOnce() -> T) -> (T, String) {
    COMPLAINTS.with_borrow_mut(Vec::clear);
    let value = body();
    let lines = COMPLAINTS.with_borrow_mut(std::mem::take);
    (value, lines.join("; "))
}

/// The engine's log callback; any thread, any time.
pub(super) extern "C" fn on_log(
    level: ffi::ggml_log_level,
    text: *const c_char,
    _user: *mut c_void,
) {
    if text.is_null() {
        return;
    }
    // SAFETY: the engine passes a NUL-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let line = text.trim_end();
    if line.is_empty() || line == "." {
        return;
    }
    // A subscriber of the host program may panic; nothing may unwind into C.
    let _ = catch_unwind(AssertUnwindSafe(|| emit(level, line)));
}

fn emit(level: ffi::ggml_log_level, line: &str) {
    match level {
        ffi::GGML_LOG_LEVEL_ERROR => {
            complain(line);
            tracing::error!(target: "llama.cpp", "{line}");
        }
        ffi::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{line}"),
        ffi::GGML_LOG_LEVEL_INFO => tracing::info!(target: "llama.cpp", "{line}"),
        _ => tracing::debug!(target: "llama.cpp", "{line}"),
    }
}

fn complain(line: &str) {
    // Not available while the thread is being torn down.
    let _ = COMPLAINTS.try_with(|complaints| {
        let mut complaints = complaints.borrow_mut();
        if complaints.len() < KEPT_LINES {
            complaints.push(line.to_owned());
        }
    });
}
