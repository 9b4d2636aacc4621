//! States of a conversation that are kept so that its context can go back to them: which, and how
//! long. What is in them only the engine knows.

use crate::engine::Rewind;

/// The last part of a prompt begins at a multiple of so many tokens, so that fresh and known prompts
/// have the same parts.
const LAST_PART_TOKENS: usize = 64;

/// Tokens that a checkpoint has to lie from others at least where it ends a part: a part costs time.
const LEAST_TOKENS: usize = 32;

/// The checkpoints of one conversation, within a budget. The least recently useful one goes first,
/// where making it counts as a use.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    budget_bytes: u64,
    /// By position.
    held: Vec<Checkpoint>,
    uses: u64,
}

#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// How many tokens it comes after.
    pub(crate) position: usize,
    pub(crate) state: Vec<u8>,
    last_use: u64,
}

impl Checkpoints {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, held: Vec::new(), uses: 0 }
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Bytes of all that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.held.iter().map(Checkpoint::bytes).sum()
    }

    /// Whether one of so many bytes is worth making after so many tokens.
    pub(crate) fn wants(&self, position: usize, bytes: u64) -> bool {
        (1..=self.budget_bytes).contains(&bytes)
            && self.held.binary_search_by_key(&position, |held| held.position).is_err()
    }

    /// How far those of so many bytes are apart at least while so many tokens are read, so that
    /// they take no more than half the budget.
    pub(crate) fn spacing(&self, tokens: usize, bytes: u64) -> usize {
        let fit = self.budget_bytes / 2 / bytes.max(1);
        tokens.div_ceil(usize::try_from(fit).unwrap_or(usize::MAX).max(1))
    }

    /// Keeps a state. One that is larger than the budget is not kept.
    pub(crate) fn insert(&mut self, position: usize, state: Vec<u8>) {
        let bytes = state.len() as u64;
        if bytes > self.budget_bytes {
            return;
        }
        self.held.retain(|held| held.position != position);
        while self.bytes() + bytes > self.budget_bytes {
            let least = (0..self.held.len()).min_by_key(|&i| self.held[i].last_use);
            let Some(least) = least else { break };
            self.held.remove(least);
        }
        self.uses += 1;
        let at = self.held.partition_point(|held| held.position < position);
        self.held.insert(at, Checkpoint { position, state, last_use: self.uses });
    }

    /// The last one by which a context that goes back like this can keep as much as possible of the
    /// first so many tokens. It counts as a use.
    pub(crate) fn before(&mut self, keep: usize, rewind: Rewind) -> Option<&Checkpoint> {
        let last = keep + usize::from(rewind == Rewind::Window);
        let after = self.held.partition_point(|held| held.position <= last);
        let found = self.held[..after].last_mut()?;
        self.uses += 1;
        found.last_use = self.uses;
        Some(found)
    }

    /// Forgets those that come after more than so many tokens: what they belong to is gone.
    pub(crate) fn forget_after(&mut self, position: usize) {
        self.held.retain(|held| held.position <= position);
    }
}

impl Checkpoint {
    fn bytes(&self) -> u64 {
        self.state.len() as u64
    }
}

