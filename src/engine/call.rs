//! One call through the shim and what came of it.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::Path;

use super::{ffi, logs};
use crate::error::{Error, Result};

/// Why a call through the shim failed.
#[derive(Debug)]
pub(super) struct Failure {
    status: ffi::moe_status,
    /// An assertion failed in the backend of a device, not in the CPU's.
    of_device: bool,
    /// What the engine logged on this thread.
    logged: String,
    /// The exception's text, or else what the engine logged on this thread.
    pub(super) reason: String,
}

impl Failure {
    /// The build of the engine lacks what was asked for.
    pub(super) fn is_missing(&self) -> bool {
        self.status == ffi::MOE_MISSING
    }

    /// The engine threw, or an assertion failed, somewhere in the middle of its work.
    pub(super) fn is_exception(&self) -> bool {
        self.status == ffi::MOE_EXCEPTION
    }

    /// Likewise, but in a device's part, in which none of the engine's threads take part.
    pub(super) fn is_of_device(&self) -> bool {
        self.of_device
    }

    /// Whether a device had no memory left: the words of the drivers, which the backends log.
    pub(super) fn is_out_of_memory(&self) -> bool {
        says_out_of_memory(&self.reason) || says_out_of_memory(&self.logged)
    }

    /// What was computed is no number.
    pub(super) fn is_no_number(&self) -> bool {
        self.status == ffi::MOE_NO_NUMBER
    }

    pub(super) fn into_error(self, operation: &'static str) -> Error {
        if self.is_no_number() {
            return Error::NotANumber;
        }
        if self.status == ffi::MOE_EQUAL_SCORES {
            return Error::EqualScores;
        }
        Error::Engine { operation, reason: self.reason }
    }
}

/// Calls the shim; `call` hands the message's address on to it.
pub(super) fn guarded(
    call: impl FnOnce(*mut ffi::moe_message) -> ffi::moe_status,
) -> Result<(), Failure> {
    // Not zeroed: this runs several times per token.
    let mut message = MaybeUninit::<ffi::moe_message>::uninit();
    let (status, logged) = logs::capture(|| call(message.as_mut_ptr()));
    if status == ffi::MOE_OK {
        return Ok(());
    }
    // SAFETY: before anything else the shim writes an empty text, later perhaps a longer one, always
    // with its NUL inside the array; only what is before the NUL is read.
    let text = unsafe { CStr::from_ptr(message.as_ptr().cast()) }.to_string_lossy();
    let of_device = status == ffi::MOE_EXCEPTION && is_in_device_backend(&text);
    let reason = without_place(if text.is_empty() { &logged } else { &text });
    Err(Failure { status, of_device, logged, reason })
}

/// By the words of CUDA, HIP and SYCL, and of Vulkan.
fn says_out_of_memory(text: &str) -> bool {
    let plain = text.to_ascii_lowercase().replace(['_', '-'], " ");
    ["out of memory", "out of device memory", "outofdevicememory", "outofmemory"]
        .iter()
        .any(|words| plain.contains(words))
}

/// Whether an assertion's text begins with a source file of a backend that computes without the threads of
/// the CPU's: they lie in folders of their own, such as `ggml-cuda`.
fn is_in_device_backend(text: &str) -> bool {
    let place = text.split_once(": ").map_or("", |(place, _)| place);
    let Some((folders, _)) = place.rsplit_once(['/', '\\']) else { return false };
    folders.split(['/', '\\']).next_back().is_some_and(|folder| {
        folder.starts_with("ggml-") && !["ggml-cpu", "ggml-blas"].contains(&folder)
    })
}

/// A failed assertion's text without the path of the source file that stands before it.
fn without_place(text: &str) -> String {
    let is_place = |part: &str| {
        let (path, line) = part.rsplit_once(':').unwrap_or_default();
        let is_source = [".cpp", ".c", ".h", ".cu", ".m"].iter().any(|end| path.ends_with(end));
        is_source && !path.contains(' ') && line.parse::<u32>().is_ok()
    };
    let parts: Vec<&str> = text.trim().split(": ").filter(|part| !is_place(part)).collect();
    parts.join(": ")
}

/// Calls the shim for a table whose length only the engine knows. `fill` is given the rows, how many
/// there are, where to put how many there should be, and the message.
pub(super) fn table<T>(
    empty: impl Fn() -> T,
    fill: impl Fn(*mut T, usize, *mut usize, *mut ffi::moe_message) -> ffi::moe_status,
) -> Result<Vec<T>, Failure> {
    let mut rows: Vec<T> = Vec::new();
    loop {
        let mut count = 0;
        guarded(|message| fill(rows.as_mut_ptr(), rows.len(), &raw mut count, message))?;
        if count <= rows.len() {
            rows.truncate(count);
            return Ok(rows);
        }
        rows.resize_with(count, &empty);
    }
}

/// Builds a slice from a C pointer and a length; accepts null where the length is 0.
///
/// # Safety
/// `first` must point to `count` values that live and do not change during `'a`.
pub(super) unsafe fn slice_from_raw<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        return &[];
    }
    // SAFETY: by the caller's promise.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// The text as C wants it.
pub(super) fn c_string(what: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|error| Error::NulByte { what, position: error.nul_position() })
}

/// The path as the engine wants it.
#[cfg(unix)]
pub(super) fn path_string(path: &Path) -> Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes())
        .map_err(|error| Error::NulByte { what: "the path", position: error.nul_position() })
}

/// The path as the engine wants it.
#[cfg(not(unix))]
pub(super) fn path_string(path: &Path) -> Result<CString> {
    c_string("the path", &path.to_string_lossy())
}

/// A C string that lives as long as the process, copied.
///
/// # Safety
/// `text` must be null or point to a NUL-terminated string.
pub(super) unsafe fn copied(text: *const std::ffi::c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_s_backend_is_known_by_its_folder() {
        let cuda = "/home/me/llama.cpp/ggml/src/ggml-cuda/ggml-cuda.cu:103: CUDA error";
        assert!(is_in_device_backend(cuda));
        assert!(is_in_device_backend(r"C:\llama.cpp\ggml\src\ggml-vulkan\ggml-vulkan.cpp:7: lost"));
        for other in [
            "/llama.cpp/ggml/src/ggml-cpu/ops.cpp:12: GGML_ASSERT(a == b) failed",
            "/llama.cpp/ggml/src/ggml-backend.cpp:12: GGML_ASSERT(a == b) failed",
            "/llama.cpp/src/llama-graph.cpp:12: GGML_ASSERT(a == b) failed",
            "vector::at",
            "",
        ] {
            assert!(!is_in_device_backend(other), "{other}");
        }
    }

    #[test]
    fn no_memory_is_told_in_many_words() {
        for words in [
            "CUDA error: out of memory",
            "vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
            "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        ] {
            assert!(says_out_of_memory(words), "{words}");
        }
        assert!(!says_out_of_memory("CUDA error: an illegal memory access was encountered"));
    }

    #[test]
    fn nobody_is_told_where_the_engine_was_built() {
        for (told, left) in [
            ("/root/a-b/llama.cpp:7: GGML_ASSERT(x > 0) failed", "GGML_ASSERT(x > 0) failed"),
            (
                "error loading: C:\\x\\y.cpp:12: GGML_ASSERT(x) failed; again",
                "error loading: GGML_ASSERT(x) failed; again",
            ),
            ("lost: 10.0.0.2:50052: refused", "lost: 10.0.0.2:50052: refused"),
            ("key not found: llama.x", "key not found: llama.x"),
        ] {
            assert_eq!(without_place(told), left);
        }
    }
}
