//! Single values against schemas, and schemas that share none.

use std::sync::Arc;

use serde_json::{Number, Value};

use super::alternative::{All, Alternative, Array, Object, Text};
use super::fit::Fit;
use super::{Compiler, Place, format, pattern, unusable_grammar};
use crate::error::Result;
use crate::sampling::structure::effort::Effort;
use crate::sampling::structure::grammar::{Builder, Expr, Unusable};
use crate::sampling::structure::matcher::Matcher;

/// How deep is looked for a difference between members of `oneOf`.
const MAX_LOOK: usize = 4;
/// Steps of the matcher for one unit of work.
const STEPS_PER_WORK: usize = 16;
/// How deep the values inside of values are compared with schemas, by recursion.
const MAX_INSIDE: usize = 12;

impl<'a> Compiler<'a> {
    /// Whether an alternative allows this value.
    pub(super) fn admits(&mut self, alternative: &Alternative, value: &Value) -> Result<Fit> {
        self.spend(1)?;
        Ok(match (alternative, value) {
            (Alternative::Value(one), value) => Fit::of(equal(one, value)),
            (Alternative::Null, Value::Null) | (Alternative::Boolean, Value::Bool(_)) => Fit::Yes,
            (Alternative::Number(numbers), Value::Number(number)) => numbers.admits(number),
            (Alternative::Text(text), Value::String(value)) => self.admits_text(text, value)?,
            (Alternative::Array(array), Value::Array(items)) => self.admits_items(array, items)?,
            (Alternative::Object(object), Value::Object(fields)) => {
                let has_all = object.required.iter().all(|name| fields.contains_key(name));
                let mut fit = Fit::of(has_all);
                for (name, value) in fields {
                    self.spend(object.declared.len())?;
                    if fit != Fit::No {
                        fit = fit.min(self.all_admit(object.property(name), value)?);
                    }
                }
                fit
            }
            _ => Fit::No,
        })
    }

    fn all_admit(&mut self, schemas: &All, value: &Value) -> Result<Fit> {
        let mut best = Fit::No;
        for alternative in self.alternatives_apart(schemas)? {
            best = best.max(self.admits(&alternative, value)?);
            if best == Fit::Yes {
                break;
            }
        }
        Ok(best)
    }

    /// Whether the value stays one of those that are allowed. What cannot be told is refused: taken
    /// for a no, it could make members of `oneOf` look apart.
    pub(super) fn keeps(&mut self, alternative: &Alternative, value: &Value) -> Result<bool> {
        match self.admits(alternative, value)? {
            Fit::Unknown => {
                let reason = format!(
                    "whether `{value}` fits the `format`, `pattern` or bounds beside it depends on who checks it; leave them out there, or leave the value out"
                );
                Err(super::unusable(reason))
            }
            fit => Ok(fit == Fit::Yes),
        }
    }

    /// Of another value than the one that is being looked at.
    fn alternatives_apart(&mut self, schemas: &All) -> Result<Vec<Alternative>> {
        // A value of `enum` may lead back to the same `enum`.
        if self.inside == MAX_INSIDE {
            let reason = format!(
                "values of `enum`, `const` or `oneOf` are compared over more than {MAX_INSIDE} levels; write them where they are wanted, without `$ref`"
            );
            return Err(super::unusable(reason));
        }
        self.inside += 1;
        let trail = std::mem::take(&mut self.trail);
        let alternatives = self.alternatives(schemas);
        self.trail = trail;
        self.inside -= 1;
        alternatives
    }

    fn admits_items(&mut self, array: &Array, items: &[Value]) -> Result<Fit> {
        let is_short = array.most.is_none_or(|most| items.len() <= most);
        let mut fit = Fit::of(is_short && items.len() >= array.least);
        for (index, item) in items.iter().enumerate() {
            if fit != Fit::No {
                fit = fit.min(self.all_admit(array.item(index), item)?);
            }
        }
        Ok(fit)
    }

    fn admits_text(&mut self, text: &Text, value: &str) -> Result<Fit> {
        let length = value.chars().count();
        let mut fit = Fit::of(length >= text.least && text.most.is_none_or(|most| length <= most));
        for found in &text.patterns {
            if fit != Fit::No && !self.matches(found, value)? {
                fit = if pattern::is_disputed(found, value) { Fit::Unknown } else { Fit::No };
            }
        }
        for name in &text.formats {
            // Many checkers take a format for a note only, others for more than is written here.
            let narrow = format::pattern(name).unwrap_or_default();
            if fit == Fit::Yes && !self.matches(&narrow, value)? {
                fit = Fit::Unknown;
            }
        }
        Ok(fit)
    }

