//! How weights in CPU memory are held where nobody says it, and what a mode means for prompts that a device computes.

use crate::device::CPU;
use crate::engine::LoadMode;
use crate::plan::{Decision, Plan};

/// Of the available memory this part stays free where nobody asked for pinned memory, which is never swapped out.
const KEPT_FREE: u64 = 10;

/// What decides it, beside the mode that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// A device of this machine computes prompts with experts that are in CPU memory.
    pub(crate) offloads: bool,
    /// A device has memory of the host that it reads directly.
    pub(crate) pins: bool,
    /// A device pins memory of ours, whatever it is.
    pub(crate) registers: bool,
    /// What the CPU's weights take.
    pub(crate) weights_bytes: u64,
    /// All that must be in CPU memory where they are not mapped.
    pub(crate) needed_bytes: u64,
    /// What of CPU memory can be taken without swapping, if the system tells.
    pub(crate) available_bytes: Option<u64>,
}

impl Facts {
    /// Of a plan by which a device computes prompts with experts in CPU memory; the rest is what the machine tells.
    pub(crate) fn of(
        plan: &Plan,
        (pins, registers): (bool, bool),
        available_bytes: Option<u64>,
    ) -> Self {
        let cpu = plan.device(CPU);
        Self {
            offloads: true,
            pins,
            registers,
            weights_bytes: cpu.map_or(0, |cpu| cpu.weights_bytes),
            needed_bytes: cpu.map_or(0, |cpu| cpu.total_bytes),
            available_bytes,
        }
    }
}

/// The mode in which weights are loaded, and what there is to say of it.
pub(crate) fn choose(asked: LoadMode, facts: Facts) -> (LoadMode, Option<Decision>) {
    if !facts.offloads {
        return (asked, None);
    }
    match asked {
        LoadMode::Auto if facts.pins || facts.registers => {
            let Facts { weights_bytes, needed_bytes, available_bytes, .. } = facts;
            let usable = available_bytes.map(|bytes| bytes - bytes / KEPT_FREE);
            if usable.is_some_and(|usable| needed_bytes <= usable) {
                (LoadMode::Read, Some(Decision::PinnedWeights { weights_bytes }))
            } else {
                (asked, Some(Decision::MappedWeights { needed_bytes, available_bytes }))
            }
        }
        LoadMode::Huge | LoadMode::Locked | LoadMode::Interleaved if !facts.registers => {
            (asked, Some(Decision::UnpinnedWeights { load_mode: asked.to_string() }))
        }
        _ => (asked, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn facts() -> Facts {
        Facts {
            offloads: true,
            pins: true,
            registers: false,
            weights_bytes: 8 * GIB,
            needed_bytes: 9 * GIB,
            available_bytes: Some(10 * GIB),
        }
    }

    #[test]
    fn weights_are_pinned_as_far_as_memory_certainly_holds_them() {
        let pinned = Some(Decision::PinnedWeights { weights_bytes: 8 * GIB });
        assert_eq!(choose(LoadMode::Auto, facts()), (LoadMode::Read, pinned));
        for available_bytes in [Some(10 * GIB - 10), None] {
            let tight = Facts { available_bytes, ..facts() };
            let needed_bytes = tight.needed_bytes;
            let mapped = Some(Decision::MappedWeights { needed_bytes, available_bytes });
            assert_eq!(choose(LoadMode::Auto, tight), (LoadMode::Auto, mapped));
        }
    }

    #[test]
    fn nothing_changes_without_a_device_that_computes_from_pinned_memory() {
        let none = [
            Facts { offloads: false, ..facts() },
            Facts { offloads: false, pins: false, ..facts() },
        ];
        for facts in none {
            for mode in LoadMode::ALL {
                assert_eq!(choose(mode, facts), (mode, None), "{facts:?}");
            }
        }
        let none = Facts { pins: false, ..facts() };
        assert_eq!(choose(LoadMode::Auto, none), (LoadMode::Auto, None));
    }

    #[test]
    fn memory_of_ours_is_pinned_whatever_it_is_where_the_device_does_it() {
        for pins in [true, false] {
            let facts = Facts { registers: true, pins, ..facts() };
            for mode in LoadMode::ALL.into_iter().filter(|&mode| mode != LoadMode::Auto) {
                assert_eq!(choose(mode, facts), (mode, None));
            }
            let pinned = Some(Decision::PinnedWeights { weights_bytes: 8 * GIB });
            assert_eq!(choose(LoadMode::Auto, facts), (LoadMode::Read, pinned));
        }
    }

    #[test]
    fn what_was_asked_for_is_kept_and_said_where_it_is_slower() {
        for mode in LoadMode::ALL.into_iter().filter(|&mode| mode != LoadMode::Auto) {
            let (chosen, told) = choose(mode, facts());
            assert_eq!(chosen, mode);
            let is_held = ["huge", "locked", "interleaved"].contains(&mode.to_string().as_str());
            assert_eq!(told.is_some(), is_held, "{mode}");
            assert!(told.is_none_or(|told| told.to_string().contains(&mode.to_string())));
        }
    }
}
