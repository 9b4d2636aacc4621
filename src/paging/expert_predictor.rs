//! Guesses at what the next layer's router will choose, of which only good ones are acted on.

/// How often a guess of one rank came true.
#[derive(Clone, Copy, Debug)]
struct Rank {
    share: f64,
    predictions: u32,
}

/// When a layer's choice is guessed: mostly the later, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Once the router of the layer before has chosen.
    First,
    /// Once that layer is computed, or the token looked up that comes into the first one.
    Again,
}

/// All guesses of one stage.
#[derive(Clone, Debug, Default)]
struct Ranks {
    ranks: Vec<Rank>,
    /// For the next layer, the likeliest first.
    experts: Vec<usize>,
}

/// The guesses for the next layer, and how good they were so far, by rank.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpertPredictor {
    stages: [Ranks; 2],
    layer: u32,
    /// What was lately read in vain, and what was lately missing, in slices.
    in_vain: f64,
    missing: f64,
}

impl ExpertPredictor {
    /// A guess is acted on if so many of its rank came true. Of the others most are withdrawn before they are
    /// read, so that the disk has something to do while a layer is computed; see docs/paging.md.
    const GOOD: f64 = 0.6;
    /// The same at the first stage, as the second comes soon and is better.
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
    pub(crate) fn expect(&mut self, layer: u32, stage: Stage, experts: Vec<usize>) -> Vec<usize> {
        if self.layer != layer {
            self.stages.iter_mut().for_each(|stage| stage.experts.clear());
            self.layer = layer;
        }
        let too_many = self.in_vain > Self::MOST_IN_VAIN * self.missing;
        let least = match stage {
            _ if too_many => Self::VERY_GOOD,
            Stage::First => Self::GOOD_FIRST,
            Stage::Again => Self::GOOD,
        };
        let is_good = |rank: &Rank| rank.predictions >= Self::ENOUGH && rank.share >= least;
        let Ranks { ranks, experts: kept } = &mut self.stages[stage as usize];
        if ranks.len() < experts.len() {
            ranks.resize(experts.len(), Rank { share: 0.0, predictions: 0 });
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
        for Ranks { ranks, experts } in &mut self.stages {
            for (expert, rank) in std::iter::zip(std::mem::take(experts), ranks) {
                rank.predictions = rank.predictions.saturating_add(1);
                // A plain mean at first.
                let weight = Self::LATEST.max(1.0 / f64::from(rank.predictions));
                rank.share += weight * (f64::from(u8::from(is_chosen(expert))) - rank.share);
            }
        }
    }

    /// Whether the second stage was right at least as often as the first so far.
    pub(crate) fn are_better_again(&self) -> bool {
        let [first, again] = self.stages.each_ref().map(|stage| stage.ranks.first());
        let share = first.map_or(0.0, |rank| rank.share);
        again.is_some_and(|rank| rank.predictions >= Self::ENOUGH && rank.share >= share)
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
    pub(crate) fn shares(&self, stage: Stage) -> Vec<f64> {
        self.stages[stage as usize].ranks.iter().map(|rank| rank.share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second guess comes true in two of three cases, and is read in vain in the third.
    #[test]
    fn what_is_read_in_vain_stays_a_small_share() {
        let mut predictor = ExpertPredictor::default();
        let (mut in_vain, mut missing, mut acted) = (0, 0, 0);
        for step in 0..4000_usize {
            let read = predictor.expect(1, Stage::Again, vec![1, 2]);
            let comes_true = step % 3 != 0;
            let wasted = if read.contains(&2) && !comes_true { 3 } else { 0 };
            predictor.learn(1, |expert| expert == 1 || comes_true);
            predictor.missed(6);
            predictor.read_in_vain(wasted);
            (in_vain, missing) = (in_vain + wasted, missing + 6);
            acted += usize::from(read.contains(&2));
            assert!(step < 200 || read.contains(&1), "the good guess is always read");
        }
        let percent = 100 * in_vain / missing;
        assert!((5..9).contains(&percent), "{percent} % in vain");
        assert!((400..2400).contains(&acted), "{acted} of 4000 second predictions read");
    }

    #[test]
    fn only_ranks_that_come_true_are_read() {
        let mut predictor = ExpertPredictor::default();
        for step in 0..200_usize {
            let read = predictor.expect(3, Stage::First, vec![step % 7, 7 + step % 5]);
            assert!(step < 60 || read == [step % 7], "{step}: {read:?}");
            assert!(step >= 48 || read.is_empty());
            // The first guess always comes true, the second in one of two cases.
            predictor.learn(3, |expert| expert < 7 || step % 2 == 0);
        }
        // Another layer's choice teaches nothing.
        predictor.expect(4, Stage::First, vec![1, 2]);
        predictor.learn(5, |_| false);
        assert_eq!(predictor.expect(4, Stage::First, vec![1, 2]), [1]);
        // When they stop coming true, they are no longer read.
        for _ in 0..40 {
            predictor.expect(4, Stage::First, vec![1, 2]);
            predictor.learn(4, |_| false);
        }
        assert!(
            predictor.expect(4, Stage::First, vec![1, 2]).is_empty(),
            "{:?}",
            predictor.shares(Stage::First)
        );
    }

    #[test]
    fn each_stage_is_trusted_as_far_as_it_was_right() {
        let mut predictor = ExpertPredictor::default();
        for step in 0..60 {
            predictor.expect(2, Stage::First, vec![step % 5]);
            predictor.expect(2, Stage::Again, vec![7]);
            predictor.learn(2, |expert| expert == 7);
        }
        assert!(predictor.expect(2, Stage::First, vec![7]).is_empty(), "it never was");
        assert_eq!(predictor.expect(2, Stage::Again, vec![7]), [7]);
        // What was guessed of a layer that then never chose says nothing about another.
        predictor.expect(3, Stage::First, vec![1]);
        predictor.learn(3, |_| false);
        assert_eq!(predictor.shares(Stage::Again), [1.0]);
        assert!(predictor.are_better_again());
        for _ in 0..60 {
            predictor.expect(2, Stage::First, vec![7]);
            predictor.expect(2, Stage::Again, vec![1]);
            predictor.learn(2, |expert| expert == 7);
        }
        assert!(!predictor.are_better_again());
        assert!(!ExpertPredictor::default().are_better_again(), "nothing is known yet");
    }
}
