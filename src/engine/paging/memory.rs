//! Addresses for paged tensors, whose pages come and go.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::paging::PAGE_BYTES;
use crate::units::human_bytes;

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
        // Nobody else knows where that is.
        let base = reserve(0, bytes).map_err(|source| Error::Paging {
            reason: format!(
                "the process may not have {} of addresses more ({source}); see `ulimit -v`",
                human_bytes(bytes as u64)
            ),
        })?;
        Ok(Self { base, bytes })
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

    /// Moves the memory of whole pages, all of one mapping, to other reserved addresses, which have none. What
    /// was there reads as zeros. False where the system cannot; both stay reserved.
    ///
    /// # Errors
    /// [`Error::Paging`] if the system then took the other addresses for something else.
    pub(super) fn move_pages(range: &Range<usize>, to: usize) -> Result<bool> {
        if range.is_empty() {
            return Ok(true);
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
        if moved != libc::MAP_FAILED {
            return Ok(true);
        }
        reserve_again(to, range.len()).map(|()| false)
    }
}

/// A move that failed may have unmapped where it should have gone.
fn reserve_again(base: usize, bytes: usize) -> Result<()> {
    match reserve(base, bytes) {
        Ok(again) if again == base => Ok(()),
        // In use, as they were never unmapped: the usual case, where a move is refused at once.
        Err(source) if source.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => {
            Err(Error::Paging { reason: format!("addresses of experts were lost: {other:?}") })
        }
    }
}

/// Reserves addresses from `base` on, or where the system chooses if that is 0; returns where.
fn reserve(base: usize, bytes: usize) -> std::io::Result<usize> {
    let place = if base == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
    // SAFETY: a new mapping, which takes nothing from anybody: addresses that are in use are refused.
    let mapped = unsafe {
        libc::mmap(
            base as *mut libc::c_void,
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | place,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // A huge page would bring its neighbours into memory. A forked process has no readers, and would make the
    // system copy each page that is read into. Where there is neither, this fails.
    // SAFETY: the whole of the mapping that was just made.
    unsafe {
        libc::madvise(mapped, bytes, libc::MADV_NOHUGEPAGE);
        libc::madvise(mapped, bytes, libc::MADV_DONTFORK);
    }
    Ok(mapped as usize)
}

/// Where mappings may end among reserved addresses: on both sides of what was moved. Before Linux 6.17 pages of
/// two mappings cannot be moved at once, and the attempt unmaps where they should have gone.
#[derive(Debug, Default)]
pub(super) struct Cuts(BTreeSet<usize>);

impl Cuts {
    /// A range by mapping.
    pub(super) fn parts(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let (mut parts, mut start) = (Vec::new(), range.start);
        for &cut in self.0.range(range.clone()).filter(|&&cut| cut > range.start) {
            parts.push(start..cut);
            start = cut;
        }
        parts.push(start..range.end);
        parts
    }

    /// Notes that this is a mapping of its own.
    pub(super) fn moved_to(&mut self, range: &Range<usize>) {
        while let Some(&cut) = self.0.range(range.clone()).next() {
            self.0.remove(&cut);
        }
        self.0.extend([range.start, range.end]);
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
    let bytes = rustix::param::page_size();
    if bytes as u64 == PAGE_BYTES {
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
    use std::ptr;

    use proptest::prelude::*;

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
        assert!(Reserved::move_pages(&from, to.start).unwrap());
        assert!(is_all(&to, 7));
        assert!(is_all(&from, 0));
        // And on, from what is now a mapping of its own.
        let next = pages(10, 5);
        assert!(Reserved::move_pages(&to, next.start).unwrap());
        assert!(is_all(&next, 7));
        reserved.release(&next);
        assert!(is_all(&next, 0));
        assert!(!may_move(usize::MAX));
    }

    /// The mappings of this process.
    fn mappings() -> Vec<Range<usize>> {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ends = |line: &str| {
            let (start, end) = line.split_once(' ')?.0.split_once('-')?;
            Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        };
        text.lines().filter_map(ends).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// As no kernel before 6.17 moves more at once.
        #[test]
        fn each_part_is_of_one_mapping(
            steps in prop::collection::vec((0_usize..6, 0_usize..6, 1_usize..8), 1..60),
        ) {
            let page = usize::try_from(PAGE_BYTES).unwrap();
            let reserved = Reserved::new(64 * page).unwrap();
            let mut cuts = Cuts::default();
            for (from, to, pages) in steps.into_iter().filter(|(from, to, _)| from != to) {
                let at = |slot: usize| reserved.base() + (1 + slot * 10) * page;
                let range = at(from)..at(from) + pages * page;
                fill(&range, u8::try_from(pages).unwrap());
                let parts = cuts.parts(&range);
                prop_assert_eq!(parts.iter().map(Range::len).sum::<usize>(), range.len());
                for part in parts {
                    let now = mappings();
                    let is_one = |all: &Range<usize>| all.start <= part.start && part.end <= all.end;
                    prop_assert!(now.iter().any(is_one), "{:x?} of {:x?}", part, now);
                    let new = at(to) + part.start - range.start;
                    prop_assert!(Reserved::move_pages(&part, new).unwrap());
                    cuts.moved_to(&(new..new + part.len()));
                }
                prop_assert!(is_all(&(at(to)..at(to) + range.len()), u8::try_from(pages).unwrap()));
            }
        }
    }

    #[test]
    fn what_a_failed_move_unmapped_is_reserved_again() {
        let page = usize::try_from(PAGE_BYTES).unwrap();
        let reserved = Reserved::new(8 * page).unwrap();
        let hole = reserved.base() + 2 * page..reserved.base() + 4 * page;
        reserve_again(hole.start, hole.len()).unwrap(); // nothing is missing
        // SAFETY: of a mapping that the test alone knows.
        unsafe { libc::munmap(hole.start as *mut libc::c_void, hole.len()) };
        reserve_again(hole.start, hole.len()).unwrap();
        fill(&hole, 3);
        assert!(is_all(&hole, 3));
    }
}
