//! How good the text is: comparisons of logits, as plain arithmetic.

use serde::{Deserialize, Serialize};

/// A model's logits over a fixed text and its greedy continuation, put beside a baseline's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Quality {
    /// Tokens of the text that were predicted: all but the first.
    pub text_tokens: u64,
    /// `exp` of the mean of minus the logarithm of the probability of each token given all before.
    pub perplexity: f64,
    /// Tokens of the greedy continuation, its end ignored.
    pub greedy_tokens: u64,
    /// Beside the baseline; `None` for the baseline itself.
    pub against: Option<Against>,
}

/// What differs from the baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Against {
    /// The mean over the text's positions of the Kullback–Leibler divergence from the baseline's
    /// distribution to this one's, in nats, over the whole vocabulary.
    pub mean_kl_nats: f64,
    /// The greatest of them.
    pub greatest_kl_nats: f64,
    /// The share of positions where both find the same token likeliest.
    pub top_1_agreement: f64,
    /// The share of tokens of the greedy continuation that are the same at the same place.
    pub greedy_agreement: f64,
    /// The first place of the greedy continuation where they part; `None` if they never do.
    pub greedy_first_difference: Option<u64>,
}

/// The largest mean divergence, in nats, that placement alone is known to cause, by backend.
///
/// Placement changes in which order numbers are added, and where activations are rounded to the
/// types of a kernel, nothing else. `CPU` and `RPC` (an RPC server's CPU) are measured; see
/// `docs/benchmarking.md`. `None` for a backend on which this crate's bench was never run: there the
/// report shows the figure and judges nothing.
pub fn kl_bound_nats(backend: &str) -> Option<f64> {
    matches!(backend, "CPU" | "RPC").then_some(1e-3)
}

/// The logarithm of the sum of the exponentials, without overflow.
fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = f64::from(most);
    most + logits.iter().map(|&x| (f64::from(x) - most).exp()).sum::<f64>().ln()
}

/// The place of the greatest; the first of several.
pub(super) fn greatest(logits: &[f32]) -> Option<usize> {
    let first = |best: Option<(usize, f32)>, (i, x): (usize, f32)| match best {
        Some((_, most)) if x <= most || x.is_nan() => best,
        _ => Some((i, x)),
    };
    logits.iter().copied().enumerate().fold(None, first).map(|(i, _)| i)
}

/// Minus the logarithm of a token's probability, in nats.
pub(super) fn surprise_nats(logits: &[f32], token: usize) -> Option<f64> {
    logits.get(token).map(|&x| log_sum_exp(logits) - f64::from(x))
}

/// The divergence from `baseline` to `other`, in nats. Never negative but for rounding, which is cut.
pub(super) fn kl_nats(baseline: &[f32], other: &[f32]) -> f64 {
    let (ours, theirs) = (log_sum_exp(baseline), log_sum_exp(other));
    let terms = baseline.iter().zip(other).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - ours, f64::from(q) - theirs);
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    });
    let sum: f64 = terms.sum();
    // `max` would turn what is no number into 0.
    if sum < 0.0 { 0.0 } else { sum }
}

/// Adds up positions.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    positions: u64,
    kl_sum: f64,
    kl_greatest: f64,
    same_top: u64,
}

impl Comparison {
    pub(super) fn add(&mut self, baseline: &[f32], other: &[f32]) {
        let kl = kl_nats(baseline, other);
        self.positions += 1;
        self.kl_sum += kl;
        // A divergence that is no number must not be lost among those that are.
        self.kl_greatest = if kl.is_nan() { kl } else { self.kl_greatest.max(kl) };
        self.same_top += u64::from(greatest(baseline) == greatest(other));
    }

    /// Together with the greedy continuations of both.
    pub(super) fn finish<T: PartialEq>(&self, baseline: &[T], other: &[T]) -> Against {
        #[allow(clippy::cast_precision_loss)] // counts of tokens
        let share = |part: u64, of: u64| if of == 0 { 1.0 } else { part as f64 / of as f64 };
        let same = baseline.iter().zip(other).filter(|(a, b)| a == b).count() as u64;
        let shorter = baseline.len().min(other.len());
        let longer = baseline.len().max(other.len());
        let first = baseline.iter().zip(other).position(|(a, b)| a != b);
        let first = first.or((shorter < longer).then_some(shorter));
        #[allow(clippy::cast_precision_loss)]
        let mean_kl_nats = self.kl_sum / self.positions.max(1) as f64;
        Against {
            mean_kl_nats,
            greatest_kl_nats: self.kl_greatest,
            top_1_agreement: share(self.same_top, self.positions),
            greedy_agreement: share(same, longer as u64),
            greedy_first_difference: first.map(|place| place as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        // Two tokens alike: half each, one bit.
        assert!((surprise_nats(&[7.0, 7.0], 1).unwrap() - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!(surprise_nats(&[7.0, 7.0], 2), None);
        // From (1/2, 1/2) to (3/4, 1/4): ½·ln(2/3) + ½·ln 2.
        let kl = kl_nats(&[0.0, 0.0], &[3.0_f32.ln(), 0.0]);
        assert!((kl - (0.5 * (2.0_f64 / 3.0).ln() + 0.5 * 2.0_f64.ln())).abs() < 1e-6, "{kl}");
        assert_eq!(greatest(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(greatest(&[]), None);
    }

    #[test]
    fn where_two_texts_part() {
        let none = Comparison::default();
        let parted = none.finish(&[1, 2, 3, 4], &[1, 2, 9, 4]);
        assert_eq!(parted.greedy_first_difference, Some(2));
        assert!((parted.greedy_agreement - 0.75).abs() < 1e-12);
        assert_eq!(none.finish(&[1, 2], &[1, 2]).greedy_first_difference, None);
        let shorter = none.finish(&[1, 2, 3, 4], &[1, 2]);
        assert_eq!((shorter.greedy_first_difference, shorter.greedy_agreement), (Some(2), 0.5));
    }

    #[test]
    fn what_is_no_number_shows() {
        let mut comparison = Comparison::default();
        comparison.add(&[1.0, 2.0], &[1.0, f32::NAN]);
        comparison.add(&[1.0, 2.0], &[1.0, 2.0]);
        assert!(comparison.finish::<i32>(&[], &[]).mean_kl_nats.is_nan());
    }

    proptest! {
        #[test]
        fn divergence_is_none_from_itself_and_never_negative(
            p in prop::collection::vec(-50.0..50.0_f32, 8),
            q in prop::collection::vec(-50.0..50.0_f32, 8),
            shift in -100.0..100.0_f32,
        ) {
            prop_assert!(kl_nats(&p, &p) == 0.0);
            prop_assert!(kl_nats(&p, &q) >= 0.0);
            // Only differences between logits matter.
            let shifted: Vec<f32> = q.iter().map(|x| x + shift).collect();
            prop_assert!((kl_nats(&p, &q) - kl_nats(&p, &shifted)).abs() < 1e-2);
            // All probabilities together are one.
            let all: f64 = (0..8).map(|i| (-surprise_nats(&q, i).unwrap()).exp()).sum();
            prop_assert!((all - 1.0).abs() < 1e-9);
        }
    }
}
