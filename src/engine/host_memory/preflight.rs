//! What each load mode needs, against what there is: before anything is loaded.

use super::super::load_mode::LoadMode;
use crate::error::HostMemoryFault as Fault;

/// What the system allows.
#[derive(Clone, Debug, Default)]
pub(super) struct Limits {
    /// Memory that can still be locked; `None` without a limit.
    pub(super) lockable_bytes: Option<u64>,
    /// The setting of huge pages, such as `always [madvise] never`; `None` where there are none.
    pub(super) huge_pages: Option<String>,
    /// NUMA nodes that have memory which this process may use.
    pub(super) nodes: Vec<u32>,
}

/// What the plan wants of CPU memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Of weights.
    pub(super) weights_bytes: u64,
    pub(super) has_disk: bool,
}

/// Whether weights can be held so.
pub(super) fn check(mode: LoadMode, needs: Needs, limits: &Limits) -> Result<(), Fault> {
    if needs.has_disk && !matches!(mode, LoadMode::Auto | LoadMode::Mapped | LoadMode::Read) {
        return Err(Fault::ExpertsOnDisk);
    }
    match mode {
        LoadMode::Huge if !has_huge_pages(limits.huge_pages.as_deref()) => {
            let setting = limits.huge_pages.as_deref().map(|text| text.trim().to_owned());
            return Err(Fault::NoHugePages { setting });
        }
        LoadMode::Interleaved if limits.nodes.len() < 2 => {
            return Err(Fault::OneNode { nodes: limits.nodes.len() });
        }
        LoadMode::Locked => {
            let needed_bytes = needs.weights_bytes;
            if let Some(allowed_bytes) = limits.lockable_bytes.filter(|&most| most < needed_bytes) {
                return Err(Fault::LockLimit { needed_bytes, allowed_bytes });
            }
        }
        _ => {}
    }
    Ok(())
}

/// Whether huge pages are given to who asks for them; the chosen word is in brackets.
fn has_huge_pages(setting: Option<&str>) -> bool {
    setting.is_some_and(|text| text.contains("[always]") || text.contains("[madvise]"))
}

/// What may still be locked, by the limit and `/proc/self/status`; `None` without a limit.
pub(super) fn lockable(limit: Option<u64>, status: &str) -> Option<u64> {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let rights = value("CapEff:").and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    if rights.is_some_and(|rights| rights & CAP_IPC_LOCK != 0) {
        return None;
    }
    let locked = value("VmLck:").and_then(|text| text.trim().strip_suffix("kB"));
    let locked = locked.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
    limit.map(|limit| limit.saturating_sub(locked.saturating_mul(1024)))
}

/// The nodes with memory that `/proc/self/status` allows. A container may be held to one node of many, and
/// the system spreads over that one without a word.
pub(super) fn usable_nodes(with_memory: &str, status: &str) -> Vec<u32> {
    let mut nodes = numbers(with_memory);
    if let Some(list) = status.lines().find_map(|line| line.strip_prefix("Mems_allowed_list:")) {
        let allowed = numbers(list);
        nodes.retain(|node| allowed.contains(node));
    }
    nodes
}

/// The numbers in a list such as `0-3,8`; none of one that is not understood.
fn numbers(list: &str) -> Vec<u32> {
    /// More than any system has.
    const MOST: u32 = 1 << 16;
    let parts = list.trim().split(',').filter(|part| !part.is_empty());
    let ranges = parts.map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        (last < MOST).then_some(first..=last)
    });
    ranges.collect::<Option<Vec<_>>>().unwrap_or_default().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const NEEDS: Needs = Needs { weights_bytes: 3 * GIB, has_disk: false };

    fn limits() -> Limits {
        Limits {
            lockable_bytes: Some(3 * GIB),
            huge_pages: Some("always [madvise] never\n".into()),
            nodes: vec![0, 1],
        }
    }

    #[test]
    fn what_is_just_enough_will_do_for_every_mode() {
        for mode in LoadMode::ALL {
            assert_eq!(check(mode, NEEDS, &limits()), Ok(()), "{mode}");
        }
    }

    #[test]
    fn each_mode_has_its_own_condition() {
        let only = |wanted: LoadMode, limits: &Limits, fault: &Fault| {
            for mode in LoadMode::ALL {
                let expected = if mode == wanted { Err(fault.clone()) } else { Ok(()) };
                assert_eq!(check(mode, NEEDS, limits), expected, "{mode}");
            }
        };
        let locked = Limits { lockable_bytes: Some(3 * GIB - 1), ..limits() };
        let fault = Fault::LockLimit { needed_bytes: 3 * GIB, allowed_bytes: 3 * GIB - 1 };
        only(LoadMode::Locked, &locked, &fault);
        let never = "always madvise [never]";
        let off = Limits { huge_pages: Some(format!("{never}\n")), ..limits() };
        only(LoadMode::Huge, &off, &Fault::NoHugePages { setting: Some(never.into()) });
        let none = Limits { huge_pages: None, ..limits() };
        only(LoadMode::Huge, &none, &Fault::NoHugePages { setting: None });
        let one = Limits { nodes: vec![0], ..limits() };
        only(LoadMode::Interleaved, &one, &Fault::OneNode { nodes: 1 });
    }

    #[test]
    fn experts_on_disk_are_the_pager_s() {
        let needs = Needs { has_disk: true, ..NEEDS };
        for mode in LoadMode::ALL {
            let possible = matches!(mode, LoadMode::Auto | LoadMode::Mapped | LoadMode::Read);
            let expected = if possible { Ok(()) } else { Err(Fault::ExpertsOnDisk) };
            assert_eq!(check(mode, needs, &limits()), expected, "{mode}");
        }
    }

    #[test]
    fn the_limit_of_locked_memory_is_read_with_its_exceptions() {
        let status = |rights: &str| format!("Name:\tx\nVmLck:\t     512 kB\nCapEff:\t{rights}\n");
        let plain = status("0000000000000000");
        assert_eq!(lockable(Some(1 << 20), &plain), Some(512 << 10));
        assert_eq!(lockable(Some(1 << 10), &plain), Some(0));
        assert_eq!(lockable(None, &plain), None);
        assert_eq!(lockable(Some(1 << 20), &status("0000000000004000")), None);
        assert_eq!(lockable(Some(1 << 20), &status("000001ffffffbfff")), Some(512 << 10));
        assert_eq!(lockable(Some(7), ""), Some(7));
    }

    #[test]
    fn nodes_that_a_container_may_not_use_do_not_count() {
        let status = |list: &str| format!("Mems_allowed:\tf\nMems_allowed_list:\t{list}\nx:\t1\n");
        assert_eq!(usable_nodes("0-3\n", &status("0-3")), [0, 1, 2, 3]);
        assert_eq!(usable_nodes("0-3\n", &status("2")), [2]);
        assert_eq!(usable_nodes("0,2\n", &status("0-1")), [0]);
        assert_eq!(usable_nodes("0-1\n", ""), [0, 1]);
    }

    #[test]
    fn lists_of_nodes_are_read() {
        assert_eq!(numbers("0\n"), [0]);
        assert_eq!(numbers("0-2,5\n"), [0, 1, 2, 5]);
        for odd in ["", "\n", "a", "1-", "0-99999999", "3-1"] {
            assert_eq!(numbers(odd), [0; 0], "{odd:?}");
        }
    }
}
