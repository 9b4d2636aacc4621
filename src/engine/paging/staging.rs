//! Memory in huge pages that the disk writes into, from where bytes are copied to their place.
//!
//! A disk writes into memory as it lies in the machine, not as a process sees it: a mebibyte of scattered pages
//! is 256 places to it, and one in a huge page. See docs/paging.md for what that is worth.

use std::ptr;

use super::reader::PIECE_BYTES;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Room for some pieces.
#[derive(Debug)]
pub(super) struct Staging {
    base: *mut libc::c_void,
    bytes: usize,
    first: *mut u8,
}

// SAFETY: plain memory, of which the one owner hands out parts.
unsafe impl Send for Staging {}

impl Staging {
    /// `None` if the system has no memory for it.
    pub(super) fn new(pieces: usize) -> Option<Self> {
        let room = (pieces * Self::piece()).next_multiple_of(HUGE_PAGE_BYTES);
        let bytes = room + HUGE_PAGE_BYTES;
        // SAFETY: a new mapping at an address of the system's choice; nobody else knows it.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return None;
        }
        let first = base.cast::<u8>().wrapping_add(base.align_offset(HUGE_PAGE_BYTES));
        // Where there are no huge pages, it is memory like any other.
        // SAFETY: a part of the mapping just made.
        unsafe { libc::madvise(first.cast(), room, libc::MADV_HUGEPAGE) };
        Some(Self { base, bytes, first })
    }

    fn piece() -> usize {
        usize::try_from(PIECE_BYTES).unwrap_or(0)
    }

    /// Where one of the pieces is read to.
    pub(super) fn at(&self, piece: usize) -> *mut u8 {
        self.first.wrapping_add(piece * Self::piece())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made in `new`; the reads into it have ended.
        unsafe { libc::munmap(self.base, self.bytes) };
    }
}
