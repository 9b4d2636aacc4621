//! How the layers are dealt out to several devices: contiguously, in the devices' order.

use std::cmp::Reverse;

use super::Device;

/// Divides `layers` over the devices in proportion to their free memory, equally where that is
/// unknown. The result holds a device's index for each layer.
///
/// The rule is the engine's own for its default split (`llama_model_base::load_tensors`).
pub(super) fn proportional(layers: usize, devices: &[Device]) -> Vec<usize> {
    let known: Option<Vec<u64>> = devices.iter().map(|device| device.free_bytes).collect();
    let weights = known
        .filter(|free| free.iter().any(|&bytes| bytes > 0))
        .unwrap_or_else(|| vec![1; devices.len()]);
    let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    let mut assigned = Vec::with_capacity(layers);
    let (mut device, mut below) = (0, u128::from(weights.first().copied().unwrap_or(0)));
    for layer in 0..layers {
        // layer / layers >= below / total, in whole numbers
        while device + 1 < devices.len() && (layer as u128) * total >= below * (layers as u128) {
            device += 1;
            below += u128::from(weights[device]);
        }
        assigned.push(device);
    }
    assigned
}

/// What the layers want of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Bytes that the device has for layers; `None` if it can have none.
    pub(super) room: Option<u64>,
    /// Bytes that each layer must have there, the output as the last one.
    pub(super) fixed: Vec<u64>,
    /// Bytes of each layer's experts, of which any part may be there.
    pub(super) experts: Vec<u64>,
}

/// How good a split is: first the bytes of experts on the devices, then how little the fullest one
/// is asked for beyond what it has, in millionths.
type Score = (u64, Reverse<u64>);

/// Divides the layers so that as many bytes of experts as can be are on the devices, and the
/// devices are as evenly filled as that allows; `None` if not even the fixed bytes fit.
///
/// Exact, by dynamic programming over devices and layers: `devices × layers²` steps.
pub(super) fn balanced(demands: &[Demand]) -> Option<Vec<usize>> {
    let layers = demands.first()?.fixed.len();
    let sums: Vec<Sums> = demands.iter().map(Sums::of).collect();
    // For each device the best score when it and those before it have the first so many layers,
    // and how many those before it then have.
    let mut table: Vec<Vec<Option<(Score, usize)>>> = Vec::with_capacity(demands.len());
    for (i, (demand, sums)) in demands.iter().zip(&sums).enumerate() {
        let row = (0..=layers).map(|end| {
            (0..=end)
                .filter_map(|start| {
                    let (placed, Reverse(fullest)) = match i.checked_sub(1) {
                        None => (start == 0).then_some((0, Reverse(0)))?,
                        Some(before) => table[before][start]?.0,
                    };
                    let (experts, filled) = sums.score(demand, start, end)?;
                    Some(((placed + experts, Reverse(fullest.max(filled))), start))
                })
                .max_by_key(|&(score, start)| (score, start))
        });
        let row = row.collect();
        table.push(row);
    }
    let mut assigned = vec![0; layers];
    let mut end = layers;
    for (device, row) in table.iter().enumerate().rev() {
        let (_, start) = row[end]?;
        assigned[start..end].fill(device);
        end = start;
    }
    Some(assigned)
}

/// Sums over the first so many layers.
struct Sums {
    fixed: Vec<u64>,
    experts: Vec<u64>,
}

impl Sums {
    fn of(demand: &Demand) -> Self {
        let sums = |bytes: &[u64]| {
            let mut sum = 0_u64;
            let rest = bytes.iter().map(|&bytes| {
                sum = sum.saturating_add(bytes);
                sum
            });
            std::iter::once(0).chain(rest).collect()
        };
        Self { fixed: sums(&demand.fixed), experts: sums(&demand.experts) }
    }

