//! What is read and given up when routers choose.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Pager, State, lock};
use crate::error::{Error, Result};
use crate::paging::{Pressure, RoutingCounts, Stage};

impl Pager {
    /// A router chose, of `each` ranked experts for every token the first `used`: reads what is missing of its
    /// layer's tensors.
    pub(super) fn chosen(
        &self,
        layer: u32,
        ranked: &[i32],
        each: usize,
        used: usize,
    ) -> Result<()> {
        let Some((tensors, first)) = self.layout.layer(layer) else { return Ok(()) };
        if ranked.is_empty() {
            return Ok(()); // of a part of a prompt whose last layer nobody asks about
        }
        let tensors = &self.layout.tensors[tensors];
        let all = tensors.first().map_or(0, |tensor| tensor.experts);
        let routing =
            RoutingCounts::of(ranked, each, used, all, first).ok_or_else(no_such_expert)?;
        let wanted = &routing.chosen;
        let mut state = lock(&self.state);
        state.cache.count(&routing);
        if routing.tokens == 1 {
            state.predictor.learn(layer, |expert| wanted.contains(&(first + expert)));
        }
        let mut evicted = state.follow_memory(Pressure::EVERY);
        // Memory may be so short that the budget does not hold this; it has to.
        let needed = state.cache.bytes(wanted);
        if needed > state.cache.budget_bytes() && needed <= state.pressure.wanted_bytes() {
            state.cache.set_budget(needed);
        }
        let guessed = std::mem::take(&mut state.prefetched).into_iter();
        let (came_true, in_vain): (Vec<usize>, Vec<usize>) =
            guessed.partition(|group| wanted.contains(group));
        for group in in_vain {
            // Of wrong guesses only what was not begun is left unread; those that were read stay for now.
            let slices = self.slices(&[group]);
            let withdrawn = self.queue.withdraw(&slices);
            state.read_in_vain(slices.len() - withdrawn);
            if withdrawn > 0 {
                state.leave(group);
            }
        }
        let taken = state.cache.admit(wanted, wanted.len() * 2 > all).map_err(|full| {
            let borders = self.layout.border_bytes();
            let (budget_bytes, needed_bytes) =
                (full.budget_bytes + borders, full.needed_bytes + borders);
            Error::PagingBudget { budget_bytes, needed_bytes }
        })?;
        evicted.extend_from_slice(&taken.evicted);
        let slices = tensors.len() as u64;
        let missed = (taken.missing.len() + came_true.len()) as u64 * slices;
        if routing.tokens == 1 {
            state.predictor.missed(missed);
        }
        state.stats.needed_slices += wanted.len() as u64 * slices;
        state.stats.missed_slices += missed;
        state.stats.ahead_slices += came_true.len() as u64 * slices;
        state.stats.released_slices += self.slices(&evicted).len() as u64;
        let missed_bytes = state.cache.bytes(&taken.missing) + state.cache.bytes(&came_true);
        state.stats.missed_bytes += missed_bytes;
        drop(state);
        self.queue.promote(&self.slices(&came_true));
        self.replace(&evicted, &taken.missing, |_| 0)
    }

