//! Student's distribution and the binomial one, as far as comparing two means needs them.

/// The value that so large a share of Student's distribution lies below; `share` of at least a half.
pub(super) fn quantile(freedom: f64, share: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while below(freedom, high) < share && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if below(freedom, middle) < share { low = middle } else { high = middle }
    }
    high
}

/// The share below `t`, of at least 0: one half and the density from 0 to `t`, by Simpson's rule over
/// the angle whose tangent is `t / √freedom`, where the integrand is a power of the cosine.
fn below(freedom: f64, t: f64) -> f64 {
    const STEPS: u32 = 2000;
    let power = freedom - 1.0;
    let simpson = |end: f64| {
        let step = end / f64::from(STEPS);
        let value = |i: u32| (f64::from(i) * step).cos().max(0.0).powf(power);
        let inner: f64 = (1..STEPS).map(|i| value(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        (value(0) + inner + value(STEPS)) * step / 3.0
    };
    let all = simpson(std::f64::consts::FRAC_PI_2);
    0.5 + 0.5 * simpson((t / freedom.sqrt()).atan()) / all
}

/// The least number that is exceeded by a binomial count of `tries` with a chance of at most `rare`.
pub(super) fn most_by_chance(tries: usize, chance: f64, rare: f64) -> usize {
    #[allow(clippy::cast_precision_loss)] // hundreds
    let n = tries as f64;
    let mut term = (1.0 - chance).powf(n);
    let mut sum = term;
    let mut count = 0;
    // A chance of exactly `rare` is not exceeded by the rounding of the sum.
    while 1.0 - sum > rare * (1.0 + 1e-9) && count < tries {
        #[allow(clippy::cast_precision_loss)]
        let k = count as f64;
        term *= (n - k) / (k + 1.0) * chance / (1.0 - chance);
        sum += term;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_quantiles() {
        for (freedom, share, value) in [
            (8.0, 0.995, 3.3554),
            (4.0, 0.975, 2.7764),
            (1.0, 0.975, 12.7062),
            (100.0, 0.995, 2.6259),
        ] {
            let found = quantile(freedom, share);
            assert!((found - value).abs() < 0.01, "{freedom} {share}: {found}");
        }
    }

    #[test]
    fn known_counts() {
        // Of 100 at 1 %: up to 4 in 99.66 % of all cases, up to 3 in 98.2 %.
        assert_eq!(most_by_chance(100, 0.01, 0.01), 4);
        assert_eq!(most_by_chance(0, 0.01, 0.01), 0);
        assert_eq!(most_by_chance(1, 0.01, 0.02), 0);
        // A figure alone differs as rarely as may be: it can disagree.
        assert_eq!(most_by_chance(1, 0.01, 0.01), 0);
        assert_eq!(most_by_chance(3, 0.01, 0.01), 1);
    }
}
