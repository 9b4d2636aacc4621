//! What was met at one place of the text.

use std::collections::HashSet;

use super::Item;

/// So many items are not met at most places.
const LARGE_SET: usize = 1 << 12;
/// A rule that ends with a call of this one hands its own node on, so that a list takes no stack. At one
/// place only so many do: if more did, a chain of rules would cost time in the square of its length.
const MOST_PASSED: u32 = 4;

/// What was met at this place. Of almost every slot that is one node at most.
#[derive(Debug, Default)]
pub(super) struct Seen {
    place: u32,
    first: Vec<(u32, u32)>,
    others: HashSet<Item>,
    /// By slot to return to.
    made: Vec<(u32, u32)>,
    /// By rule, how many handed their node on to it.
    passed: Vec<(u32, u32)>,
}

impl Seen {
    pub(super) fn new(slots: usize, rules: usize) -> Self {
        let of = |count| vec![(0, 0); count];
        Self { first: of(slots), made: of(slots), passed: of(rules), ..Self::default() }
    }

    pub(super) fn begin(&mut self) {
        if self.others.capacity() > LARGE_SET {
            self.others = HashSet::new(); // to clear it takes as long as it is large
        }
        self.others.clear();
        if self.place == u32::MAX {
            for places in [&mut self.first, &mut self.made, &mut self.passed] {
                places.fill((0, 0));
            }
            self.place = 0;
        }
        self.place += 1;
    }

    /// Whether it is new.
    pub(super) fn insert(&mut self, item: Item) -> bool {
        let first = &mut self.first[item.slot as usize];
        if first.0 != self.place {
            *first = (self.place, item.node);
            return true;
        }
        first.1 != item.node && self.others.insert(item)
    }

    /// The node made here that returns to this slot.
    pub(super) fn made(&self, slot: u32) -> Option<u32> {
        let (place, node) = self.made[slot as usize];
        (place == self.place).then_some(node)
    }

    pub(super) fn make(&mut self, slot: u32, node: u32) {
        self.made[slot as usize] = (self.place, node);
    }

    /// Whether one more may hand its node on to this rule.
    pub(super) fn may_pass(&mut self, rule: usize) -> bool {
        let passed = &mut self.passed[rule];
        if passed.0 != self.place {
            *passed = (self.place, 0);
        }
        passed.1 += 1;
        passed.1 <= MOST_PASSED
    }
}
