//! What stays of the readings after a token: equal ones become one, dead ones are forgotten.
//!
//! A list that can be read from any place on (`.*.*`) makes a node at each place, all with the same
//! future. What a node stands for is its slot and the nodes below it; two that are alike in both are
//! exchanged, from the bottom up. Those in a circle (a rule that begins with itself) stay as they are.
//! A node that returns to the end of a rule stands for what is below it, so that those of one token do
//! not pile up on those of the tokens before.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use super::{BOTTOM, Edge, Item, Matcher, NO_EDGE, Node, index};
use crate::error::Result;
use crate::sampling::structure::effort::Effort;
use crate::sampling::structure::grammar::Slot;

/// Fewer nodes are not worth looking for those that nothing leads to.
pub(super) const MIN_COLLECTED: usize = 1 << 16;
/// Most that are compared with; then it begins anew.
const MOST_KNOWN: usize = 1 << 20;

/// What became of a node made since the last token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Become {
    Unknown,
    Begun,
    Node(u32),
}

impl Matcher {
    /// What was tried is now the text.
    pub(super) fn keep_last(&mut self, effort: &mut Effort<'_>) -> Result<()> {
        let mut level = self.last();
        level.first_whole -= level.first_item;
        self.items.truncate(level.items);
        self.items.drain(..level.first_item);
        (level.first_item, level.items) = (0, self.items.len());
        self.levels.clear();
        self.levels.push(level);
        self.merge(effort)?;
        if self.held() >= self.collect_at {
            self.collect();
        }
        Ok(())
    }

    pub(super) fn held(&self) -> usize {
        self.nodes.len() + self.edges.len()
    }

    /// Makes nodes that stand for the same one.
    fn merge(&mut self, effort: &mut Effort<'_>) -> Result<()> {
        let first = self.merged;
        if first == self.nodes.len() {
            return Ok(());
        }
        if self.known.len() > MOST_KNOWN {
            self.known = HashMap::new();
        }
        let mut became = vec![Become::Unknown; self.nodes.len() - first];
        for node in first..self.nodes.len() {
            self.merge_from(index(node), &mut became, effort)?;
        }
        let mut level = self.last();
        let new = |item: &Item| match (item.node as usize).checked_sub(first).map(|i| became[i]) {
            Some(Become::Node(node)) => Item { node, ..*item },
            _ => *item,
        };
        let mut seen = HashSet::new();
        let (partial, whole) = self.items.split_at(level.first_whole);
        let mut items: Vec<Item> =
            partial.iter().map(new).filter(|item| seen.insert(*item)).collect();
        level.first_whole = items.len();
        seen.clear();
        items.extend(whole.iter().map(new).filter(|item| seen.insert(*item)));
        self.items = items;
        level.items = self.items.len();
        (level.nodes, level.edges) = (self.nodes.len(), self.edges.len());
        self.merged = self.nodes.len();
        self.levels.clear();
        self.levels.push(level);
        Ok(())
    }

    /// Finds out what becomes of a node, after those below it.
    fn merge_from(
        &mut self,
        node: u32,
        became: &mut [Become],
        effort: &mut Effort<'_>,
    ) -> Result<()> {
        let first = self.merged;
        let place = |node: u32| (node as usize).checked_sub(first);
        let mut todo = vec![node];
        while let Some(&node) = todo.last() {
            let Some(at) = place(node) else {
                todo.pop();
                continue;
            };
            effort.spend(1)?;
            if became[at] == Become::Unknown {
                became[at] = Become::Begun;
                let edges = below(&self.edges, self.nodes[node as usize].first_edge);
                let new = |node: &u32| place(*node).is_some_and(|at| became[at] == Become::Unknown);
                let before = todo.len();
                todo.extend(edges.filter(new));
                effort.spend(todo.len() - before)?;
                continue;
            }
            todo.pop();
            if became[at] == Become::Begun {
                became[at] = Become::Node(self.merge_one(node, became, effort)?);
            }
        }
        Ok(())
    }

