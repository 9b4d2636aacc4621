//! Areas of memory with huge pages, locked or spread over NUMA nodes.

use std::io;
use std::ops::Range;
use std::ptr;

use libc::{c_long, c_ulong, c_void};

use crate::error::HostMemoryFault;

/// The size of a huge page on x86-64, and on ARM with small pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// How an area is to be. Huge pages are always asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Asking for huge pages must not fail.
    pub(super) needs_huge: bool,
    pub(super) lock: bool,
    /// NUMA nodes to spread it over; empty: as the system does.
    pub(super) nodes: Vec<u32>,
}

/// Zeroed memory for `bytes`, on whole huge pages.
pub(super) fn take(bytes: usize, wanted: &Wanted) -> Result<Range<usize>, HostMemoryFault> {
    let area = reserve(bytes)?;
    let held = hold(&area, bytes, wanted);
    if held.is_err() {
        // SAFETY: just made by `reserve`, and nobody knows it.
        unsafe { release(area.start, bytes) };
    }
    held.map(|()| area)
}

/// Gives an area back, and its lock with it.
///
/// # Safety
/// `base` and `bytes` must be of an earlier `take`, and nobody may use the area any more.
pub(super) unsafe fn release(base: usize, bytes: usize) {
    // SAFETY: by the caller's promise a whole mapping of this size.
    unsafe { libc::munmap(base as *mut c_void, whole_pages(bytes)) };
}

fn whole_pages(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(HUGE_PAGE_BYTES)
}

fn refused(action: &'static str, bytes: usize) -> HostMemoryFault {
    let reason = io::Error::last_os_error().to_string();
    HostMemoryFault::Refused { action, bytes: bytes as u64, reason }
}

/// Addresses that begin and end with a huge page.
fn reserve(bytes: usize) -> Result<Range<usize>, HostMemoryFault> {
    let length = whole_pages(bytes);
    // The system aligns to small pages; what is over on both sides is given back.
    let all = length.saturating_add(HUGE_PAGE_BYTES);
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the system's choice; nobody else knows it.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), all, access, kind, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return Err(refused("give", bytes));
    }
    let mapped = mapped as usize;
    let start = mapped.next_multiple_of(HUGE_PAGE_BYTES);
    let end = start + length;
    for rest in [mapped..start, end..mapped + all] {
        if !rest.is_empty() {
            // SAFETY: a part of the mapping just made, outside of what is kept; whole small pages.
            unsafe { libc::munmap(rest.start as *mut c_void, rest.len()) };
        }
    }
    Ok(start..end)
}

/// Says how the area is to be held, before any of it is there.
fn hold(area: &Range<usize>, bytes: usize, wanted: &Wanted) -> Result<(), HostMemoryFault> {
    let base = area.start as *mut c_void;
    // SAFETY: the whole of a mapping of ours.
    let advised = unsafe { libc::madvise(base, area.len(), libc::MADV_HUGEPAGE) == 0 };
    if wanted.needs_huge && !advised {
        return Err(refused("make huge pages of", bytes));
    }
    if !wanted.nodes.is_empty() {
        interleave(area, bytes, &wanted.nodes)?;
    }
    // This also brings it all into memory.
    // SAFETY: as above; it changes nothing that a program sees.
    if wanted.lock && unsafe { libc::mlock(base, bytes) } != 0 {
        let reason = io::Error::last_os_error().to_string();
        return Err(HostMemoryFault::LockRefused { bytes: bytes as u64, reason });
    }
    Ok(())
}

fn interleave(area: &Range<usize>, bytes: usize, nodes: &[u32]) -> Result<(), HostMemoryFault> {
    let mask = mask(nodes);
    // One more, as the system leaves out the last.
    let bits = mask.len() * c_ulong::BITS as usize + 1;
    // The call takes any number of arguments, each of which the system reads as a whole register: an `int` would
    // leave half of it to chance.
    let (mode, flags) = (c_long::from(libc::MPOL_INTERLEAVE), 0 as c_ulong);
    // SAFETY: the whole of a mapping of ours; the mask has as many bits as it says, but for the one that
    // the system does not read.
    let set = unsafe {
        let (base, length) = (area.start, area.len());
        libc::syscall(libc::SYS_mbind, base, length, mode, mask.as_ptr(), bits, flags)
    };
    if set == 0 { Ok(()) } else { Err(refused("spread over NUMA nodes", bytes)) }
}