/// Where the reading of a prompt stops for a checkpoint, besides the end of each batch: before its
/// last token, which is computed again in any case; where it was `edited`, since that may happen
/// again; and once near the end of a long one.
pub(crate) fn stops(from: usize, to: usize, edited: Option<usize>, rewind: Rewind) -> Vec<usize> {
    if rewind == Rewind::Free {
        return Vec::new();
    }
    let edited = edited.filter(|&stop| stop >= from + LEAST_TOKENS);
    let mut stops: Vec<usize> = edited.into_iter().collect();
    if rewind == Rewind::Exact && to > 0 {
        let last = to - 1;
        let near_end = last.saturating_sub(LEAST_TOKENS) / LAST_PART_TOKENS * LAST_PART_TOKENS;
        stops.push(last);
        stops.extend(Some(near_end).filter(|&stop| stop >= from + LAST_PART_TOKENS));
    }
    stops.retain(|&stop| from < stop && stop < to);
    stops.sort_unstable();
    stops.dedup();
    stops
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same by another way: from the least to the most recently useful.
    #[derive(Debug, Default)]
    struct Naive(Vec<(usize, u64)>);

    impl Naive {
        fn insert(&mut self, position: usize, bytes: u64, budget: u64) {
            if bytes > budget {
                return;
            }
            self.0.retain(|&(held, _)| held != position);
            self.0.push((position, bytes));
            while self.0.iter().map(|&(_, bytes)| bytes).sum::<u64>() > budget {
                self.0.remove(0);
            }
        }

        fn before(&mut self, last: usize) -> Option<usize> {
            let found =
                self.0.iter().map(|&(position, _)| position).filter(|&p| p <= last).max()?;
            let at = self.0.iter().position(|&(position, _)| position == found)?;
            let used = self.0.remove(at);
            self.0.push(used);
            Some(found)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(usize, usize),
        Before(usize, Rewind),
        ForgetAfter(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let position = 0_usize..30;
        prop_oneof![
            4 => (position.clone(), 0_usize..40).prop_map(|(at, bytes)| Step::Insert(at, bytes)),
            2 => (position.clone(), prop::sample::select(vec![Rewind::Window, Rewind::Exact]))
                .prop_map(|(keep, rewind)| Step::Before(keep, rewind)),
            1 => position.prop_map(Step::ForgetAfter),
        ]
    }

    proptest! {
        #[test]
        fn it_holds_what_a_naive_list_holds(
            budget in 0_u64..120,
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let (mut checkpoints, mut naive) = (Checkpoints::new(budget), Naive::default());
            for step in steps {
                match step {
                    Step::Insert(position, bytes) => {
                        checkpoints.insert(position, vec![0; bytes]);
                        naive.insert(position, bytes as u64, budget);
                    }
                    Step::Before(keep, rewind) => {
                        let found = checkpoints.before(keep, rewind).map(|found| found.position);
                        let last = keep + usize::from(rewind == Rewind::Window);
                        prop_assert_eq!(found, naive.before(last));
                    }
                    Step::ForgetAfter(position) => {
                        checkpoints.forget_after(position);
                        naive.0.retain(|&(held, _)| held <= position);
                    }
                }
                prop_assert!(checkpoints.bytes() <= budget);
                let held: Vec<_> =
                    checkpoints.held.iter().map(|held| (held.position, held.bytes())).collect();
                let mut expected = naive.0.clone();
                expected.sort_unstable();
                prop_assert_eq!(held, expected);
            }
        }

        #[test]
        fn stops_lie_between_and_end_before_the_last_token(
            from in 0_usize..2000,
            length in 1_usize..2000,
            edited in prop::option::of(0_usize..4000),
        ) {
            let to = from + length;
            let stops = stops(from, to, edited, Rewind::Exact);
            prop_assert!(stops.iter().all(|&stop| from < stop && stop < to));
            prop_assert!(stops.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert_eq!(length > 1, stops.last() == Some(&(to - 1)));
            prop_assert!(stops.len() <= 3);
        }
    }

    #[test]
    fn a_long_prompt_has_a_checkpoint_near_its_end() {
        assert_eq!(stops(0, 313, None, Rewind::Exact), [256, 312]);
        assert_eq!(stops(0, 258, None, Rewind::Exact), [192, 257]);
        assert_eq!(stops(0, 313, Some(300), Rewind::Exact), [256, 300, 312]);
        assert_eq!(stops(256, 313, Some(300), Rewind::Exact), [300, 312]);
        assert_eq!(stops(290, 313, Some(300), Rewind::Exact), [312]);
        assert_eq!(stops(200, 300, None, Rewind::Exact), [299]);
        assert_eq!(stops(0, 313, Some(300), Rewind::Window), [300]);
        assert!(stops(0, 1, None, Rewind::Exact).is_empty());
        assert!(stops(0, 313, Some(300), Rewind::Free).is_empty());
    }

    #[test]
    fn a_long_prompt_takes_half_the_budget() {
        let checkpoints = Checkpoints::new(100);
        assert_eq!(checkpoints.spacing(5000, 10), 1000);
        assert_eq!(checkpoints.spacing(5000, 99), 5000);
        assert!(checkpoints.wants(1, 100) && !checkpoints.wants(1, 101));
        assert!(!Checkpoints::new(0).wants(1, 0));
    }
}
