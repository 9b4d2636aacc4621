//! Which groups (an expert's slices in all tensors of its layer) are in memory, within a budget.

use std::ops::Range;

use super::routing_counts::RoutingCounts;

/// What is in memory, and what it is worth.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    groups: Vec<Group>,
    layers: u32,
    budget_bytes: u64,
    resident_bytes: u64,
    pinned: Vec<usize>,
    /// Taken for a layer whose router has not chosen yet; they stay until it has.
    prefetched: Vec<usize>,
    half_life: f64,
    /// Tokens that went through the model.
    pass: u64,
    last_layer: u32,
}

#[derive(Clone, Debug)]
struct Group {
    layer: u32,
    bytes: u64,
    is_resident: bool,
    is_pinned: bool,
    /// Uses, each counting half after a half-life, as of the last one.
    uses: f64,
    last_pass: u64,
}

/// What was admitted for a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Groups to read.
    pub(crate) missing: Vec<usize>,
    /// Groups whose memory is given back before.
    pub(crate) evicted: Vec<usize>,
}

/// What is needed at once is more than the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheFull {
    pub(crate) needed_bytes: u64,
    pub(crate) budget_bytes: u64,
}

impl Cache {
    /// For groups of these layers and bytes, by layer. After `half_life` passes a use counts half: 0 is
    /// least recently used, a large number least frequently used.
    pub(crate) fn new(groups: &[(u32, u64)], budget_bytes: u64, half_life: f64) -> Self {
        let group = |&(layer, bytes): &(u32, u64)| Group {
            layer,
            bytes,
            is_resident: false,
            is_pinned: false,
            uses: 0.0,
            last_pass: 0,
        };
        Self {
            groups: groups.iter().map(group).collect(),
            layers: groups.last().map_or(1, |&(layer, _)| layer + 1),
            budget_bytes,
            resident_bytes: 0,
            pinned: Vec::new(),
            prefetched: Vec::new(),
            half_life,
            pass: 1,
            last_layer: 0,
        }
    }

    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Bytes of these groups.
    pub(crate) fn bytes(&self, groups: &[usize]) -> u64 {
        groups.iter().map(|&i| self.groups[i].bytes).sum()
    }

