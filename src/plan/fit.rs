//! Which experts go on a device of limited memory.

use std::collections::BTreeMap;

/// An expert tensor that may go on the device or stay on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Its index among the tensors.
    pub(super) tensor: usize,
    pub(super) layer: u32,
    /// Bytes that it takes on the device, padding included.
    pub(super) bytes: u64,
    /// Biases and scales, which are small.
    pub(super) is_small: bool,
}

/// Chooses candidates for `room` bytes; the rest stays on the CPU. Returns their tensors.
///
/// Biases first: they are a thousandth of the experts, and the side that computes the prompt needs
/// them there. Then whole layers from the first on, so that few layers are split between device and
/// CPU and the last ones stay on the CPU. Then single tensors of the layers left over. Each is
/// taken if it fits, so in the end no tensor that was left out would have fitted.
pub(super) fn choose(candidates: &[Candidate], room: u64) -> Vec<usize> {
    let mut room = room;
    let mut taken = Vec::new();
    let mut take = |group: &[&Candidate]| {
        let bytes = group.iter().try_fold(0_u64, |sum, candidate| sum.checked_add(candidate.bytes));
        let fits = bytes.is_some_and(|bytes| bytes <= room);
        if let Some(bytes) = bytes.filter(|_| fits) {
            room -= bytes;
            taken.extend(group.iter().map(|candidate| candidate.tensor));
        }
        fits
    };
    for candidate in candidates.iter().filter(|candidate| candidate.is_small) {
        take(&[candidate]);
    }
    let mut layers: BTreeMap<u32, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| !candidate.is_small) {
        layers.entry(candidate.layer).or_default().push(candidate);
    }
    layers.retain(|_, layer| !take(layer));
    for candidate in layers.into_values().flatten() {
        take(&[candidate]);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn candidates(sizes: &[(u32, u64, bool)]) -> Vec<Candidate> {
        let candidate = |(tensor, &(layer, bytes, is_small)): (usize, &(u32, u64, bool))| {
            Candidate { tensor, layer, bytes, is_small }
        };
        sizes.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn first_layers_whole_then_single_tensors() {
        let layer = |layer| [(layer, 10, false), (layer, 10, false), (layer, 12, false)];
        let sizes: Vec<_> = (0..4).flat_map(layer).collect();
        assert_eq!(choose(&candidates(&sizes), 32 + 21), [0, 1, 2, 3, 4]);
        assert_eq!(choose(&candidates(&sizes), 9), [0_usize; 0]);
        assert_eq!(choose(&candidates(&sizes), u64::MAX).len(), 12);
    }

    #[test]
    fn biases_come_first() {
        let sizes = [(0, 10, false), (0, 1, true), (1, 10, false), (1, 1, true)];
        assert_eq!(choose(&candidates(&sizes), 12), [1, 3, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn never_over_and_nothing_left_out_that_fits(
            sizes in prop::collection::vec((0_u32..12, 1_u64..1000, any::<bool>()), 0..60),
            room in 0_u64..20_000,
        ) {
            let candidates = candidates(&sizes);
            let taken = choose(&candidates, room);
            let unique: BTreeSet<usize> = taken.iter().copied().collect();
            prop_assert_eq!(unique.len(), taken.len());
            let used: u64 = taken.iter().map(|&tensor| candidates[tensor].bytes).sum();
            prop_assert!(used <= room);
            let smallest_left = candidates
                .iter()
                .filter(|candidate| !unique.contains(&candidate.tensor))
                .map(|candidate| candidate.bytes)
                .min();
            prop_assert!(smallest_left.is_none_or(|bytes| bytes > room - used));
            prop_assert_eq!(choose(&candidates, room), taken);
        }
    }
}
