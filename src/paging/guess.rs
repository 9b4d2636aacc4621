//! Guesses at what the next layer's router will choose, of which only good ones are acted on.

/// How often a guess of one rank came true.
#[derive(Clone, Copy, Debug)]
struct Rank {
    share: f64,
    guesses: u32,
}

/// When a layer's choice is guessed: mostly the later, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Once the router of the layer before has chosen.
    First,
    /// Once that layer is computed, or the token looked up that comes into the first one.
    Again,
}

/// All guesses of one look.
#[derive(Clone, Debug, Default)]
struct Ranks {
    ranks: Vec<Rank>,
    /// For the next layer, the likeliest first.
    experts: Vec<usize>,
}

/// The guesses for the next layer, and how good they were so far, by rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guesses {
    looks: [Ranks; 2],
    layer: u32,
    /// What was lately read in vain, and what was lately missing, in slices.
    in_vain: f64,
    missing: f64,
}

impl Guesses {
    /// A guess is acted on if so many of its rank came true. Of the others most are withdrawn before they are
    /// read, so that the disk has something to do while a layer is computed; see docs/paging.md.
    const GOOD: f64 = 0.6;
    /// The same at the first look, as the second comes soon and is better.
    const GOOD_FIRST: f64 = 0.75;
    /// The same while more than this share of what is missing is read in vain: where computing takes longer than
    /// reading, few are withdrawn in time.
    const VERY_GOOD: f64 = 0.8;
    const MOST_IN_VAIN: f64 = 0.07;
    /// What is left of the account of reads in vain after a layer: a half-life of some hundred layers.
    const LATELY: f64 = 0.993;
    /// Before so many guesses nothing is known of a rank.
    const ENOUGH: u32 = 48;
    /// The weight of the latest guess.
    const LATEST: f64 = 0.02;

    /// Notes the experts that a layer is expected to choose, likeliest first, and returns those to read.
    pub(crate) fn expect(&mut self, layer: u32, look: Look, experts: Vec<usize>) -> Vec<usize> {
        if self.layer != layer {
            self.looks.iter_mut().for_each(|look| look.experts.clear());
            self.layer = layer;
        }
        let too_many = self.in_vain > Self::MOST_IN_VAIN * self.missing;
        let least = match look {
            _ if too_many => Self::VERY_GOOD,
            Look::First => Self::GOOD_FIRST,
            Look::Again => Self::GOOD,
        };
        let is_good = |rank: &Rank| rank.guesses >= Self::ENOUGH && rank.share >= least;
        let Ranks { ranks, experts: kept } = &mut self.looks[look as usize];
        if ranks.len() < experts.len() {
            ranks.resize(experts.len(), Rank { share: 0.0, guesses: 0 });
        }
        let good = std::iter::zip(&experts, &*ranks).filter(|(_, rank)| is_good(rank));
        let good = good.map(|(&expert, _)| expert).collect();
        *kept = experts;
        good
    }

    /// Learns what a layer really chose.
    pub(crate) fn learn(&mut self, layer: u32, is_chosen: impl Fn(usize) -> bool) {
        if layer != self.layer {
            return;
        }
        for Ranks { ranks, experts } in &mut self.looks {
            for (expert, rank) in std::iter::zip(std::mem::take(experts), ranks) {
                rank.guesses = rank.guesses.saturating_add(1);
                // A plain mean at first.
                let weight = Self::LATEST.max(1.0 / f64::from(rank.guesses));
                rank.share += weight * (f64::from(u8::from(is_chosen(expert))) - rank.share);
            }
        }
    }

    /// Whether the second look was right at least as often as the first so far.
    pub(crate) fn are_better_again(&self) -> bool {
        let [first, again] = self.looks.each_ref().map(|look| look.ranks.first());
        let share = first.map_or(0.0, |rank| rank.share);
        again.is_some_and(|rank| rank.guesses >= Self::ENOUGH && rank.share >= share)
    }

