//! Which experts go on a device of limited memory.

use std::collections::BTreeMap;

/// Experts that go on the device together or stay on the CPU: a tensor of weights with its biases
/// and scales. Apart, every layer would cross the bus twice more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Their indices among the tensors.
    pub(super) tensors: Vec<usize>,
    pub(super) layer: u32,
    /// Bytes that they take on the device, padding included.
    pub(super) bytes: u64,
}

/// Chooses candidates for `room` bytes; the rest stays on the CPU. Returns their tensors.
///
/// Whole layers from the first on, so that few layers are split between device and CPU and the last
/// ones stay on the CPU. Then single candidates of the layers left over. Each is taken if it fits,
/// so in the end none that was left out would have fitted.
pub(super) fn choose(candidates: &[Candidate], room: u64) -> Vec<usize> {
    let mut room = room;
    let mut taken = Vec::new();
    let mut take = |group: &[&Candidate]| {
        let bytes = group.iter().try_fold(0_u64, |sum, candidate| sum.checked_add(candidate.bytes));
        let fits = bytes.is_some_and(|bytes| bytes <= room);
        if let Some(bytes) = bytes.filter(|_| fits) {
            room -= bytes;
            taken.extend(group.iter().flat_map(|candidate| &candidate.tensors));
        }
        fits
    };
    let mut layers: BTreeMap<u32, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
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

    fn candidates(sizes: &[(u32, u64)]) -> Vec<Candidate> {
        let candidate = |(i, &(layer, bytes)): (usize, &(u32, u64))| Candidate {
            tensors: vec![i],
            layer,
            bytes,
        };
        sizes.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn first_layers_whole_then_single_tensors() {
        let layer = |layer| [(layer, 10), (layer, 10), (layer, 12)];
        let sizes: Vec<_> = (0..4).flat_map(layer).collect();
        assert_eq!(choose(&candidates(&sizes), 32 + 21), [0, 1, 2, 3, 4]);
        assert_eq!(choose(&candidates(&sizes), 9), [0_usize; 0]);
        assert_eq!(choose(&candidates(&sizes), u64::MAX).len(), 12);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn never_over_and_nothing_left_out_that_fits(
            sizes in prop::collection::vec((0_u32..12, 1_u64..1000), 0..60),
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
                .filter(|candidate| !unique.contains(&candidate.tensors[0]))
                .map(|candidate| candidate.bytes)
                .min();
            prop_assert!(smallest_left.is_none_or(|bytes| bytes > room - used));
            prop_assert_eq!(choose(&candidates, room), taken);
        }
    }
}
