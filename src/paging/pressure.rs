//! How much memory there is left, and what budget that allows.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Less than this free, and experts give way.
const LOW_BYTES: u64 = 192 << 20;
/// How often is looked.
const EVERY: Duration = Duration::from_millis(200);

/// Watches the memory that the system, or the process's control group, has left.
#[derive(Debug)]
pub(crate) struct Pressure {
    wanted_bytes: u64,
    looked: Instant,
    /// What tells how much is left.
    available_bytes: fn() -> Option<u64>,
}

impl Pressure {
    pub(crate) fn new(available_bytes: fn() -> Option<u64>) -> Self {
        Self { wanted_bytes: 0, looked: Instant::now(), available_bytes }
    }

    pub(crate) fn want(&mut self, bytes: u64) {
        self.wanted_bytes = bytes;
    }

    /// The budget where memory is not short.
    pub(crate) fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// Another budget than now, if it is time to look and memory says so.
    pub(crate) fn look(&mut self, now_bytes: u64, resident_bytes: u64) -> Option<u64> {
        if self.looked.elapsed() < EVERY {
            return None;
        }
        self.looked = Instant::now();
        let available = (self.available_bytes)()?;
        let budget = budget(self.wanted_bytes, now_bytes, resident_bytes, available);
        (budget != now_bytes).then_some(budget)
    }
}

/// Shrinks by what lacks, and grows again, up to what is wanted, by half of what is to spare.
fn budget(wanted: u64, now: u64, resident: u64, available: u64) -> u64 {
    if available < LOW_BYTES {
        return now.min(resident.saturating_sub(LOW_BYTES - available));
    }
    let spare = (available - LOW_BYTES) / 2;
    wanted.min(now.max(resident.saturating_add(spare)))
}

/// Bytes that can still be taken: of the system, and of every control group with a limit. `None` where
/// the system does not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    let system = system_bytes();
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().filter_map(group_bytes).chain(system).min()
}

fn system_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the group of a line of `/proc/self/cgroup` leaves, in version 1 or 2.
fn group_bytes(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (controllers, path) = (parts.nth(1)?, parts.next()?.trim_start_matches('/'));
    let (root, limit, usage, inactive) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "),
        "memory" => (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file ",
        ),
        _ => return None,
    };
    // In a container the path is that of the host, and its own group is the root.
    let folder: PathBuf = [Path::new(root).join(path), PathBuf::from(root)]
        .into_iter()
        .find(|folder| folder.join(limit).exists())?;
    let number =
        |file: &str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // Cached files give way.
    let cached = stat.lines().find_map(|line| line.strip_prefix(inactive)?.parse::<u64>().ok());
    Some(number(limit)?.saturating_sub(number(usage)?).saturating_add(cached.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn shrinks_by_what_lacks_and_grows_back() {
        assert_eq!(budget(1000 * MIB, 1000 * MIB, 900 * MIB, 4000 * MIB), 1000 * MIB);
        assert_eq!(budget(1000 * MIB, 1000 * MIB, 900 * MIB, 92 * MIB), 800 * MIB);
        assert_eq!(budget(1000 * MIB, 1000 * MIB, 50 * MIB, 0), 0);
        // 100 MiB to spare, so half of it more.
        assert_eq!(budget(1000 * MIB, 800 * MIB, 800 * MIB, LOW_BYTES + 100 * MIB), 850 * MIB);
        assert_eq!(budget(1000 * MIB, 800 * MIB, 100 * MIB, LOW_BYTES + 100 * MIB), 800 * MIB);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        assert!(available_bytes().is_some_and(|bytes| bytes > MIB));
    }
}