    /// The node that stands for this one from now on. Those below it are known, or in a circle with it.
    fn merge_one(&mut self, node: u32, became: &[Become], effort: &mut Effort<'_>) -> Result<u32> {
        let first = self.merged;
        let slot = self.nodes[node as usize].slot;
        let is_end = self.is_end(node);
        let mut in_circle = false;
        let mut all = Vec::new();
        for one in below(&self.edges, self.nodes[node as usize].first_edge) {
            let one = match (one as usize).checked_sub(first).map(|at| became[at]) {
                None => one,
                Some(Become::Node(new)) => new,
                Some(_) => {
                    in_circle = true;
                    one
                }
            };
            // Not of the same token: a chain of rules would be written out at each of them.
            if is_end && (one as usize) < first && self.is_end(one) {
                all.extend(below(&self.edges, self.nodes[one as usize].first_edge));
            } else {
                all.push(one);
            }
        }
        effort.spend(all.len())?;
        all.sort_unstable();
        all.dedup();
        if in_circle {
            return Ok(node);
        }
        if let ([one], true) = (&all[..], is_end) {
            return Ok(*one);
        }
        let hash = self.hash(slot, &all);
        if let Some(&other) = self.known.get(&hash)
            && self.nodes[other as usize].slot == slot
            && sorted(&self.edges, self.nodes[other as usize].first_edge) == all
        {
            return Ok(other);
        }
        self.lead_to(node, &all);
        self.known.insert(hash, node);
        Ok(node)
    }

    /// Whether a node returns to the end of a rule.
    fn is_end(&self, node: u32) -> bool {
        let slot = self.nodes[node as usize].slot;
        node != BOTTOM && self.grammar.slots[slot as usize] == Slot::End
    }

    /// Gives a node just these edges.
    fn lead_to(&mut self, node: u32, all: &[u32]) {
        let mut next = NO_EDGE;
        let mut old = self.nodes[node as usize].first_edge;
        for &below in all {
            let edge = Edge { below, next };
            next = if let Some(place) = self.edges.get_mut(old as usize) {
                let here = old;
                old = std::mem::replace(place, edge).next;
                here
            } else {
                self.edges.push(edge);
                index(self.edges.len() - 1)
            };
        }
        self.nodes[node as usize].first_edge = next;
    }

    fn hash(&self, slot: u32, below: &[u32]) -> u64 {
        self.hasher.hash_one((slot, below))
    }

    /// Forgets the nodes that nothing leads to.
    fn collect(&mut self) {
        let mut is_kept = vec![false; self.nodes.len()];
        is_kept[BOTTOM as usize] = true;
        let mut todo: Vec<u32> = self.items.iter().map(|item| item.node).collect();
        while let Some(node) = todo.pop() {
            if !std::mem::replace(&mut is_kept[node as usize], true) {
                todo.extend(below(&self.edges, self.nodes[node as usize].first_edge));
            }
        }
        let mut new = vec![0; self.nodes.len()];
        let kept = new.iter_mut().zip(&is_kept).filter(|(_, is_kept)| **is_kept);
        for (number, (new, _)) in (0..).zip(kept) {
            *new = number;
        }
        let (nodes, edges) = (std::mem::take(&mut self.nodes), std::mem::take(&mut self.edges));
        for (mut node, _) in nodes.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept) {
            let mut first_edge = NO_EDGE;
            for old in below(&edges, node.first_edge) {
                self.edges.push(Edge { below: new[old as usize], next: first_edge });
                first_edge = index(self.edges.len() - 1);
            }
            node.first_edge = first_edge;
            self.nodes.push(node);
        }
        for item in &mut self.items {
            item.node = new[item.node as usize];
        }
        self.collect_at = MIN_COLLECTED.max(2 * self.held());
        let (nodes, edges) = (self.nodes.len(), self.edges.len());
        for level in &mut self.levels {
            (level.nodes, level.edges) = (nodes, edges);
        }
        self.know_again();
    }

    /// The nodes have new numbers.
    fn know_again(&mut self) {
        self.known = HashMap::new();
        for node in 1..self.nodes.len() {
            let Node { slot, first_edge, .. } = self.nodes[node];
            let hash = self.hash(slot, &sorted(&self.edges, first_edge));
            self.known.insert(hash, index(node));
        }
        self.merged = self.nodes.len();
    }
}

fn sorted(edges: &[Edge], first: u32) -> Vec<u32> {
    let mut all: Vec<u32> = below(edges, first).collect();
    all.sort_unstable();
    all
}

fn below(edges: &[Edge], first: u32) -> impl Iterator<Item = u32> {
    let edge = |index: u32| edges.get(index as usize);
    std::iter::successors(edge(first), move |last| edge(last.next)).map(|edge| edge.below)
}
