//! Why host memory cannot be held as asked for.

use thiserror::Error as ThisError;

use crate::units::human_bytes;

/// Why weights cannot be held in CPU memory as asked for.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum HostMemoryFault {
    /// The file's tensors lie where the engine cannot map them.
    #[error(
        "the file aligns its tensors to {bytes} bytes (`general.alignment`), and the engine maps only what lies at multiples of {needed}; use `auto` or `read`"
    )]
    Alignment {
        /// What the file aligns them to.
        bytes: u64,
        /// What the engine needs.
        needed: u64,
    },
    /// The limit of locked memory (`RLIMIT_MEMLOCK`) is too low.
    #[error(
        "{} of weights are to be locked, but this process may lock only {} more; raise the limit (`ulimit -l`, `LimitMEMLOCK=` of systemd, `--ulimit memlock=` of containers), or use `read`",
        human_bytes(*.needed_bytes), human_bytes(*.allowed_bytes)
    )]
    LockLimit {
        /// What is to be locked.
        needed_bytes: u64,
        /// What is left of the limit.
        allowed_bytes: u64,
    },
    /// The system does not lock memory although the limit allows it.
    #[error("the system does not lock {}: {reason}; use `read`", human_bytes(*.bytes))]
    LockRefused {
        /// How much was to be locked.
        bytes: u64,
        /// Why not.
        reason: String,
    },
    /// Transparent huge pages are switched off, or the system has none.
    #[error(
        "huge pages are {}; write `madvise` to /sys/kernel/mm/transparent_hugepage/enabled (as root), or use `read`",
        .setting.as_ref().map_or_else(|| "not in this system".to_owned(), |text| format!("switched off (`{text}`)"))
    )]
    NoHugePages {
        /// What the system's setting says; `None` if there is none.
        setting: Option<String>,
    },
    /// There are not several NUMA nodes whose memory this process may use.
    #[error(
        "this process may use the memory of {nodes} NUMA node(s) that the system tells of, and spreading needs 2; allow it more (`cpuset.mems` of its control group) if the machine has more, or use `huge` or `read`"
    )]
    OneNode {
        /// How many there are.
        nodes: usize,
    },
    /// The system has no more memory of this kind, or refuses a call for it.
    #[error("the system does not {action} {}: {reason}; use `read`", human_bytes(*.bytes))]
    Refused {
        /// What was tried.
        action: &'static str,
        /// With how much.
        bytes: u64,
        /// Why not.
        reason: String,
    },
    /// No device of the plan reads CPU memory directly.
    #[error(
        "no device that the plan uses ({}) offers pinned memory; use `read`",
        if .devices.is_empty() { "only the CPU".to_owned() } else { .devices.join(", ") }
    )]
    NoPinningDevice {
        /// The devices.
        devices: Vec<String>,
    },
    /// The engine put weights elsewhere.
    #[error(
        "of {} of weights in CPU memory the engine put {} elsewhere, which happens with types of its own for some processors, or where a device's driver has no more to pin; use `read`, or leave weights in the file's layout (`repack(false)`, `--no-repack`)",
        human_bytes(*.all_bytes), human_bytes(*.elsewhere_bytes)
    )]
    Elsewhere {
        /// All in CPU memory.
        all_bytes: u64,
        /// What is not held as asked for.
        elsewhere_bytes: u64,
    },
    /// Some experts are on disk.
    #[error("experts on disk are held by the pager; use `auto`, or put no experts on `disk`")]
    ExpertsOnDisk,
}
