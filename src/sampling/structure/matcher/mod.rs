//! Whether a text can go on in the form of a grammar, byte by byte.
//!
//! All ways to read the text are followed at once. What is still to come on each of them is a stack
//! of slots, and stacks share what they have in common: a node is a slot to return to, made at one
//! place of the text, and its edges lead to all the nodes below. So a text costs time in proportion
//! to a power of its length, however many ways there are, and rules may begin with themselves. After
//! each token, nodes of different places that return to the same slot and lead to the same nodes
//! become one ([`keep`]), so that readings that go on alike are one reading.

mod keep;
mod seen;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;

use self::keep::MIN_COLLECTED;
use self::seen::Seen;
use super::chars::{Byte, Partial};
use super::effort::Effort;
use super::grammar::{Grammar, RuleId, Slot};
use crate::error::Result;

/// The node below all: what follows it is the end of the text.
const BOTTOM: u32 = 0;
const NO_EDGE: u32 = u32::MAX;
/// Nodes and edges of all readings of a text, and what is to be looked at.
const MOST_HELD: usize = 4_000_000;
/// Bytes that are read before equal readings are made one.
const BYTES_AT_ONCE: usize = 256;

/// A place in the grammar, and what follows when its rule is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Item {
    slot: u32,
    node: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Where to go on.
    slot: u32,
    first_edge: u32,
    /// Its rule ended where it began, so that edges made later go on at once.
    was_left: bool,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    below: u32,
    next: u32,
}

/// The state after a byte. The vectors are as long as this when it is the last.
#[derive(Clone, Copy, Debug)]
struct Level {
    first_item: usize,
    items: usize,
    nodes: usize,
    edges: usize,
    /// The text may end here.
    is_complete: bool,
    /// The character that items before `first_whole` are in the middle of.
    partial: Option<Partial>,
    first_whole: usize,
}

/// How far a text has come in a grammar.
#[derive(Debug)]
pub(crate) struct Matcher {
    grammar: Arc<Grammar>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    items: Vec<Item>,
    /// The first is that of the text; the others are of bytes that are tried.
    levels: Vec<Level>,
    seen: Seen,
    todo: Vec<Item>,
    collect_at: usize,
    /// The nodes of the readings that were made one, by a hash of slot and edges.
    known: HashMap<u64, u32>,
    hasher: RandomState,
    /// Nodes before this one were compared with all others.
    merged: usize,
}

impl Matcher {
    pub(crate) fn new(grammar: Arc<Grammar>, effort: &mut Effort<'_>) -> Result<Self> {
        let slots = grammar.slots.len();
        let seen = Seen::new(slots, grammar.rules());
        let bottom = Node { slot: 0, first_edge: NO_EDGE, was_left: false };
        let mut matcher = Self {
            grammar,
            nodes: vec![bottom],
            edges: Vec::new(),
            items: Vec::new(),
            levels: Vec::new(),
            seen,
            todo: Vec::new(),
            collect_at: MIN_COLLECTED,
            known: HashMap::new(),
            hasher: RandomState::new(),
            merged: 1,
        };
        let root = matcher.grammar.root;
        matcher.seen.begin();
        matcher.call(root, BOTTOM);
        let is_complete = matcher.advance(effort)?;
        matcher.level(0, is_complete, None);
        Ok(matcher)
    }

    fn last(&self) -> Level {
        *self.levels.last().expect("the first level stays")
    }

    /// Whether the text may end here.
    pub(crate) fn is_complete(&self) -> bool {
        self.last().is_complete
    }

    /// How many bytes are tried, plus one.
    pub(super) fn depth(&self) -> usize {
        self.levels.len()
    }

    /// Takes back what was tried beyond this depth.
    pub(super) fn go_back(&mut self, depth: usize) {
        self.levels.truncate(depth);
        let Level { items, nodes, edges, .. } = self.last();
        self.items.truncate(items);
        self.nodes.truncate(nodes);
        self.edges.truncate(edges);
    }

    fn level(&mut self, first_item: usize, is_complete: bool, partial: Option<Partial>) {
        self.levels.push(Level {
            first_item,
            items: self.items.len(),
            nodes: self.nodes.len(),
            edges: self.edges.len(),
            is_complete,
            partial,
            first_whole: if partial.is_some() { self.items.len() } else { first_item },
        });
    }

