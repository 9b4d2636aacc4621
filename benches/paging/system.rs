//! Control groups, read-ahead and caches of Linux; all need root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A control group with a memory limit, removed at the end.
pub struct Group {
    folder: PathBuf,
}

impl Group {
    pub fn new(limit_bytes: u64) -> Self {
        let (root, limit) = if Path::new("/sys/fs/cgroup/memory").exists() {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            ("/sys/fs/cgroup", "memory.max")
        };
        let folder = Path::new(root).join(format!("moe-offload-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("root, and control groups for memory");
        fs::write(folder.join(limit), limit_bytes.to_string()).expect("the limit is taken");
        Self { folder }
    }

    /// What a process writes its number to.
    pub fn members(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The read-ahead of the disk that a file is on.
pub struct ReadAhead {
    setting: PathBuf,
    before: String,
}

impl ReadAhead {
    pub fn of(file: &str) -> Self {
        let device = fs::metadata(file).expect("the model is there").dev();
        // As glibc's makedev has it, for numbers below 4096 and 256.
        let (major, minor) = ((device >> 8) & 0xfff, device & 0xff);
        let folder = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).expect("a disk");
        let whole = |folder: &Path| folder.join("queue/read_ahead_kb");
        let part_of = folder.parent().map(whole).filter(|setting| setting.exists());
        let setting =
            if whole(&folder).exists() { whole(&folder) } else { part_of.expect("a disk") };
        let before = fs::read_to_string(&setting).expect("readable");
        Self { setting, before }
    }

    pub fn set(&self, kib: u64) {
        fs::write(&self.setting, kib.to_string()).expect("root");
    }

    pub fn restore(&self) {
        fs::write(&self.setting, &self.before).expect("root");
    }
}

/// Empties the system's cache of files. What is still to be written would stay, and would be no memory of the
/// group's: a file that was just made, say.
pub fn drop_caches() {
    let synced = std::process::Command::new("sync").status().expect("coreutils");
    assert!(synced.success(), "sync");
    fs::write("/proc/sys/vm/drop_caches", "3").expect("root");
}

/// A figure in bytes of `/proc/self/status`.
pub fn status_bytes(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("known");
    line.trim_matches([':', ' ', '\t', 'k', 'B']).parse::<f64>().expect("a number") * 1024.0
}

/// Bytes that this process had read from disks.
pub fn read_bytes() -> f64 {
    let text = fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("read_bytes: ")).expect("known");
    line.parse().expect("a number")
}

/// Cores and processor of this machine.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

pub fn machine() -> String {
    let cores = cores();
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    format!("{cores} cores of {}", model.map_or("an unknown processor", |(_, name)| name.trim()))
}
