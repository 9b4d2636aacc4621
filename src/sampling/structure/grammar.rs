//! Grammars as the matcher reads them: flat rules of characters, tokens and calls of rules.

use std::collections::HashMap;

use super::chars::CharSet;

/// More elements than any form that a person writes; some 40 MB.
pub(super) const MAX_ELEMENTS: usize = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RuleId(u32);

impl RuleId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A part of a grammar as it is written. It nests no deeper than its reader lets it.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Chars(CharSet),
    Text(String),
    Rule(RuleId),
    /// One token of the vocabulary, or any but it.
    Token {
        id: i32,
        except: bool,
    },
    /// The end of the text, which the grammar names as a token; by number.
    TextEnd(u32),
    Sequence(Vec<Expr>),
    /// None of no alternatives.
    Choice(Vec<Expr>),
    /// At least, and at most, so many times.
    Repeat(Box<Expr>, usize, Option<usize>),
}

impl Expr {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn empty() -> Self {
        Self::Sequence(Vec::new())
    }

    pub(super) fn optional(self) -> Self {
        self.repeat(0, Some(1))
    }

    pub(super) fn repeat(self, least: usize, most: Option<usize>) -> Self {
        Self::Repeat(Box::new(self), least, most)
    }
}

/// A step within a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// A character of this set.
    Chars(u32),
    Token {
        id: i32,
        except: bool,
    },
    Call(RuleId),
    /// In a [`Builder`]; in a grammar it is an `End`, as nothing follows it.
    TextEnd(u32),
    End,
}

/// A grammar every beginning of which can be continued to its end.
#[derive(Debug)]
pub(crate) struct Grammar {
    pub(super) slots: Vec<Slot>,
    pub(super) sets: Vec<CharSet>,
    /// Where the alternatives of each rule begin, among the slots.
    starts: Vec<u32>,
    rules: Vec<std::ops::Range<u32>>,
    pub(super) root: RuleId,
}

impl Grammar {
    pub(super) fn elements(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn rules(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn alternatives(&self, rule: RuleId) -> &[u32] {
        let range = &self.rules[rule.0 as usize];
        &self.starts[range.start as usize..range.end as usize]
    }
}

/// Why there is no grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// More than [`MAX_ELEMENTS`].
    TooLarge,
    /// No text is of this form.
    Endless,
}

/// Makes a [`Grammar`], rule by rule.
#[derive(Debug, Default)]
pub(super) struct Builder {
    slots: Vec<Slot>,
    sets: Vec<CharSet>,
    set_ids: HashMap<CharSet, u32>,
    starts: Vec<u32>,
    rules: Vec<std::ops::Range<u32>>,
}

type Built<T = ()> = Result<T, Unusable>;

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("MAX_ELEMENTS is less")
}

impl Builder {
    /// A rule that is defined later; until then it has no alternatives.
    pub(super) fn rule(&mut self) -> RuleId {
        self.rules.push(0..0);
        RuleId(number(self.rules.len() - 1))
    }

    pub(super) fn rule_of(&mut self, expr: &Expr) -> Built<RuleId> {
        let rule = self.rule();
        self.define(rule, expr)?;
        Ok(rule)
    }

    pub(super) fn define(&mut self, rule: RuleId, expr: &Expr) -> Built {
        let alternatives = match expr {
            Expr::Choice(alternatives) => &alternatives[..],
            one => std::slice::from_ref(one),
        };
        let mut sequences = Vec::new();
        for alternative in alternatives {
            let mut sequence = Vec::new();
            self.lower(alternative, &mut sequence)?;
            sequences.push(sequence);
        }
        self.add(rule, sequences)
    }

    fn add(&mut self, rule: RuleId, alternatives: Vec<Vec<Slot>>) -> Built {
        let first = number(self.starts.len());
        for alternative in alternatives {
            self.afford(alternative.len() + 1)?;
            self.starts.push(number(self.slots.len()));
            self.slots.extend(alternative);
            self.slots.push(Slot::End);
        }
        self.rules[rule.0 as usize] = first..number(self.starts.len());
        Ok(())
    }

    fn afford(&self, more: usize) -> Built {
        let all = self.slots.len() + self.rules.len();
        if all.saturating_add(more) > MAX_ELEMENTS { Err(Unusable::TooLarge) } else { Ok(()) }
    }

    fn chars(&mut self, set: &CharSet) -> Slot {
        let sets = &mut self.sets;
        let id = *self.set_ids.entry(set.clone()).or_insert_with(|| {
            sets.push(set.clone());
            number(sets.len() - 1)
        });
        Slot::Chars(id)
    }

    fn lower(&mut self, expr: &Expr, into: &mut Vec<Slot>) -> Built {
        match expr {
            Expr::Chars(set) => into.push(self.chars(set)),
            Expr::Text(text) => {
                self.afford(into.len() + text.len())?;
                into.extend(text.chars().map(|c| self.chars(&CharSet::one(c))));
            }
            Expr::Rule(rule) => into.push(Slot::Call(*rule)),
            Expr::TextEnd(end) => into.push(Slot::TextEnd(*end)),
            &Expr::Token { id, except } => into.push(Slot::Token { id, except }),
            Expr::Sequence(parts) => {
                for part in parts {
                    self.lower(part, into)?;
                }
            }
            Expr::Choice(_) => into.push(Slot::Call(self.rule_of(expr)?)),
            Expr::Repeat(unit, least, most) => self.repeat(unit, *least, *most, into)?,
        }
        self.afford(into.len())
    }