    /// Guesses at the next layer's choice: reads those that are likely to come true. A better look leaves
    /// unread what only an earlier one found likely and nobody has begun to read.
    pub(super) fn expected(&self, layer: u32, experts: &[i32], stage: Stage) -> Result<()> {
        let Some((tensors, first)) = self.layout.layer(layer) else { return Ok(()) };
        let all = self.layout.tensors[tensors].first().map_or(0, |tensor| tensor.experts);
        let ranked = experts.iter().filter_map(|&expert| usize::try_from(expert).ok());
        let ranked: Vec<usize> = ranked.filter(|&expert| expert < all).collect();
        let mut state = lock(&self.state);
        let good = state.predictor.expect(layer, stage, ranked);
        let good: Vec<usize> = good.into_iter().map(|expert| first + expert).collect();
        let mut prefetched = std::mem::take(&mut state.prefetched);
        if state.predictor.are_better_again() {
            prefetched.retain(|group| {
                let stays =
                    good.contains(group) || !self.queue.withdraw_unbegun(&self.slices(&[*group]));
                if !stays {
                    state.leave(*group);
                }
                stays
            });
        }
        let (mut groups, mut places, mut evicted) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &group) in good.iter().enumerate() {
            if let Some(others) = state.cache.prefetch(group) {
                evicted.extend(others);
                groups.push(group);
                places.push(place + 1);
            }
        }
        state.stats.released_slices += self.slices(&evicted).len() as u64;
        state.prefetched = [&prefetched, &groups[..]].concat();
        drop(state);
        self.replace(&evicted, &groups, |i| places[i])
    }

    /// Gives up groups for others, whose reads it queues: of the n-th with the number that `guess` has for it.
    pub(super) fn replace(
        &self,
        evicted: &[usize],
        groups: &[usize],
        guess: impl Fn(usize) -> usize,
    ) -> Result<()> {
        let Handover { from, to, back } = lock(&self.state).hand_over(evicted, groups);
        // A text that was cancelled, or a guess, may have left reads under way: also of a group that is wanted again.
        let slices = self.slices(&[&from[..], &back[..], groups].concat());
        self.queue.withdraw(&slices);
        self.wait_for(&slices)?;
        self.hand_over(&from, &to)?;
        self.hand_over(&back, &[])?;
        let mut pieces = Vec::new();
        for (i, &group) in groups.iter().enumerate() {
            let before = pieces.len();
            self.read_group(group, &mut pieces)?;
            pieces[before..].iter_mut().for_each(|piece| piece.guess = guess(i));
        }
        self.queue.add(pieces);
        Ok(())
    }

    /// Waits until these experts of a tensor are there.
    pub(super) fn needed(&self, name: &str, experts: &[i32]) -> Result<()> {
        tracing::trace!(target: "moe_offload", tensor = name, "needed");
        let blind = || Error::Paging {
            reason: format!("experts of `{name}` are used that no router was seen to choose"),
        };
        let tensor = &self.layout.tensors[*self.tensors.get(name).ok_or_else(blind)?];
        let (_, first) = self.layout.layer(tensor.layer).ok_or_else(blind)?;
        let experts = distinct(experts, tensor.experts)?;
        let state = lock(&self.state);
        if experts.iter().any(|expert| !state.cache.is_pinned(first + expert)) {
            return Err(blind());
        }
        drop(state);
        let slices: Vec<usize> = experts.iter().map(|&expert| tensor.slice(expert)).collect();
        self.wait_for(&slices)
    }

    /// Reads these rows of the token embedding.
    pub(super) fn rows_needed(&self, name: &str, rows: &[i32]) -> Result<()> {
        let strange = || Error::Paging { reason: format!("`{name}` is used in an unknown way") };
        let table = self.layout.table.as_ref().filter(|table| table.name == name);
        let table = table.ok_or_else(strange)?;
        let taken = lock(&self.state).rows.take(table, rows).ok_or_else(strange)?;
        if taken.clears {
            self.clear_table(table)?;
        }
        let slice = table.slice(0);
        for range in &taken.missing {
            self.queue.add(self.rows(table, range, slice)?);
        }
        self.wait_for(&[slice])
    }

    fn wait_for(&self, slices: &[usize]) -> Result<()> {
        let started = Instant::now();
        let is_there = self.queue.wait_for(slices);
        lock(&self.state).stats.stall_seconds += started.elapsed().as_secs_f64();
        if is_there { Ok(()) } else { Err(Error::Paging { reason: "a read failed".into() }) }
    }
}

/// Which groups give their memory to which, and which to the system.
#[derive(Debug, Default, PartialEq, Eq)]
struct Handover {
    from: Vec<usize>,
    to: Vec<usize>,
    back: Vec<usize>,
}

