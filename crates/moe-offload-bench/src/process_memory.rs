//! This process's own memory, as the system counts it.

use std::fs;

use serde::{Deserialize, Serialize};

/// The peaks of this process's resident memory, mapped files included. `None` where the system does
/// not tell (it is `VmHWM` of Linux).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessMemory {
    /// The greatest from the start of the process to the end of loading.
    pub load_peak_bytes: Option<u64>,
    /// The greatest from then on; `None` where the system's mark cannot be set back.
    pub answer_peak_bytes: Option<u64>,
}

/// The greatest resident memory since the start or since [`reset_peak`].
pub(super) fn peak_bytes() -> Option<u64> {
    parse_peak(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Sets the system's mark back to what is resident now; whether it could.
pub(super) fn reset_peak() -> bool {
    // 5 resets the peak of the resident set; see proc(5).
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let mut words = line.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then(|| number.checked_mul(1024)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_read() {
        assert_eq!(parse_peak("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS: 1 kB\n"), Some(2 << 20));
        for broken in ["", "VmHWM:", "VmHWM: much kB", "VmHWM: 18446744073709551615 kB"] {
            assert_eq!(parse_peak(broken), None, "{broken}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_bytes().unwrap() > 1 << 20);
    }
}
