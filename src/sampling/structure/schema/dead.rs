//! Why a schema has no value.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::alternative::{All, Alternative, Array, Object};
use super::{Compiler, Place, unusable, unusable_grammar};
use crate::error::Error;
use crate::sampling::structure::grammar::Unusable;

/// So many reasons are told.
const MAX_TOLD: usize = 3;
/// Characters of a name that are told.
const TOLD_CHARACTERS: usize = 60;

/// What was found to have no value.
#[derive(Default)]
pub(super) struct Dead {
    /// The keyword that left a schema without values, by the number of the schema.
    emptied: HashMap<usize, String>,
    reasons: Vec<String>,
    /// Schemas without values that were told of by what needs one.
    explained: HashSet<All>,
}

impl Dead {
    pub(super) fn error(&self, why: Unusable) -> Error {
        match why {
            Unusable::Endless if !self.reasons.is_empty() => unusable(self.reasons.join("; or ")),
            why => unusable_grammar(why),
        }
    }
}

impl Compiler<'_> {
    /// Keeps which keyword it was, if it left nothing.
    pub(super) fn note_emptied(&mut self, place: &Place<'_>, keyword: &str, left: &[Alternative]) {
        let number = self.numbers.get(&std::ptr::from_ref(place.value));
        if let Some(&number) = number.filter(|_| left.is_empty()) {
            self.dead.emptied.entry(number).or_insert_with(|| keyword.to_owned());
        }
    }

    /// Keeps why these schemas have no value, if they have none.
    pub(super) fn note_dead(&mut self, schemas: &All, left: &[Alternative]) {
        let is_told = self.dead.reasons.len() == MAX_TOLD || self.dead.explained.contains(schemas);
        if !left.is_empty() || is_told {
            return;
        }
        let place = |number: &usize| format!("`#{}`", self.places[*number].pointer);
        let alone = schemas.iter().find_map(|number| {
            let is_false = *self.places[*number].value == Value::Bool(false);
            let keyword = self.dead.emptied.get(number);
            let emptied = keyword.map(|keyword| {
                format!(
                    "no value can satisfy `{keyword}` at {} together with what is beside it",
                    place(number)
                )
            });
            emptied.or_else(|| {
                is_false
                    .then(|| format!("no value can satisfy {}, which is `false`", place(number)))
            })
        });
        let together = || {
            let places: Vec<String> = schemas.iter().map(place).collect();
            format!("no value can satisfy {} together", places.join(" and "))
        };
        let reason = alone.unwrap_or_else(together);
        self.dead.reasons.push(reason);
    }

    /// Keeps why an object or list has no value where it needs a part that is `false`.
    pub(super) fn note_needed(&mut self, alternative: &Alternative) {
        match alternative {
            Alternative::Object(object) => self.note_required(object),
            Alternative::Array(array) => self.note_items(array),
            _ => {}
        }
    }

    /// Where one of these schemas is `false`, and the name by which it is a part of the one above.
    fn is_false(&self, schemas: &All) -> Option<(String, &str)> {
        let places = schemas.iter().map(|&number| &self.places[number]);
        let place = places.into_iter().find(|place| *place.value == Value::Bool(false))?;
        let name = place.pointer.0.as_ref().map_or("", |last| &last.1);
        Some((format!("`#{}`", place.pointer), name))
    }

    fn note_required(&mut self, object: &Object) {
        let told = |name: &str| -> String { name.chars().take(TOLD_CHARACTERS).collect() };
        let mut found = Vec::new();
        let declared = object.declared.iter().filter(|(name, _)| object.required.contains(name));
        for (name, schemas) in declared {
            found.push((name, schemas));
        }
        if self.is_false(&object.others).is_some() {
            let known: HashSet<&str> = object.declared.iter().map(|(name, _)| &**name).collect();
            let others = object.required.iter().filter(|name| !known.contains(&***name));
            found.extend(others.map(|name| (name, &object.others)));
        }
        let mut reasons = Vec::new();
        for (name, schemas) in found {
            let Some((place, last)) = self.is_false(schemas) else { continue };
            let name = told(name);
            reasons.push((
                schemas.clone(),
                if last == "additionalProperties" {
                    format!(
                        "the property `{name}` is required, but {place} is `false` and `{name}` is not among the `properties` beside it; declare it there, or require it no more"
                    )
                } else {
                    format!("the property `{name}` is required, but {place} is `false`")
                },
            ));
        }
        self.explain(reasons);
    }

    fn note_items(&mut self, array: &Array) {
        let described = array.first.len();
        if array.least <= described {
            return;
        }
        let Some((place, _)) = self.is_false(&array.rest) else { return };
        let reason = format!(
            "a list of {} items is needed, but {place} is `false`, so that it has {described} at most; lower `minItems`, or describe more items",
            array.least
        );
        self.explain(vec![(array.rest.clone(), reason)]);
    }

    fn explain(&mut self, reasons: Vec<(All, String)>) {
        for (schemas, reason) in reasons {
            if self.dead.reasons.len() < MAX_TOLD && !self.dead.reasons.contains(&reason) {
                self.dead.reasons.push(reason);
            }
            self.dead.explained.insert(schemas);
        }
    }
}