/// A bit for each of these numbers.
fn mask(numbers: &[u32]) -> Vec<c_ulong> {
    let words = numbers.iter().max().map_or(0, |most| most / c_ulong::BITS + 1);
    let word = |i: u32| {
        let here = numbers.iter().filter(move |&&number| number / c_ulong::BITS == i);
        here.fold(0, |word, number| word | 1 << (number % c_ulong::BITS))
    };
    (0..words).map(word).collect()
}

/// `RLIMIT_MEMLOCK`; `None` without a limit.
pub(super) fn lock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

#[cfg(test)]
mod tests {
    use super::super::measured::{Measured, measure};
    use super::*;

    const BYTES: usize = (5 << 20) + 123;

    /// Writes to all of it, and says how the system holds it.
    fn filled(area: &Range<usize>) -> Measured {
        // SAFETY: an area of this length that only this test knows.
        unsafe { ptr::write_bytes(area.start as *mut u8, 7, area.len()) };
        measure(&std::fs::read_to_string("/proc/self/smaps").unwrap(), std::slice::from_ref(area))
    }

    #[test]
    fn areas_are_zeroed_whole_huge_pages_and_go_away() {
        let area = take(BYTES, &Wanted::default()).unwrap();
        assert_eq!((area.start % HUGE_PAGE_BYTES, area.len()), (0, 3 * HUGE_PAGE_BYTES));
        // SAFETY: the area is ours, readable and initialised to zeros by the system.
        let bytes = unsafe { std::slice::from_raw_parts(area.start as *const u8, area.len()) };
        assert!(bytes.iter().all(|&byte| byte == 0));
        let is_there = || {
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            maps.lines().any(|line| line.starts_with(&format!("{:x}-", area.start)))
        };
        assert!(is_there());
        // SAFETY: of the `take` above, and the slice is not used again.
        unsafe { release(area.start, BYTES) };
        assert!(!is_there());
    }

    #[test]
    fn areas_too_large_for_any_system_are_refused() {
        let fault = take(1 << 60, &Wanted::default()).unwrap_err();
        assert!(
            matches!(&fault, HostMemoryFault::Refused { bytes, reason, .. } if *bytes == 1 << 60 && !reason.is_empty()),
            "{fault}"
        );
    }

    /// Whether the system spreads, it is heard; one that cannot says so.
    #[test]
    fn the_system_is_told_to_spread_an_area() {
        let nodes = super::super::nodes();
        let wanted = Wanted { nodes: nodes.clone(), ..Wanted::default() };
        match take(BYTES, &wanted) {
            Ok(area) => {
                assert!(!nodes.is_empty());
                filled(&area);
                let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
                let start = format!("{:x} ", area.start);
                let line = maps.lines().find(|line| line.starts_with(&start)).unwrap();
                assert!(line.contains("interleave"), "{line}");
                // SAFETY: of the `take` above.
                unsafe { release(area.start, BYTES) };
            }
            Err(fault) => {
                let expected = HostMemoryFault::Refused {
                    action: "spread over NUMA nodes",
                    bytes: BYTES as u64,
                    reason: io::Error::from_raw_os_error(libc::ENOSYS).to_string(),
                };
                assert_eq!(fault, expected);
            }
        }
    }

    #[test]
    fn a_node_that_is_not_there_is_refused() {
        let fault = take(BYTES, &Wanted { nodes: vec![63], ..Wanted::default() }).unwrap_err();
        assert!(
            matches!(&fault, HostMemoryFault::Refused { action, .. } if action.contains("NUMA")),
            "{fault}"
        );
    }

    #[test]
    fn masks_have_a_bit_for_each_node() {
        assert_eq!(mask(&[]), [0; 0]);
        assert_eq!(mask(&[0, 2]), [0b101]);
        assert_eq!(mask(&[1, c_ulong::BITS]), [0b10, 1]);
    }
}
