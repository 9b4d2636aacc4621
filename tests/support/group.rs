//! A memory control group, where this process may make one (`scripts/can-limit-memory`).

use std::path::{Path, PathBuf};

/// A group with a limit, removed when dropped.
pub struct Group(PathBuf);

impl Group {
    pub fn new(bytes: u64) -> Self {
        let old = Path::new("/sys/fs/cgroup/memory");
        let (root, limit) = if old.exists() {
            (old, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let folder = root.join(format!("moe-offload-test-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(limit), bytes.to_string()).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
