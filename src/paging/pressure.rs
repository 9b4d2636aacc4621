//! How much memory there is left, and what budget that allows.

use std::path::Path;
use std::time::{Duration, Instant};

/// Less than this free, and experts give way.
const LOW_BYTES: u64 = 192 << 20;
/// Watches the memory that the system, or the process's control group, has left.
#[derive(Debug)]
pub(crate) struct Pressure {
    wanted_bytes: u64,
    looked: Instant,
    /// What tells how much is left.
    available_bytes: fn() -> Option<u64>,
}

impl Pressure {
    /// How often to look while text is made.
    pub(crate) const EVERY: Duration = Duration::from_millis(200);

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

    /// Another budget than now, if the last look was so long ago and memory says so.
    pub(crate) fn look(
        &mut self,
        every: Duration,
        now_bytes: u64,
        resident_bytes: u64,
    ) -> Option<u64> {
        if self.looked.elapsed() < every {
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

/// Bytes that can still be taken: of the system, and of every control group with a limit that the process is
/// in, its parents included. `None` where the system does not tell.
pub(crate) fn available_bytes() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().filter_map(|line| group_bytes(line, Path::new("/sys/fs/cgroup")));
    groups.chain(system_bytes()).min()
}

fn system_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the group of a line of `/proc/self/cgroup` and those above it leave, in version 1 or 2.
fn group_bytes(line: &str, mounted: &Path) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (controllers, path) = (parts.nth(1)?, parts.next()?.trim_start_matches('/'));
    let (root, names) = match controllers {
        "" => (mounted.to_owned(), &VERSION_2),
        "memory" => (mounted.join("memory"), &VERSION_1),
        _ => return None,
    };
    // In a container the path is that of the host, and its own group is the root.
    let folder = root.join(path);
    let folder = if folder.is_dir() { folder } else { root.clone() };
    let folders = folder.ancestors().take_while(|folder| folder.starts_with(&root));
    folders.filter_map(|folder| folder_bytes(folder, names)).min()
}

/// The files of a control group.
struct Names {
    limits: &'static [&'static str],
    usage: &'static str,
    /// What is cached of files, in `memory.stat`.
    cached: [&'static str; 2],
}

/// Over `memory.high` a group is slowed down to a halt.
const VERSION_2: Names = Names {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    cached: ["inactive_file ", "active_file "],
};
const VERSION_1: Names = Names {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    cached: ["total_inactive_file ", "total_active_file "],
};

/// What one group leaves; `None` if it has no limit.
fn folder_bytes(folder: &Path, names: &Names) -> Option<u64> {
    let number =
        |file: &&str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = names.limits.iter().filter_map(number).min()?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // Cached files give way, also those that were read more than once, as in the system's `MemAvailable`.
    let bytes = |line: &str, name: &str| line.strip_prefix(name)?.parse::<u64>().ok();
    let of_files = |line: &str| names.cached.iter().find_map(|name| bytes(line, name));
    let cached: u64 = stat.lines().filter_map(of_files).sum();
    Some(limit.saturating_sub(number(&names.usage)?).saturating_add(cached))
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
    fn the_least_of_all_groups_above_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = scratch.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let left = |line: &str| group_bytes(line, scratch.path());
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "10\n");
        assert_eq!(left("0::/a/b"), None, "nobody limits it");
        write("a/memory.max", "1000\n");
        write("a/memory.current", "300\n");
        write("a/memory.stat", "anon 7\ninactive_file 50\nactive_file 9\n");
        assert_eq!(left("0::/a/b"), Some(759), "the group above does");
        write("a/b/memory.high", "400\n");
        assert_eq!(left("0::/a/b"), Some(390));
        write("memory.max", "100\n");
        write("memory.current", "90\n");
        assert_eq!(left("0::/of/the/host"), Some(10), "in a container");
        write("memory/c/memory.limit_in_bytes", "500\n");
        write("memory/c/memory.usage_in_bytes", "200\n");
        assert_eq!(left("4:memory:/c"), Some(300));
        assert_eq!(left("5:cpu:/c"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        assert!(available_bytes().is_some_and(|bytes| bytes > MIB));
    }
}
