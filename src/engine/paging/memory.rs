//! Addresses for paged tensors, whose pages come and go.

use std::ops::Range;
use std::ptr;

use crate::error::{Error, Result};

/// Reserved addresses: memory is only taken for pages that were written, and is given back page by page.
#[derive(Debug)]
pub(super) struct Reserved {
    base: usize,
    bytes: usize,
}

impl Reserved {
    /// Reserves addresses.
    ///
    /// # Errors
    /// [`Error::Paging`] if the system has not so many left.
    pub(super) fn new(bytes: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address of the system's choice; nobody else knows it.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let source = std::io::Error::last_os_error();
            return Err(Error::Paging {
                reason: format!("no room for {bytes} bytes of addresses: {source}"),
            });
        }
        Ok(Self { base: base as usize, bytes })
    }

    pub(super) fn base(&self) -> usize {
        self.base
    }

    pub(super) fn contains(&self, range: &Range<usize>) -> bool {
        range.start >= self.base && range.end <= self.base + self.bytes
    }

    /// Gives the memory of whole pages back; they read as zeros until they are written again.
    pub(super) fn release(&self, range: &Range<usize>) {
        debug_assert!(self.contains(range));
        if range.is_empty() || !self.contains(range) {
            return;
        }
        // SAFETY: the pages are of this mapping, and the caller has seen to it that nobody uses them.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made in `new` and unmapped only here; the engine is told to free
        // its tensors before.
        unsafe {
            libc::munmap(self.base as *mut libc::c_void, self.bytes);
        }
    }
}