    /// Bytes of experts that the device takes with the layers from `start` to before `end`, and how
    /// much is asked for of what it has, in millionths; `None` if the fixed bytes do not fit.
    fn score(&self, demand: &Demand, start: usize, end: usize) -> Option<(u64, u64)> {
        if start == end {
            return Some((0, 0));
        }
        let room = demand.room?;
        let fixed = self.fixed[end] - self.fixed[start];
        let experts = self.experts[end] - self.experts[start];
        let taken = experts.min(room.checked_sub(fixed)?);
        let asked = u128::from(fixed) + u128::from(experts);
        let filled = asked * 1_000_000 / u128::from(room.max(1));
        Some((taken, u64::try_from(filled).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn layers_follow_free_memory() {
        let one = Device::new("a").with_free_bytes(10);
        let three = Device::new("b").with_free_bytes(30);
        assert_eq!(proportional(4, &[one.clone(), three.clone()]), [0, 1, 1, 1]);
        assert_eq!(proportional(4, &[three, one]), [0, 0, 0, 1]);
    }

    #[test]
    fn unknown_memory_divides_equally_and_none_left_over() {
        let devices = [Device::new("a"), Device::new("b").with_free_bytes(5), Device::new("c")];
        assert_eq!(proportional(7, &devices), [0, 0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn a_full_device_takes_nothing() {
        let full = Device::new("a").with_free_bytes(0);
        let free = Device::new("b").with_free_bytes(8);
        assert_eq!(proportional(3, &[full, free]), [1, 1, 1]);
    }

    fn demand(room: u64, fixed: &[u64], experts: &[u64]) -> Demand {
        Demand { room: Some(room), fixed: fixed.to_vec(), experts: experts.to_vec() }
    }

    #[test]
    fn equal_devices_share_equally_and_a_small_one_takes_less() {
        let even = demand(100, &[1; 6], &[9; 6]);
        assert_eq!(balanced(&[even.clone(), even]), Some(vec![0, 0, 0, 1, 1, 1]));
        let (small, large) = (demand(20, &[1; 6], &[9; 6]), demand(40, &[1; 6], &[9; 6]));
        assert_eq!(balanced(&[small, large]), Some(vec![0, 0, 1, 1, 1, 1]));
    }

    #[test]
    fn a_device_without_room_is_passed_over() {
        let full = Demand { room: None, ..demand(0, &[1; 3], &[9; 3]) };
        let free = demand(100, &[1; 3], &[9; 3]);
        assert_eq!(balanced(&[full.clone(), free]), Some(vec![1, 1, 1]));
        assert_eq!(balanced(&[full]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Against every split there is.
        #[test]
        fn no_split_is_better(
            rooms in prop::collection::vec(0_u64..60, 1..4),
            layers in prop::collection::vec((0_u64..6, 0_u64..20), 1..7),
        ) {
            let (fixed, experts): (Vec<u64>, Vec<u64>) = layers.into_iter().unzip();
            let demands: Vec<Demand> =
                rooms.iter().map(|&room| demand(room, &fixed, &experts)).collect();
            let score = |split: &[usize]| {
                let mut sum = (0, 0);
                for (device, demand) in demands.iter().enumerate() {
                    let first = split.partition_point(|&at| at < device);
                    let last = split.partition_point(|&at| at <= device);
                    let (placed, filled) = Sums::of(demand).score(demand, first, last)?;
                    sum = (sum.0 + placed, sum.1.max(filled));
                }
                Some((sum.0, Reverse(sum.1)))
            };
            let every = every_split(fixed.len(), rooms.len());
            let best = every.iter().filter_map(|split| score(split)).max();
            let found = balanced(&demands);
            prop_assert_eq!(found.as_deref().and_then(score), best);
        }
    }

    /// All ascending lists of device numbers.
    fn every_split(layers: usize, devices: usize) -> Vec<Vec<usize>> {
        (0..layers).fold(vec![vec![]], |splits: Vec<Vec<usize>>, _| {
            let longer = |split: Vec<usize>| {
                let first = split.last().copied().unwrap_or(0);
                (first..devices).map(move |device| {
                    let mut split = split.clone();
                    split.push(device);
                    split
                })
            };
            splits.into_iter().flat_map(longer).collect()
        })
    }
}
