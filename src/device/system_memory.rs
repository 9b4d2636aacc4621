//! What the system tells of memory: how much can still be taken, and how much this process holds.

use std::path::Path;

/// Bytes of CPU memory that can still be taken without swapping: of the system, and of every control
/// group with a limit that the process is in, its parents included. `None` where the system does not
/// tell, which only Linux does.
#[cfg(feature = "llama")]
pub(crate) fn available_bytes() -> Option<u64> {
    least_of_all(0, meminfo("MemAvailable:"))
}

/// Bytes of CPU memory that can still be allocated: memory and swap, of the system and of every control
/// group with a limit that the process is in. `None` where the system does not tell, which only Linux
/// does.
///
/// ```
/// if let Some(bytes) = moe_offload::memory::allocatable_bytes() {
///     assert!(bytes > 0);
/// }
/// ```
pub fn allocatable_bytes() -> Option<u64> {
    let swap = meminfo("SwapFree:").unwrap_or(0);
    least_of_all(swap, meminfo("MemAvailable:").map(|bytes| bytes.saturating_add(swap)))
}

/// Memory that this process holds and that no file backs; `None` where the system does not tell.
#[cfg(feature = "llama")]
pub(crate) fn anonymous_bytes() -> Option<u64> {
    bytes_in("/proc/self/status", "RssAnon:")
}

fn meminfo(name: &str) -> Option<u64> {
    bytes_in("/proc/meminfo", name)
}

/// A line such as `MemAvailable:   1024 kB`.
fn bytes_in(path: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the system and all groups leave, if so much of it may be swap.
fn least_of_all(swap: u64, system: Option<u64>) -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounted = Path::new("/sys/fs/cgroup");
    let groups = groups.lines().filter_map(|line| group_bytes(line, mounted, swap));
    groups.chain(system).min()
}

/// What the group of a line of `/proc/self/cgroup` and those above it leave, in version 1 or 2.
fn group_bytes(line: &str, mounted: &Path, swap: u64) -> Option<u64> {
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
    folders.filter_map(|folder| folder_bytes(folder, names, swap)).min()
}

/// The files of a control group.
struct Names {
    limits: &'static [&'static str],
    usage: &'static str,
    /// What is cached of files, in `memory.stat`.
    cached: [&'static str; 2],
    /// The limit of swap and its use.
    swap: [&'static str; 2],
    /// Whether that is a limit of memory and swap together.
    swap_counts_memory: bool,
}

/// Over `memory.high` a group is slowed down to a halt.
const VERSION_2: Names = Names {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    cached: ["inactive_file ", "active_file "],
    swap: ["memory.swap.max", "memory.swap.current"],
    swap_counts_memory: false,
};
const VERSION_1: Names = Names {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    cached: ["total_inactive_file ", "total_active_file "],
    swap: ["memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"],
    swap_counts_memory: true,
};

/// What one group leaves, with at most so much of swap; `None` if it has no limit.
fn folder_bytes(folder: &Path, names: &Names, swap: u64) -> Option<u64> {
    let number =
        |file: &&str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = names.limits.iter().filter_map(number).min()?;
    let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    // Cached files give way, also those that were read more than once, as in the system's `MemAvailable`.
    let bytes = |line: &str, name: &str| line.strip_prefix(name)?.parse::<u64>().ok();
    let of_files = |line: &str| names.cached.iter().find_map(|name| bytes(line, name));
    let cached: u64 = stat.lines().filter_map(of_files).sum();
    let left = limit.saturating_sub(number(&names.usage)?).saturating_add(cached);
    let [limit, usage] = names.swap.map(|file| number(&file));
    // A group without a limit of its own may swap as much as there is.
    let of_swap = limit.map(|limit| limit.saturating_sub(usage.unwrap_or(0)));
    Some(match of_swap {
        Some(both) if names.swap_counts_memory => {
            left.saturating_add(swap).min(both.saturating_add(cached)).max(left)
        }
        of_swap => left.saturating_add(of_swap.map_or(swap, |bytes| bytes.min(swap))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(mounted: &Path, path: &str, text: &str) {
        let path = mounted.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_of_all_groups_above_counts() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| write(scratch.path(), path, text);
        let left = |line: &str| group_bytes(line, scratch.path(), 0);
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
    fn swap_counts_as_far_as_the_group_may_have_it() {
        let scratch = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| write(scratch.path(), path, text);
        let left = |line: &str| group_bytes(line, scratch.path(), 70);
        write("a/memory.max", "1000\n");
        write("a/memory.current", "300\n");
        assert_eq!(left("0::/a"), Some(770), "as much as there is");
        write("a/memory.swap.max", "max\n");
        assert_eq!(left("0::/a"), Some(770));
        write("a/memory.swap.max", "50\n");
        write("a/memory.swap.current", "20\n");
        assert_eq!(left("0::/a"), Some(730));
        write("memory/c/memory.limit_in_bytes", "500\n");
        write("memory/c/memory.usage_in_bytes", "200\n");
        assert_eq!(left("4:memory:/c"), Some(370), "no account of swap");
        write("memory/c/memory.memsw.limit_in_bytes", "560\n");
        write("memory/c/memory.memsw.usage_in_bytes", "200\n");
        assert_eq!(left("4:memory:/c"), Some(360), "memory and swap together");
        write("memory/c/memory.memsw.limit_in_bytes", "500\n");
        assert_eq!(left("4:memory:/c"), Some(300), "no swap at all");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_tells() {
        assert!(allocatable_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