    fn repeat(
        &mut self,
        unit: &Expr,
        least: usize,
        most: Option<usize>,
        into: &mut Vec<Slot>,
    ) -> Built {
        let mut one = Vec::new();
        self.lower(unit, &mut one)?;
        let unit = if let [slot] = one[..] {
            slot
        } else {
            let rule = self.rule();
            self.add(rule, vec![one])?;
            Slot::Call(rule)
        };
        let optional = most.map(|most| most.saturating_sub(least));
        self.afford(least.saturating_add(optional.unwrap_or(1).saturating_mul(5)))?;
        into.extend(std::iter::repeat_n(unit, least));
        // The next one is called from the end of a rule, which costs the matcher nothing.
        let mut rest = None;
        match optional {
            None => {
                let rule = self.rule();
                self.add(rule, vec![Vec::new(), vec![unit, Slot::Call(rule)]])?;
                rest = Some(rule);
            }
            Some(count) => {
                for _ in 0..count {
                    let rule = self.rule();
                    let again = std::iter::once(unit).chain(rest.map(Slot::Call)).collect();
                    self.add(rule, vec![Vec::new(), again])?;
                    rest = Some(rule);
                }
            }
        }
        into.extend(rest.map(Slot::Call));
        Ok(())
    }

    /// An end of the text that something can follow.
    pub(super) fn misplaced_end(&self) -> Option<u32> {
        // Of each rule, one that a text of it can end with.
        let mut ends: Vec<Option<u32>> = vec![None; self.rules.len()];
        let mut callers: Vec<Vec<RuleId>> = vec![Vec::new(); self.rules.len()];
        let mut todo = Vec::new();
        for (rule, slot) in self.slots_of_rules() {
            match slot {
                Slot::TextEnd(end) => todo.push((rule, end)),
                Slot::Call(called) => callers[called.index()].push(rule),
                _ => {}
            }
        }
        while let Some((rule, end)) = todo.pop() {
            if ends[rule.index()].is_none() {
                ends[rule.index()] = Some(end);
                todo.extend(callers[rule.index()].iter().map(|caller| (*caller, end)));
            }
        }
        let end_of = |slot: &Slot| match slot {
            Slot::TextEnd(end) => Some(*end),
            Slot::Call(rule) => ends[rule.index()],
            _ => None,
        };
        let pairs = self.slots.windows(2).filter(|pair| pair[1] != Slot::End);
        pairs.filter_map(|pair| end_of(&pair[0])).min()
    }

    fn slots_of_rules(&self) -> impl Iterator<Item = (RuleId, Slot)> {
        (0..).zip(&self.rules).flat_map(|(rule, range)| {
            let starts = &self.starts[range.start as usize..range.end as usize];
            let slots = starts.iter().flat_map(|&start| {
                self.slots[start as usize..].iter().take_while(|slot| **slot != Slot::End)
            });
            slots.map(move |slot| (RuleId(rule), *slot))
        })
    }

    /// The grammar without the alternatives that never end, which would be dead ends.
    pub(super) fn finish(mut self, root: RuleId) -> Built<Grammar> {
        let ends = self.ending_alternatives();
        let mut kept = Vec::new();
        for range in &mut self.rules {
            let first = number(kept.len());
            let all = range.start as usize..range.end as usize;
            kept.extend(all.filter(|&alternative| ends[alternative]).map(|i| self.starts[i]));
            *range = first..number(kept.len());
        }
        let Self { mut slots, sets, rules, .. } = self;
        for slot in slots.iter_mut().filter(|slot| matches!(slot, Slot::TextEnd(_))) {
            *slot = Slot::End;
        }
        let grammar = Grammar { slots, sets, starts: kept, rules, root };
        if grammar.alternatives(root).is_empty() { Err(Unusable::Endless) } else { Ok(grammar) }
    }

    /// Which alternatives have a text. Each is looked at again only when one of the rules that it
    /// calls turns out to have one.
    fn ending_alternatives(&self) -> Vec<bool> {
        let mut waits = vec![0_u32; self.starts.len()];
        let mut callers: Vec<Vec<u32>> = vec![Vec::new(); self.rules.len()];
        let mut owner = vec![0_usize; self.starts.len()];
        for (rule, range) in self.rules.iter().enumerate() {
            for alternative in range.clone() {
                let index = alternative as usize;
                owner[index] = rule;
                for slot in &self.slots[self.starts[index] as usize..] {
                    match slot {
                        Slot::End => break,
                        Slot::Call(called) => {
                            waits[index] += 1;
                            callers[called.0 as usize].push(alternative);
                        }
                        // For ever.
                        Slot::Chars(set) if self.sets[*set as usize].is_empty() => {
                            waits[index] += 1;
                        }
                        Slot::Chars(_) | Slot::Token { .. } | Slot::TextEnd(_) => {}
                    }
                }
            }
        }
        let mut ends = vec![false; self.starts.len()];
        let mut has_text = vec![false; self.rules.len()];
        let mut ready: Vec<usize> = (0..waits.len()).filter(|&index| waits[index] == 0).collect();
        while let Some(index) = ready.pop() {
            ends[index] = true;
            if std::mem::replace(&mut has_text[owner[index]], true) {
                continue;
            }
            for &caller in &callers[owner[index]] {
                waits[caller as usize] -= 1;
                if waits[caller as usize] == 0 {
                    ready.push(caller as usize);
                }
            }
        }
        ends
    }
}
