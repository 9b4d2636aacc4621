//! How memory is really held, by the system's own account (`/proc/self/smaps`).

use std::ops::Range;

/// Bytes of some areas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) huge_bytes: u64,
    pub(super) locked_bytes: u64,
}

/// Adds up what the account says of mappings that overlap these areas, each once: the system may join
/// neighbours.
pub(super) fn measure(smaps: &str, areas: &[Range<usize>]) -> Measured {
    let mut measured = Measured::default();
    let mut is_ours = false;
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            is_ours = areas.iter().any(|a| a.start < mapping.end && mapping.start < a.end);
        } else if is_ours {
            let bytes = |name: &str| {
                let kib = line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim();
                kib.parse::<u64>().ok()?.checked_mul(1024)
            };
            measured.huge_bytes += bytes("AnonHugePages:").unwrap_or(0);
            measured.locked_bytes += bytes("Locked:").unwrap_or(0);
        }
    }
    measured
}

/// The addresses in a line that begins a mapping's account.
fn mapping(line: &str) -> Option<Range<usize>> {
    let (first, last) = line.split_once(' ')?.0.split_once('-')?;
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    Some(number(first)?..number(last)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 
Size:                  8 kB
AnonHugePages:      4096 kB
Locked:               12 kB
VmFlags: rd wr mr
3000-4000 r--p 00000000 fe:00 77   /lib/AnonHugePages: 9 kB
AnonHugePages:      2048 kB
Locked:                0 kB
5000-6000 rw-p 00000000 00:00 0 
AnonHugePages:         2 kB
";

    #[test]
    fn mappings_that_overlap_count_once() {
        let of = |areas: &[Range<usize>]| measure(SMAPS, areas);
        let first = Measured { huge_bytes: 4096 << 10, locked_bytes: 12 << 10 };
        assert_eq!(of(&[0x1000..0x2000, 0x2000..0x3000]), first);
        assert_eq!(of(&[0x5fff..0x7000]), Measured { huge_bytes: 2048, locked_bytes: 0 });
        assert_eq!(of(&[0x4000..0x5000]), Measured::default());
        assert_eq!(of(&[]), Measured::default());
    }
}