    pub(crate) fn is_pinned(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|group| group.is_pinned)
    }

    /// Whether everything is in memory, so that nothing has to be read any more.
    pub(crate) fn is_whole(&self) -> bool {
        self.groups.iter().all(|group| group.is_resident)
    }

    /// Bytes of all groups.
    pub(crate) fn all_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.bytes).sum()
    }

    /// Counts what a batch of tokens uses of a layer, as if they had come one by one and evenly.
    pub(crate) fn count(&mut self, routing: &RoutingCounts) {
        let layer = routing.chosen.first().map_or(0, |&i| self.groups[i].layer);
        if layer <= self.last_layer {
            self.pass += u64::from(routing.tokens);
        }
        self.last_layer = layer;
        let tokens = f64::from(routing.tokens.max(1));
        let decayed = 1.0 - self.decay(1);
        // Without fading each use counts the same.
        let share = if decayed > 0.0 {
            (1.0 - self.decay(u64::from(routing.tokens))) / decayed / tokens
        } else {
            1.0
        };
        for &(i, count) in &routing.counts {
            // What was least recently used is to go, and what was nearly used was not.
            if self.half_life < 1.0 && !routing.chosen.contains(&i) {
                continue;
            }
            let decay = self.decay(self.pass - self.groups[i].last_pass);
            let group = &mut self.groups[i];
            group.uses = count * share + group.uses * decay;
            group.last_pass = self.pass;
        }
    }

    fn unpin(&mut self) {
        let prefetched = std::mem::take(&mut self.prefetched);
        for i in std::mem::take(&mut self.pinned).into_iter().chain(prefetched) {
            self.groups[i].is_pinned = false;
        }
    }

    /// What a layer is going to use stays until the next call; what was used before may go.
    ///
    /// `streams` is for passes that use most experts of every layer: the layers just left are needed
    /// again last, so they go first.
    pub(crate) fn admit(&mut self, wanted: &[usize], streams: bool) -> Result<Admitted, CacheFull> {
        self.unpin();
        let layer = wanted.first().map_or(0, |&i| self.groups[i].layer);
        let mut admitted = Admitted::default();
        let mut needed_bytes = 0;
        for &i in wanted {
            let group = &mut self.groups[i];
            group.is_pinned = true;
            needed_bytes += group.bytes;
            if !group.is_resident {
                admitted.missing.push(i);
            }
        }
        self.pinned.extend_from_slice(wanted);
        if needed_bytes > self.budget_bytes {
            return Err(CacheFull { needed_bytes, budget_bytes: self.budget_bytes });
        }
        let missing_bytes: u64 = admitted.missing.iter().map(|&i| self.groups[i].bytes).sum();
        admitted.evicted = self.make_room(missing_bytes, layer, streams);
        for &i in &admitted.missing {
            self.groups[i].is_resident = true;
        }
        self.resident_bytes += missing_bytes;
        Ok(admitted)
    }

    /// Takes a group that is likely to be wanted next, if it is not there and there is room beside what is
    /// in use, made by giving up what is worth least. Returns what is evicted.
    pub(crate) fn prefetch(&mut self, i: usize) -> Option<Vec<usize>> {
        let Group { layer, bytes, is_resident, .. } = self.groups[i];
        let held =
            self.pinned.iter().chain(&self.prefetched).map(|&i| self.groups[i].bytes).sum::<u64>();
        if is_resident || held + bytes > self.budget_bytes {
            return None;
        }
        let evicted = self.make_room(bytes, layer, false);
        self.prefetched.push(i);
        let group = &mut self.groups[i];
        (group.is_resident, group.is_pinned) = (true, true);
        self.resident_bytes += bytes;
        Some(evicted)
    }

    /// A group that was to be prefetched is not read after all.
    pub(crate) fn forget(&mut self, i: usize) {
        self.prefetched.retain(|&other| other != i);
        let group = &mut self.groups[i];
        (group.is_pinned, group.is_resident) = (false, false);
        self.resident_bytes -= group.bytes;
    }

    /// Takes the next of these groups, which nobody asked for yet, up to the first for which there is no free room,
    /// until they have so many bytes. Nothing is evicted.
    pub(crate) fn fill(&mut self, wanted: &mut Range<usize>, bytes: u64) -> Vec<usize> {
        let (mut admitted, before) = (Vec::new(), self.resident_bytes);
        for i in wanted.clone() {
            let group = &mut self.groups[i];
            if self.resident_bytes - before >= bytes
                || !group.is_resident && self.resident_bytes + group.bytes > self.budget_bytes
            {
                break;
            }
            wanted.start = i + 1;
            if !group.is_resident {
                group.is_resident = true;
                self.resident_bytes += group.bytes;
                admitted.push(i);
            }
        }
        admitted
    }

    /// Another budget, but never less than what is in use. Returns what is evicted.
    pub(crate) fn set_budget(&mut self, budget_bytes: u64) -> Vec<usize> {
        let in_use: u64 =
            self.pinned.iter().chain(&self.prefetched).map(|&i| self.groups[i].bytes).sum();
        self.budget_bytes = budget_bytes.max(in_use);
        self.make_room(0, self.last_layer, false)
    }

    fn make_room(&mut self, missing_bytes: u64, layer: u32, streams: bool) -> Vec<usize> {
        let mut too_much = (self.resident_bytes + missing_bytes).saturating_sub(self.budget_bytes);
        let mut evicted = Vec::new();
        if too_much == 0 {
            return evicted;
        }
        let mut candidates: Vec<(f64, usize)> = self
            .groups
            .iter()
            .enumerate()
            .filter(|(_, group)| group.is_resident && !group.is_pinned)
            .map(|(i, group)| (self.priority(group, layer, streams), i))
            .collect();
        candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        for (_, i) in candidates {
            if too_much == 0 {
                break;
            }
            let group = &mut self.groups[i];
            group.is_resident = false;
            self.resident_bytes -= group.bytes;
            too_much = too_much.saturating_sub(group.bytes);
            evicted.push(i);
        }
        evicted
    }

    fn priority(&self, group: &Group, layer: u32, streams: bool) -> f64 {
        if streams {
            let until_needed = (group.layer + self.layers - layer) % self.layers;
            return -f64::from(until_needed);
        }
        // The logarithm, in which long ago is still longer ago than a little less long.
        #[allow(clippy::cast_precision_loss)] // passes are far below 2^52
        let passes = (self.pass - group.last_pass) as f64;
        group.uses.log2() - passes / self.half_life.max(0.02)
    }

    /// What a use so many passes ago counts; with a half-life of 0 only the order matters.
    #[allow(clippy::cast_precision_loss)] // passes are far below 2^52
    fn decay(&self, passes: u64) -> f64 {
        (-(passes as f64) / self.half_life.max(0.02)).exp2()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(layers: u32, experts: u32, budget: u64, half_life: f64) -> Cache {
        let groups: Vec<(u32, u64)> =
            (0..layers).flat_map(|layer| (0..experts).map(move |_| (layer, 10))).collect();
        Cache::new(&groups, budget, half_life)
    }

    /// One token uses groups.
    fn admit(cache: &mut Cache, wanted: &[usize], streams: bool) -> Result<Admitted, CacheFull> {
        let counts = wanted.iter().map(|&i| (i, 1.0)).collect();
        cache.count(&RoutingCounts { tokens: 1, chosen: wanted.to_vec(), counts });
        cache.admit(wanted, streams)
    }

    proptest! {
        /// Never over the budget, nothing in use is evicted, and all that is wanted is there.
        #[test]
        fn the_budget_is_kept_and_what_is_used_stays(
            steps in prop::collection::vec(prop::collection::btree_set(0_usize..8, 1..5), 1..80),
            budget in 40_u64..200, half_life in 0.0..50.0_f64, streams: bool,
        ) {
            let mut cache = cache(4, 8, budget, half_life);
            let mut resident = std::collections::BTreeSet::new();
            for (step, experts) in steps.into_iter().enumerate() {
                let next = (step + 1) % 4 * 8 + experts.len() % 8;
                let prefetched = cache.prefetch(next);
                for i in prefetched.iter().flatten() {
                    prop_assert!(resident.remove(i));
                }
                if prefetched.is_some() {
                    prop_assert!(resident.insert(next));
                    prop_assert!(cache.resident_bytes() <= budget);
                }
                if prefetched.is_some() && next % 3 == 0 {
                    cache.forget(next);
                    prop_assert!(resident.remove(&next));
                }
                let wanted: Vec<usize> = experts.iter().map(|expert| step % 4 * 8 + expert).collect();
                let admitted = admit(&mut cache, &wanted, streams).unwrap();
                for i in &admitted.evicted {
                    prop_assert!(!wanted.contains(i) && resident.remove(i));
                }
                for &i in &admitted.missing {
                    prop_assert!(resident.insert(i));
                }
                prop_assert!(wanted.iter().all(|i| resident.contains(i)));
                prop_assert_eq!(cache.resident_bytes(), resident.len() as u64 * 10);
                prop_assert!(cache.resident_bytes() <= budget);
            }
        }
    }

    fn misses(
        cache: &mut Cache,
        passes: usize,
        of_pass: impl Fn(usize, usize) -> Vec<usize>,
    ) -> usize {
        let mut missed = 0;
        for pass in 0..passes {
            for layer in 0..4 {
                let wanted: Vec<usize> =
                    of_pass(pass, layer).into_iter().map(|expert| layer * 8 + expert).collect();
                let streams = wanted.len() > 4;
                missed += admit(cache, &wanted, streams).unwrap().missing.len();
            }
        }
        missed
    }

    #[test]
    fn a_stream_through_all_layers_keeps_what_it_can() {
        let all = |_, _| (0..8).collect();
        // Of 32 groups 24 fit; of each further pass at most 8 and a layer's worth are read.
        let missed = misses(&mut cache(4, 8, 240, 16.0), 11, all);
        assert!(missed <= 32 + 10 * 16, "{missed}");
        let mut least_recent = cache(4, 8, 240, 0.0);
        let mut thrashed = 0;
        for pass in 0..44 {
            let wanted: Vec<usize> = (0..8).map(|expert| pass % 4 * 8 + expert).collect();
            thrashed += admit(&mut least_recent, &wanted, false).unwrap().missing.len();
        }
        assert_eq!(thrashed, 11 * 32);
    }

    #[test]
    fn frequent_experts_outlast_a_passing_one() {
        // Expert 0 is used in every second pass, between others that come once.
        let pass =
            |pass: usize, _| if pass.is_multiple_of(2) { vec![0] } else { vec![1 + pass / 2 % 7] };
        let often = misses(&mut cache(4, 8, 80, 16.0), 200, pass);
        let recent = misses(&mut cache(4, 8, 80, 0.0), 200, pass);
        assert!(often <= recent, "{often} {recent}");
        assert!(often < 4 * 110, "{often}");
    }

    #[test]
    fn what_many_tokens_of_a_prompt_use_or_nearly_use_stays() {
        let mut cache = cache(1, 8, 40, 64.0);
        // Of ten tokens nine use groups 0 and 1, and nearly 2; one uses 3.
        let counts = vec![(0, 9.0), (1, 9.0), (2, 4.5), (3, 1.0)];
        cache.count(&RoutingCounts { tokens: 10, chosen: vec![0, 1, 3], counts });
        cache.admit(&[0, 1, 3], false).unwrap();
        admit(&mut cache, &[2], false).unwrap();
        assert_eq!(admit(&mut cache, &[4], false).unwrap().evicted, [3]);
        assert_eq!(admit(&mut cache, &[5], false).unwrap().evicted, [4]);
        // A prompt is soon outlived: it counts like tokens one by one, not ten times.
        for _ in 0..200 {
            admit(&mut cache, &[6, 7], false).unwrap();
        }
        let evicted = admit(&mut cache, &[3, 4], false).unwrap().evicted;
        assert!(!evicted.contains(&6) && !evicted.contains(&7), "{evicted:?}");
        let mut recent = super::tests::cache(1, 8, 20, 0.0);
        let counts = vec![(0, 1.0), (1, 1.0), (2, 0.5)];
        recent.count(&RoutingCounts { tokens: 1, chosen: vec![0, 1], counts });
        recent.admit(&[0, 1], false).unwrap();
        assert_eq!(recent.groups[2].last_pass, 0, "not used, so not recently");
    }

    #[test]
    fn too_small_a_budget_is_told_and_a_smaller_one_releases() {
        let mut cache = cache(4, 8, 40, 16.0);
        let full = admit(&mut cache, &[0, 1, 2, 3, 4], false).unwrap_err();
        assert_eq!(full, CacheFull { needed_bytes: 50, budget_bytes: 40 });
        admit(&mut cache, &[0, 1], false).unwrap();
        admit(&mut cache, &[8, 9], false).unwrap();
        assert_eq!(cache.set_budget(0), [0, 1], "what is in use stays");
        assert_eq!((cache.budget_bytes(), cache.resident_bytes()), (20, 20));
        assert_eq!(cache.set_budget(30), [0_usize; 0]);
        assert_eq!(cache.fill(&mut (0..8), u64::MAX), [0]);
    }

    /// A load during which memory is short for a moment.
    #[test]
    fn what_was_given_up_while_filling_is_not_taken_for_there() {
        let mut cache = cache(2, 4, 80, 16.0);
        let mut wanted = 0..8;
        assert_eq!(cache.fill(&mut wanted, 50), [0, 1, 2, 3, 4]);
        assert_eq!(cache.set_budget(30).len(), 2);
        assert_eq!(cache.fill(&mut wanted, 50), [0_usize; 0]);
        assert_eq!(wanted, 5..8, "what does not fit now may fit later");
        cache.set_budget(80);
        assert_eq!(cache.fill(&mut wanted, 50), [5, 6, 7]);
        assert!(cache.all_bytes() <= cache.budget_bytes() && !cache.is_whole());
        assert_eq!(cache.fill(&mut (0..8), 50).len(), 2);
        assert!(cache.is_whole());
    }
}
