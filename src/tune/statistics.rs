//! Samples and what is said of them.

use serde::{Deserialize, Serialize};

/// What several samples come to. The samples themselves are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// The samples, in the order in which they were taken.
    pub samples: Vec<f64>,
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// Their sum over their number.
    pub mean: f64,
    /// The square root of the sum of squared differences from the mean over their number less one;
    /// `None` of one sample.
    pub standard_deviation: Option<f64>,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Summary {
    /// Sums up samples; `None` if there are none, or one is no finite number.
    ///
    /// ```
    /// use moe_offload::tune::Summary;
    /// let summary = Summary::of(&[4.0, 1.0, 1.0]).unwrap();
    /// assert_eq!((summary.median, summary.mean), (1.0, 2.0));
    /// assert_eq!(summary.standard_deviation, Some(3.0_f64.sqrt()));
    /// ```
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (low, high) = (sorted[(count - 1) / 2], sorted[count / 2]);
        #[allow(clippy::cast_precision_loss)] // a handful of samples
        let n = count as f64;
        let mean = (sorted.iter().map(|sample| sample / n).sum::<f64>())
            .clamp(sorted[0], sorted[count - 1]);
        let squares: f64 = sorted.iter().map(|sample| (sample - mean).powi(2)).sum();
        Some(Self {
            samples: samples.to_vec(),
            median: f64::midpoint(low, high),
            mean,
            standard_deviation: (count > 1).then(|| (squares / (n - 1.0)).sqrt()),
            least: sorted[0],
            greatest: sorted[count - 1],
        })
    }

    /// Each sample over the one of the same repetition of the other side, summed up. `None` where a
    /// repetition is missing on one side or the other side's is 0.
    pub fn of_ratios(samples: &[Option<f64>], baseline: &[Option<f64>]) -> Option<Self> {
        let pairs = samples.iter().zip(baseline);
        let ratios: Vec<f64> =
            pairs.filter_map(|(a, b)| Some(a.as_ref()? / b.filter(|&b| b != 0.0)?)).collect();
        Self::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of_ratios(&[Some(1.0)], &[Some(0.0)]), None);
        assert_eq!(Summary::of(&[3.0]).unwrap().standard_deviation, None);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine slowed down to a third between the repetitions; each pair says 2.
        let ratios = Summary::of_ratios(
            &[Some(60.0), None, Some(20.0)],
            &[Some(30.0), Some(7.0), Some(10.0)],
        );
        let ratios = ratios.unwrap();
        assert_eq!((ratios.median, ratios.standard_deviation), (2.0, Some(0.0)));
        assert_eq!(ratios.samples, [2.0, 2.0]);
    }

    proptest! {
        #[test]
        fn summaries_hold(
            samples in prop::collection::vec(-1e6..1e6_f64, 1..20),
            shift in -1e3..1e3_f64,
        ) {
            let summary = Summary::of(&samples).unwrap();
            prop_assert!(summary.least <= summary.median && summary.median <= summary.greatest);
            prop_assert!(summary.least <= summary.mean && summary.mean <= summary.greatest);
            // As many samples are at most the median as are at least it.
            let at_most = samples.iter().filter(|&&s| s <= summary.median).count();
            let at_least = samples.iter().filter(|&&s| s >= summary.median).count();
            prop_assert!(2 * at_most >= samples.len() && 2 * at_least >= samples.len());
            // Order changes nothing, and a shift of all samples shifts all but the deviation.
            let mut reversed = samples.clone();
            reversed.reverse();
            prop_assert_eq!(Summary::of(&reversed).unwrap().mean.to_bits(), summary.mean.to_bits());
            let shifted: Vec<f64> = samples.iter().map(|s| s + shift).collect();
            let shifted = Summary::of(&shifted).unwrap();
            prop_assert!((shifted.mean - summary.mean - shift).abs() < 1e-3);
            prop_assert!((shifted.median - summary.median - shift).abs() < 1e-3);
            if let Some(deviation) = summary.standard_deviation {
                let shifted = shifted.standard_deviation.unwrap();
                prop_assert!((shifted - deviation).abs() < 1e-3);
                prop_assert!(deviation <= summary.greatest - summary.least + 1e-9);
            }
        }

        #[test]
        fn a_ratio_to_itself_is_one(samples in prop::collection::vec(1e-3..1e6_f64, 1..20)) {
            let samples: Vec<_> = samples.into_iter().map(Some).collect();
            let ratios = Summary::of_ratios(&samples, &samples).unwrap();
            prop_assert_eq!((ratios.least, ratios.greatest), (1.0, 1.0));
        }
    }
}
