//! Huge pages, handed out in pieces to the slices that are in memory.
//!
//! A disk writes into memory as it lies in the machine, not as a process sees it. A mebibyte of scattered pages
//! is 256 places to it, which halves the speed of some; of a huge page it is one. So slices get their memory
//! from huge pages, and keep it as neighbours wherever it is moved; see docs/paging.md.

use std::ops::Range;
use std::ptr;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Memory that was not handed out yet. What is left at the end goes back to the system.
#[derive(Debug)]
pub(super) struct Pool {
    base: usize,
    bytes: usize,
    /// What is next, and to where there is memory.
    next: usize,
    filled: usize,
}

impl Pool {
    /// Room for so many bytes, of which none has memory yet. `None` where the system has no addresses left: reads
    /// then bring in pages one by one.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        let bytes =
            bytes.checked_next_multiple_of(HUGE_PAGE_BYTES)?.checked_add(HUGE_PAGE_BYTES)?;
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
            return None;
        }
        let base = base as usize;
        let next = base.next_multiple_of(HUGE_PAGE_BYTES);
        let pool = Self { base, bytes, next, filled: next };
        pool.advise(&(base..base + bytes), libc::MADV_HUGEPAGE);
        Some(pool)
    }

    /// The next bytes, with memory in them, for [`Reserved::move_pages`](super::memory::Reserved::move_pages).
    pub(super) fn take(&mut self, bytes: usize) -> Option<Range<usize>> {
        let taken = self.next..self.next.checked_add(bytes)?;
        if taken.end > self.base + self.bytes {
            return None;
        }
        if taken.end > self.filled {
            let end = taken.end.next_multiple_of(HUGE_PAGE_BYTES).min(self.base + self.bytes);
            // An older system cannot (before Linux 5.14), and there may be no memory: reads bring it in, or fail.
            self.advise(&(self.filled..end), libc::MADV_POPULATE_WRITE);
            self.filled = end;
        }
        self.next = taken.end;
        // Where it goes, a page that was given back must not bring its neighbours when it is used again.
        self.advise(&taken, libc::MADV_NOHUGEPAGE);
        Some(taken)
    }

    fn advise(&self, range: &Range<usize>, advice: i32) {
        debug_assert!(range.start >= self.base && range.end <= self.base + self.bytes);
        // SAFETY: of the mapping made in `new`, whose bytes nobody uses before they are handed out.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), advice);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made in `new`; what was handed out was moved away and lives on.
        unsafe {
            libc::munmap(self.base as *mut libc::c_void, self.bytes);
        }
    }
}
