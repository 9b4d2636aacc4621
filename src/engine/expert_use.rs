//! Which experts the routers chose, layer by layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How often each expert of each layer was chosen. Plain data: it merges, compares and serialises.
///
/// ```
/// use moe_offload::ExpertUse;
/// let mut counted = ExpertUse::default();
/// counted.record(0, &[1, 3]);
/// counted.record(0, &[1, 2]);
/// assert_eq!(counted.layer(0), Some(&[0, 2, 1, 1][..]));
/// assert_eq!(counted.tokens(0), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Row>", from = "Vec<Row>")]
pub struct ExpertUse {
    layers: BTreeMap<u32, LayerUse>,
}

/// A layer as data.
#[derive(Serialize, Deserialize)]
struct Row {
    layer: u32,
    #[serde(flatten)]
    counted: LayerUse,
}

impl From<ExpertUse> for Vec<Row> {
    fn from(counted: ExpertUse) -> Self {
        let layers = counted.layers.into_iter();
        layers.map(|(layer, counted)| Row { layer, counted }).collect()
    }
}

impl From<Vec<Row>> for ExpertUse {
    fn from(rows: Vec<Row>) -> Self {
        Self { layers: rows.into_iter().map(|row| (row.layer, row.counted)).collect() }
    }
}

/// One layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LayerUse {
    /// Tokens that were routed.
    tokens: u64,
    /// How often each expert was chosen, by its number.
    chosen: Vec<u64>,
}

/// No model has more experts; a larger number is not one.
const MOST_EXPERTS: usize = 1 << 16;

impl ExpertUse {
    /// Counts one token of a layer. Negative numbers, which no engine gives, are passed over.
    pub fn record(&mut self, layer: i32, experts: &[i32]) {
        let Ok(layer) = u32::try_from(layer) else { return };
        let layer = self.layers.entry(layer).or_default();
        layer.tokens += 1;
        let numbers = experts.iter().filter_map(|&expert| usize::try_from(expert).ok());
        for expert in numbers.filter(|&expert| expert < MOST_EXPERTS) {
            if layer.chosen.len() <= expert {
                layer.chosen.resize(expert + 1, 0);
            }
            layer.chosen[expert] += 1;
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        for (&number, theirs) in &other.layers {
            let ours = self.layers.entry(number).or_default();
            ours.tokens += theirs.tokens;
            if ours.chosen.len() < theirs.chosen.len() {
                ours.chosen.resize(theirs.chosen.len(), 0);
            }
            for (ours, theirs) in ours.chosen.iter_mut().zip(&theirs.chosen) {
                *ours += theirs;
            }
        }
    }

    /// The layers that were seen, in order.
    pub fn layers(&self) -> impl Iterator<Item = u32> + '_ {
        self.layers.keys().copied()
    }

    /// How often each expert of the layer was chosen. Experts above the highest chosen are left out.
    pub fn layer(&self, layer: u32) -> Option<&[u64]> {
        self.layers.get(&layer).map(|layer| layer.chosen.as_slice())
    }

    /// Tokens that the layer routed.
    pub fn tokens(&self, layer: u32) -> u64 {
        self.layers.get(&layer).map_or(0, |layer| layer.tokens)
    }

    /// The highest number of an expert that was chosen anywhere, plus one.
    pub fn experts(&self) -> usize {
        self.layers.values().map(|layer| layer.chosen.len()).max().unwrap_or(0)
    }

    /// The Shannon entropy of the layer's choices in bits: 0 if it is always the same expert, the
    /// logarithm of the number of experts if all are chosen alike. `None` if nothing was chosen.
    pub fn entropy_bits(&self, layer: u32) -> Option<f64> {
        let chosen = self.layer(layer)?;
        let all: u64 = chosen.iter().sum();
        #[allow(clippy::cast_precision_loss)] // counts of tokens
        let share = |count: u64| count as f64 / all as f64;
        let used = chosen.iter().filter(|&&count| count > 0);
        (all > 0).then(|| used.map(|&n| share(n)).fold(0.0, |sum, p| sum - p * p.log2()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(choices: &[(i32, Vec<i32>)]) -> ExpertUse {
        let mut counted = ExpertUse::default();
        for (layer, experts) in choices {
            counted.record(*layer, experts);
        }
        counted
    }

    fn choices() -> impl Strategy<Value = Vec<(i32, Vec<i32>)>> {
        prop::collection::vec((0..3, prop::collection::vec(0..20, 0..4)), 0..30)
    }

    proptest! {
        #[test]
        fn merging_is_counting_everything(a in choices(), b in choices()) {
            let mut merged = counted(&a);
            merged.merge(&counted(&b));
            prop_assert_eq!(&merged, &counted(&[a, b].concat()));
            let text = serde_json::to_string(&merged).unwrap();
            prop_assert_eq!(serde_json::from_str::<ExpertUse>(&text).unwrap(), merged);
        }

        #[test]
        fn entropy_is_between_none_and_all_alike(a in choices()) {
            let counted = counted(&a);
            for layer in counted.layers() {
                let Some(bits) = counted.entropy_bits(layer) else { continue };
                #[allow(clippy::cast_precision_loss)]
                let most = (counted.layer(layer).unwrap().len() as f64).log2();
                prop_assert!(bits >= 0.0 && bits <= most + 1e-9, "{bits} of {most}");
            }
        }
    }

    #[test]
    fn entropy_of_known_choices() {
        let same = counted(&[(0, vec![5]), (0, vec![5])]);
        assert_eq!(same.entropy_bits(0), Some(0.0));
        let alike = counted(&[(0, vec![0, 1]), (0, vec![2, 3])]);
        assert_eq!(alike.entropy_bits(0), Some(2.0));
        assert_eq!(alike.entropy_bits(1), None);
        assert_eq!(counted(&[(0, vec![])]).entropy_bits(0), None);
    }

    #[test]
    fn numbers_that_are_none_are_passed_over() {
        let counted = counted(&[(-1, vec![1]), (0, vec![-3, 2, i32::MAX])]);
        assert_eq!(counted.layer(0), Some(&[0, 0, 1][..]));
        assert_eq!(counted.layers().count(), 1);
    }
}