    /// Whether a text is one of a pattern.
    fn matches(&mut self, found: &str, text: &str) -> Result<bool> {
        if !self.patterns.contains_key(found) {
            let mut builder = Builder::default();
            let expr = pattern::pattern(found).unwrap_or_else(|_| Expr::Choice(Vec::new()));
            let grammar = builder.rule_of(&expr).and_then(|root| builder.finish(root));
            let grammar = match grammar {
                Ok(grammar) => Some(Arc::new(grammar)),
                Err(Unusable::Endless) => None,
                Err(why) => return Err(unusable_grammar(why)),
            };
            self.patterns.insert(found.to_owned(), grammar);
        }
        let Some(Some(grammar)) = self.patterns.get(found).cloned() else { return Ok(false) };
        self.spend(text.len() + grammar.elements() / 64)?;
        let mut effort = Effort::new(&|| Ok(())).of("JSON schema");
        let mut matcher = Matcher::new(grammar, &mut effort)?;
        let fits = matcher.accept_text(text, &mut effort)? && matcher.is_complete();
        self.spend(effort.spent() / STEPS_PER_WORK)?;
        Ok(fits)
    }

    /// Refuses members of `oneOf` of which two could hold for one value.
    ///
    /// They are looked at as schemas, whatever stands beside them: a property that no member
    /// mentions may still be written because of a sibling.
    pub(super) fn check_apart(
        &mut self,
        place: &Place<'a>,
        lists: &[Vec<Alternative>],
    ) -> Result<()> {
        let outer = self.spent.comparing;
        if outer.is_none() {
            self.spent.comparing = self.numbers.get(&std::ptr::from_ref(place.value)).copied();
        }
        let checked = self.check_each_apart(place, lists);
        if checked.is_ok() {
            self.spent.comparing = outer;
        }
        checked
    }

    fn check_each_apart(&mut self, place: &Place<'a>, lists: &[Vec<Alternative>]) -> Result<()> {
        for (i, list) in lists.iter().enumerate() {
            for (j, other) in lists.iter().enumerate().skip(i + 1) {
                if !self.are_apart(list, other, 0)? {
                    let reason = format!(
                        "cannot be enforced, since one value may satisfy members {i} and {j}; tell them apart by a required property with a `const` of its own or by `additionalProperties: false`, or use `anyOf`"
                    );
                    return place.refuse("oneOf", reason);
                }
            }
        }
        Ok(())
    }

    /// Whether no value satisfies one of `a` and one of `b`.
    fn are_apart(&mut self, a: &[Alternative], b: &[Alternative], depth: usize) -> Result<bool> {
        for a in a {
            for b in b {
                if !self.is_apart(a, b, depth)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn is_apart(&mut self, a: &Alternative, b: &Alternative, depth: usize) -> Result<bool> {
        self.spend(1)?;
        Ok(match (a, b) {
            (Alternative::Value(value), other) | (other, Alternative::Value(value)) => {
                self.admits(other, value)? == Fit::No
            }
            (Alternative::Object(a), Alternative::Object(b)) => self.objects_apart(a, b, depth)?,
            _ => a.both(b).is_none(),
        })
    }

    /// Whether a property that one of them requires cannot have a value for both.
    fn objects_apart(&mut self, a: &Object, b: &Object, depth: usize) -> Result<bool> {
        if depth == MAX_LOOK {
            return Ok(false);
        }
        for name in a.required.union(&b.required) {
            self.spend(a.declared.len() + b.declared.len())?;
            let in_a = self.alternatives_apart(a.property(name))?;
            let in_b = self.alternatives_apart(b.property(name))?;
            if self.are_apart(&in_a, &in_b, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// As JSON Schema compares values: numbers by what they are, objects in any order.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && std::iter::zip(a, b).all(|(a, b)| equal(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let in_b = |(name, value)| b.get(name).is_some_and(|other| equal(value, other));
            a.len() == b.len() && a.iter().all(in_b)
        }
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a == b,
        _ => a.as_f64() == b.as_f64(),
    }
}