impl State {
    /// A group that was to be read ahead is not: its memory is free.
    fn leave(&mut self, group: usize) {
        self.cache.forget(group);
        self.spare.push(group);
    }

    fn read_in_vain(&mut self, slices: usize) {
        self.stats.wasted_slices += slices as u64;
        self.predictor.read_in_vain(slices as u64);
    }

    /// What is released goes to the new groups first, then what is spare, the oldest first, whose reads have most
    /// likely ended. What is left stays as spare memory, as far as the budget allows: new memory would be scattered.
    fn hand_over(&mut self, evicted: &[usize], groups: &[usize]) -> Handover {
        // What was given up because memory is short may be what is wanted next.
        let has_its_own = |group: &usize| self.spare.contains(group) || evicted.contains(group);
        let to: Vec<usize> = groups.iter().copied().filter(|group| !has_its_own(group)).collect();
        self.spare.retain(|group| !groups.contains(group));
        let mut from: Vec<usize> =
            evicted.iter().copied().filter(|group| !groups.contains(group)).collect();
        let lacking = to.len().saturating_sub(from.len()).min(self.spare.len());
        from.extend(self.spare.drain(..lacking));
        self.spare.extend(from.split_off(to.len().min(from.len())));
        let mut back = Vec::new();
        let left = self.cache.budget_bytes().saturating_sub(self.cache.resident_bytes());
        while self.cache.bytes(&self.spare) > left {
            back.push(self.spare.remove(0));
        }
        Handover { from, to, back }
    }
}

/// The experts among `all`, each once.
fn distinct(experts: &[i32], all: usize) -> Result<BTreeSet<usize>> {
    let known = |&expert: &i32| usize::try_from(expert).ok().filter(|&expert| expert < all);
    experts.iter().map(|expert| known(expert).ok_or_else(no_such_expert)).collect()
}

fn no_such_expert() -> Error {
    Error::Paging { reason: "a router chose an expert that is not there".into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::paging::Cache;

    proptest! {
        /// Each group in memory has memory of one group, what is spare too, and all together keep the budget.
        #[test]
        fn memory_goes_from_hand_to_hand(
            steps in prop::collection::vec(
                (prop::collection::btree_set(0_usize..12, 1..4), 0_usize..12, 30_u64..120), 1..60),
        ) {
            let cache = Cache::new(&[(0, 10); 12], 60, 16.0);
            let mut state = State::new(cache, Pressure::new(|| None));
            let mut has_memory = BTreeSet::new();
            let mut hand = |state: &mut State, evicted: &[usize], groups: &[usize]| {
                let Handover { from, to, back } = state.hand_over(evicted, groups);
                assert!(from.len() <= to.len(), "the rest is spare, or goes back");
                // One after the other, as pages are moved: never to where there are some.
                for (i, &group) in to.iter().enumerate() {
                    assert!(from.get(i).is_none_or(|from| has_memory.remove(from)), "{from:?}");
                    assert!(has_memory.insert(group), "{group} had some");
                }
                for group in &back {
                    assert!(has_memory.remove(group), "{group} had none");
                }
                assert!(groups.iter().chain(&state.spare).all(|group| has_memory.contains(group)));
                assert!(has_memory.len() as u64 * 10 <= state.cache.budget_bytes());
            };
            for (wanted, guess, budget) in steps {
                let mut evicted = state.cache.set_budget(budget);
                let wanted: Vec<usize> = wanted.into_iter().collect();
                let taken = state.cache.admit(&wanted, false).unwrap();
                evicted.extend(taken.evicted);
                hand(&mut state, &evicted, &taken.missing);
                if let Some(evicted) = state.cache.prefetch(guess) {
                    hand(&mut state, &evicted, &[guess]);
                    if guess % 2 == 0 {
                        state.cache.forget(guess);
                        state.spare.push(guess);
                    }
                }
            }
        }
    }
}