    /// The items that a byte is for. One that goes on with a character cannot begin one.
    fn readers(&self, byte: u8) -> (std::ops::Range<usize>, Option<Partial>) {
        let Level { first_item, first_whole, items, partial, .. } = self.last();
        match partial {
            Some(_) if byte & 0xC0 == 0x80 => (first_item..first_whole, partial),
            _ => (first_whole..items, None),
        }
    }

    /// Tries one more byte; `false` if no text of the grammar goes on with it.
    pub(super) fn try_byte(&mut self, byte: u8, effort: &mut Effort<'_>) -> Result<bool> {
        let (readers, partial) = self.readers(byte);
        effort.spend(1 + readers.len())?;
        let items = self.items.len();
        let c = match Byte::read(partial, byte) {
            Byte::Invalid => return Ok(false),
            Byte::Part(partial) => {
                let fits = self.items[readers.clone()].iter().any(|item| {
                    self.set(item.slot).is_some_and(|set| set.overlaps(partial.from, partial.to))
                });
                if fits && readers.end == items {
                    self.level(readers.start, false, Some(partial));
                } else if fits {
                    self.items.extend_from_within(readers);
                    self.level(items, false, Some(partial));
                }
                return Ok(fits);
            }
            Byte::Whole(c) => c,
        };
        self.seen.begin();
        for index in readers {
            let Item { slot, node } = self.items[index];
            if self.set(slot).is_some_and(|set| set.contains(c)) {
                self.todo.push(Item { slot: slot + 1, node });
            }
        }
        if self.todo.is_empty() {
            return Ok(false);
        }
        let is_complete = self.advance(effort)?;
        self.level(items, is_complete, None);
        Ok(true)
    }

    fn set(&self, slot: u32) -> Option<&super::chars::CharSet> {
        match self.grammar.slots[slot as usize] {
            Slot::Chars(set) => Some(&self.grammar.sets[set as usize]),
            _ => None,
        }
    }

    /// Follows rules from what is to do up to the next characters. Whether the text may end here.
    fn advance(&mut self, effort: &mut Effort<'_>) -> Result<bool> {
        let made_before = self.nodes.len();
        let mut is_complete = false;
        while let Some(item) = self.todo.pop() {
            // What was met before costs time too.
            if let Err(error) = self.afford(effort) {
                self.todo.clear();
                return Err(error);
            }
            if !self.seen.insert(item) {
                continue;
            }
            let Item { slot, node } = item;
            match self.grammar.slots[slot as usize] {
                Slot::Chars(_) | Slot::Token { .. } => self.items.push(item),
                Slot::End | Slot::TextEnd(_) if node == BOTTOM => is_complete = true,
                Slot::End | Slot::TextEnd(_) => self.leave(node, made_before, effort)?,
                Slot::Call(rule) => {
                    let is_last = self.grammar.slots[slot as usize + 1] == Slot::End;
                    if is_last && self.seen.may_pass(rule.index()) {
                        self.call(rule, node);
                    } else if let Some(new) = self.enter(slot + 1, node) {
                        self.call(rule, new);
                    }
                }
            }
        }
        Ok(is_complete)
    }

    /// One more step, of readings that are not too many.
    fn afford(&self, effort: &mut Effort<'_>) -> Result<()> {
        if self.held() + self.todo.len() >= MOST_HELD {
            return Err(effort.too_ambiguous("places", MOST_HELD));
        }
        effort.spend(1)
    }

    fn call(&mut self, rule: RuleId, node: u32) {
        let starts = self.grammar.alternatives(rule);
        self.todo.extend(starts.iter().map(|&slot| Item { slot, node }));
    }

    /// Lets what is `below` follow the node that returns to `slot`; that node if it is new.
    fn enter(&mut self, slot: u32, below: u32) -> Option<u32> {
        let before = self.seen.made(slot);
        let node = before.unwrap_or_else(|| {
            let node = index(self.nodes.len());
            self.nodes.push(Node { slot, first_edge: NO_EDGE, was_left: false });
            self.seen.make(slot, node);
            node
        });
        let edge = index(self.edges.len());
        let made = &mut self.nodes[node as usize];
        self.edges.push(Edge { below, next: made.first_edge });
        made.first_edge = edge;
        if made.was_left {
            self.todo.push(Item { slot, node: below });
        }
        before.is_none().then_some(node)
    }

