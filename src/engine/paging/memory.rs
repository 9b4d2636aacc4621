//! Addresses for paged tensors, whose pages come and go.

use std::ops::Range;
use std::ptr;

use crate::error::{Error, Result};
use crate::paging::PAGE_BYTES;

/// Reserved addresses: memory is only taken for pages that were written, and is given back page by page.
#[derive(Debug)]
pub(super) struct Reserved {
    base: usize,
    bytes: usize,
}

impl Reserved {
    /// So many bytes of addresses, none of which has memory yet.
    ///
    /// # Errors
    /// [`Error::Paging`] if the system has not so many addresses left.
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
            let reason = format!("no room for {bytes} bytes of addresses: {source}");
            return Err(Error::Paging { reason });
        }
        // A huge page would bring its neighbours into memory. Where there are none, this fails.
        // SAFETY: the whole of the mapping just made.
        unsafe {
            libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE);
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
        let failed = unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) != 0
        };
        if failed {
            let error = std::io::Error::last_os_error();
            tracing::warn!(target: "moe_offload", "memory could not be given back: {error}");
        }
    }

    /// Moves the memory of whole pages to other reserved addresses, which have none. What was there reads as
    /// zeros. False where the system cannot.
    pub(super) fn move_pages(range: &Range<usize>, to: usize) -> bool {
        if range.is_empty() {
            return true;
        }
        // SAFETY: the caller has checked that both are of mappings made in `new`, and has seen to it that
        // nobody uses the pages or writes into them; the old addresses stay reserved.
        let moved = unsafe {
            libc::mremap(
                range.start as *mut libc::c_void,
                range.len(),
                range.len(),
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
                to as *mut libc::c_void,
            )
        };
        moved != libc::MAP_FAILED
    }
}

/// Whether pages of so many slices may be moved: each move may leave a mapping of its own, and the system
/// counts them. Half of them are for the rest of the process.
pub(super) fn may_move(slices: usize) -> bool {
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let most = most.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(0);
    slices.saturating_mul(2) < most / 2
}

/// What is given back must be whole pages of the system.
pub(super) fn check_page_size() -> Result<()> {
    // SAFETY: a plain question.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    if u64::try_from(bytes) == Ok(PAGE_BYTES) {
        return Ok(());
    }
    let reason =
        format!("this system's pages have {bytes} bytes, not 4096; keep the experts in memory");
    Err(Error::Paging { reason })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(range: &Range<usize>, byte: u8) {
        // SAFETY: of a mapping that the test alone knows.
        unsafe { ptr::write_bytes(range.start as *mut u8, byte, range.len()) };
    }

    fn is_all(range: &Range<usize>, byte: u8) -> bool {
        // SAFETY: as above; nobody writes meanwhile.
        let bytes = unsafe { std::slice::from_raw_parts(range.start as *const u8, range.len()) };
        bytes.iter().all(|&other| other == byte)
    }

    #[test]
    fn moved_pages_keep_their_bytes_and_leave_zeros() {
        let page = usize::try_from(PAGE_BYTES).unwrap();
        let reserved = Reserved::new(64 * page).unwrap();
        let pages = |first: usize, count: usize| {
            let start = reserved.base() + first * page;
            start..start + count * page
        };
        let (from, to) = (pages(3, 5), pages(40, 5));
        fill(&from, 7);
        fill(&to, 1);
        assert!(Reserved::move_pages(&from, to.start));
        assert!(is_all(&to, 7));
        assert!(is_all(&from, 0));
        // And on, from what is now a mapping of its own.
        let next = pages(10, 5);
        assert!(Reserved::move_pages(&to, next.start));
        assert!(is_all(&next, 7));
        reserved.release(&next);
        assert!(is_all(&next, 0));
        assert!(!may_move(usize::MAX));
    }
}
