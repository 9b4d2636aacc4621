//! Guesses at what the next layer's router will choose, of which only good ones are acted on.

/// How often a guess of one rank came true.
#[derive(Clone, Copy, Debug)]
struct Rank {
    share: f64,
    guesses: u32,
}

/// The guesses for the next layer, and how good they were so far, by rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guesses {
    ranks: Vec<Rank>,
    layer: u32,
    experts: Vec<usize>,
}

impl Guesses {
    /// A guess is acted on if so many of its rank came true. Of the others most are withdrawn before they are
    /// read, so that the disk has something to do while a layer is computed; see docs/paging.md.
    const GOOD: f64 = 0.6;
    /// Before so many guesses nothing is known of a rank.
    const ENOUGH: u32 = 48;
    /// The weight of the latest guess.
    const LATEST: f64 = 0.02;

    /// Notes the experts that a layer is expected to choose, likeliest first, and returns those to read.
    pub(crate) fn expect(&mut self, layer: u32, experts: Vec<usize>) -> Vec<usize> {
        if self.ranks.len() < experts.len() {
            self.ranks.resize(experts.len(), Rank { share: 0.0, guesses: 0 });
        }
        let is_good = |rank: &Rank| rank.guesses >= Self::ENOUGH && rank.share >= Self::GOOD;
        let good = std::iter::zip(&experts, &self.ranks).filter(|(_, rank)| is_good(rank));
        let good = good.map(|(&expert, _)| expert).collect();
        (self.layer, self.experts) = (layer, experts);
        good
    }

    /// Learns what a layer really chose.
    pub(crate) fn learn(&mut self, layer: u32, is_chosen: impl Fn(usize) -> bool) {
        if layer != self.layer {
            return;
        }
        for (expert, rank) in std::iter::zip(std::mem::take(&mut self.experts), &mut self.ranks) {
            rank.guesses = rank.guesses.saturating_add(1);
            // A plain mean at first.
            let weight = Self::LATEST.max(1.0 / f64::from(rank.guesses));
            rank.share += weight * (f64::from(u8::from(is_chosen(expert))) - rank.share);
        }
    }

    /// How often each rank came true.
    #[cfg(test)]
    pub(crate) fn shares(&self) -> Vec<f64> {
        self.ranks.iter().map(|rank| rank.share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ranks_that_come_true_are_read() {
        let mut guesses = Guesses::default();
        for step in 0..200_usize {
            let read = guesses.expect(3, vec![step % 7, 7 + step % 5]);
            assert!(step < 60 || read == [step % 7], "{step}: {read:?}");
            assert!(step >= 48 || read.is_empty());
            // The first guess always comes true, the second in one of two cases.
            guesses.learn(3, |expert| expert < 7 || step % 2 == 0);
        }
        // Another layer's choice teaches nothing.
        guesses.expect(4, vec![1, 2]);
        guesses.learn(5, |_| false);
        assert_eq!(guesses.expect(4, vec![1, 2]), [1]);
        // When they stop coming true, they are no longer read.
        for _ in 0..40 {
            guesses.expect(4, vec![1, 2]);
            guesses.learn(4, |_| false);
        }
        assert!(guesses.expect(4, vec![1, 2]).is_empty(), "{:?}", guesses.shares());
    }
}
