//! What the tokens of a batch made of a layer's experts.

/// What a layer's router said, as groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RoutingCounts {
    pub(crate) tokens: u32,
    /// What was chosen, each once, in order.
    pub(crate) chosen: Vec<usize>,
    /// What counts as used, and how often. An expert that a token would have chosen next counts like a part of
    /// a use, half of it after as many as were chosen: what is nearly chosen often will be chosen.
    pub(crate) counts: Vec<(usize, f64)>,
}

impl RoutingCounts {
    /// Of `ranked` experts, `each` for every token, of which the first `used` were chosen. A layer has so many
    /// `experts`, from group `first` on. `None` if one is named that is not there.
    pub(crate) fn of(
        ranked: &[i32],
        each: usize,
        used: usize,
        experts: usize,
        first: usize,
    ) -> Option<Self> {
        let (mut counts, mut is_chosen) = (vec![0.0; experts], vec![false; experts]);
        let step = (-1.0 / f64::from(u32::try_from(used.max(1)).unwrap_or(u32::MAX))).exp2();
        let mut tokens = 0;
        for of_token in ranked.chunks(each.max(1)) {
            tokens += 1;
            let mut count = 1.0;
            for (rank, &expert) in of_token.iter().enumerate() {
                let expert = usize::try_from(expert).ok().filter(|&expert| expert < experts)?;
                is_chosen[expert] |= rank < used;
                count *= if rank < used { 1.0 } else { step };
                counts[expert] += count;
            }
        }
        let chosen = (0..experts).filter(|&expert| is_chosen[expert]).map(|i| first + i).collect();
        let counts = counts.into_iter().enumerate().filter(|(_, count)| *count > 0.0);
        let counts = counts.map(|(expert, count)| (first + expert, count)).collect();
        Some(Self { tokens, chosen, counts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_token_and_what_came_next() {
        let routing = RoutingCounts::of(&[3, 1, 0, 3, 0, 2], 3, 1, 5, 10).unwrap();
        assert_eq!((routing.tokens, &routing.chosen), (2, &vec![13]));
        assert_eq!(routing.counts, [(10, 0.25 + 0.5), (11, 0.5), (12, 0.25), (13, 2.0)]);
        let routing = RoutingCounts::of(&[0, 1, 2, 3, 4], 5, 2, 5, 0).unwrap();
        assert_eq!(routing.chosen, [0, 1]);
        assert!((routing.counts[3].1 - 0.5).abs() < 1e-9, "{routing:?}");
        assert_eq!(RoutingCounts::of(&[0, 5], 2, 2, 5, 0), None);
        assert_eq!(RoutingCounts::of(&[-1], 1, 1, 5, 0), None);
    }
}