    /// So many slices were read on a guess that was wrong.
    #[allow(clippy::cast_precision_loss)] // a layer's slices are far below 2^52
    pub(crate) fn read_in_vain(&mut self, slices: u64) {
        self.in_vain += slices as f64;
    }

    /// So many slices were missing for one token at a layer, whether guessed or not.
    #[allow(clippy::cast_precision_loss)] // as above
    pub(crate) fn missed(&mut self, slices: u64) {
        self.in_vain *= Self::LATELY;
        self.missing = self.missing * Self::LATELY + slices as f64;
    }

    /// How often each rank came true.
    #[cfg(test)]
    pub(crate) fn shares(&self, look: Look) -> Vec<f64> {
        self.looks[look as usize].ranks.iter().map(|rank| rank.share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second guess comes true in two of three cases, and is read in vain in the third.
    #[test]
    fn what_is_read_in_vain_stays_a_small_share() {
        let mut guesses = Guesses::default();
        let (mut in_vain, mut missing, mut acted) = (0, 0, 0);
        for step in 0..4000_usize {
            let read = guesses.expect(1, Look::Again, vec![1, 2]);
            let comes_true = step % 3 != 0;
            let wasted = if read.contains(&2) && !comes_true { 3 } else { 0 };
            guesses.learn(1, |expert| expert == 1 || comes_true);
            guesses.missed(6);
            guesses.read_in_vain(wasted);
            (in_vain, missing) = (in_vain + wasted, missing + 6);
            acted += usize::from(read.contains(&2));
            assert!(step < 200 || read.contains(&1), "the good guess is always read");
        }
        let percent = 100 * in_vain / missing;
        assert!((5..9).contains(&percent), "{percent} % in vain");
        assert!((400..2400).contains(&acted), "{acted} of 4000 second guesses read");
    }

    #[test]
    fn only_ranks_that_come_true_are_read() {
        let mut guesses = Guesses::default();
        for step in 0..200_usize {
            let read = guesses.expect(3, Look::First, vec![step % 7, 7 + step % 5]);
            assert!(step < 60 || read == [step % 7], "{step}: {read:?}");
            assert!(step >= 48 || read.is_empty());
            // The first guess always comes true, the second in one of two cases.
            guesses.learn(3, |expert| expert < 7 || step % 2 == 0);
        }
        // Another layer's choice teaches nothing.
        guesses.expect(4, Look::First, vec![1, 2]);
        guesses.learn(5, |_| false);
        assert_eq!(guesses.expect(4, Look::First, vec![1, 2]), [1]);
        // When they stop coming true, they are no longer read.
        for _ in 0..40 {
            guesses.expect(4, Look::First, vec![1, 2]);
            guesses.learn(4, |_| false);
        }
        assert!(
            guesses.expect(4, Look::First, vec![1, 2]).is_empty(),
            "{:?}",
            guesses.shares(Look::First)
        );
    }

    #[test]
    fn each_look_is_trusted_as_far_as_it_was_right() {
        let mut guesses = Guesses::default();
        for step in 0..60 {
            guesses.expect(2, Look::First, vec![step % 5]);
            guesses.expect(2, Look::Again, vec![7]);
            guesses.learn(2, |expert| expert == 7);
        }
        assert!(guesses.expect(2, Look::First, vec![7]).is_empty(), "it never was");
        assert_eq!(guesses.expect(2, Look::Again, vec![7]), [7]);
        // What was guessed of a layer that then never chose says nothing about another.
        guesses.expect(3, Look::First, vec![1]);
        guesses.learn(3, |_| false);
        assert_eq!(guesses.shares(Look::Again), [1.0]);
        assert!(guesses.are_better_again());
        for _ in 0..60 {
            guesses.expect(2, Look::First, vec![7]);
            guesses.expect(2, Look::Again, vec![1]);
            guesses.learn(2, |expert| expert == 7);
        }
        assert!(!guesses.are_better_again());
        assert!(!Guesses::default().are_better_again(), "nothing is known yet");
    }
}