    /// The rule that was called from here is over.
    fn leave(&mut self, node: u32, made_before: usize, effort: &mut Effort<'_>) -> Result<()> {
        let is_new = node as usize >= made_before;
        let left = &mut self.nodes[node as usize];
        left.was_left |= is_new;
        let Node { slot, first_edge: mut edge, .. } = *left;
        while let Some(&Edge { below, next }) = self.edges.get(edge as usize) {
            self.todo.push(Item { slot, node: below });
            edge = next;
            if let Err(error) = self.afford(effort) {
                self.todo.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tries all of these bytes; `false` at the first that does not go on.
    pub(super) fn try_bytes(&mut self, bytes: &[u8], effort: &mut Effort<'_>) -> Result<bool> {
        for &byte in bytes {
            if !self.try_byte(byte, effort)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a grammar names this token here.
    pub(super) fn names(&self, token: i32) -> bool {
        self.whole_items().iter().any(|item| self.is_named(item.slot, token))
    }

    /// The items that are in no character.
    fn whole_items(&self) -> &[Item] {
        let Level { first_whole, items, .. } = self.last();
        &self.items[first_whole..items]
    }

    /// The tokens that the grammar names here, or of which it takes any other.
    pub(crate) fn named_tokens(&self) -> impl Iterator<Item = (i32, bool)> {
        self.whole_items().iter().filter_map(|item| match self.grammar.slots[item.slot as usize] {
            Slot::Token { id, except } => Some((id, except)),
            _ => None,
        })
    }

    fn is_named(&self, slot: u32, token: i32) -> bool {
        matches!(self.grammar.slots[slot as usize],
            Slot::Token { id, except } if (id == token) != except)
    }

    /// Whether this token may come next.
    pub(crate) fn allows(
        &mut self,
        token: i32,
        bytes: &[u8],
        effort: &mut Effort<'_>,
    ) -> Result<bool> {
        let depth = self.depth();
        let fits = self.try_bytes(bytes, effort);
        self.go_back(depth);
        Ok(fits? && !bytes.is_empty() || self.names(token))
    }

    /// Takes a token that [`Self::allows`].
    pub(crate) fn accept(
        &mut self,
        token: i32,
        bytes: &[u8],
        effort: &mut Effort<'_>,
    ) -> Result<()> {
        let items = self.whole_items().iter().copied();
        let named: Vec<Item> = items.filter(|item| self.is_named(item.slot, token)).collect();
        let depth = self.depth();
        if bytes.is_empty() || !self.try_bytes(bytes, effort)? {
            self.go_back(depth);
            self.level(self.items.len(), false, None);
        }
        if !named.is_empty() {
            self.seen.begin();
            let after = named.iter().map(|&Item { slot, node }| Item { slot: slot + 1, node });
            self.todo.extend(after);
            let Level { first_item, is_complete, partial, first_whole, .. } = self.last();
            let is_complete = self.advance(effort)? || is_complete;
            self.level(first_item, is_complete, partial);
            if let Some(level) = self.levels.last_mut() {
                level.first_whole = first_whole;
            }
        }
        self.keep_last(effort)
    }

    /// Takes text that fits; `false` if it does not.
    pub(super) fn accept_text(&mut self, text: &str, effort: &mut Effort<'_>) -> Result<bool> {
        for bytes in text.as_bytes().chunks(BYTES_AT_ONCE) {
            let fits = self.try_bytes(bytes, effort)?;
            self.keep_last(effort)?;
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Characters that may come next, one of each kind.
    pub(crate) fn expected(&self) -> Vec<char> {
        let Level { first_item, items, .. } = self.last();
        let sets = self.items[first_item..items].iter().filter_map(|item| self.set(item.slot));
        let mut chars: Vec<char> =
            sets.filter_map(|set| char::from_u32(set.ranges().first()?.0)).collect();
        chars.sort_unstable();
        chars.dedup();
        chars
    }

    #[cfg(test)]
    pub(super) fn expected_sets(&self) -> Vec<super::chars::CharSet> {
        let Level { first_item, items, .. } = self.last();
        self.items[first_item..items]
            .iter()
            .filter_map(|item| self.set(item.slot).cloned())
            .collect()
    }
}

/// There are few more than [`MOST_HELD`].
fn index(length: usize) -> u32 {
    u32::try_from(length).expect("what is held is bounded")
}
