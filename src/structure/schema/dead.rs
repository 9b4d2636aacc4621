//! Why a schema has no value.

use super::alternative::{All, Alternative};
use super::{Compiler, Place, unusable, unusable_grammar};
use crate::error::Error;
use crate::structure::grammar::Unusable;

/// So many reasons are told.
const MAX_TOLD: usize = 3;

/// What was found to have no value.
#[derive(Default)]
pub(super) struct Dead {
    /// The keyword that left a schema without values, by the number of the schema.
    emptied: std::collections::HashMap<usize, String>,
    reasons: Vec<String>,
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
        if !left.is_empty() || self.dead.reasons.len() == MAX_TOLD {
            return;
        }
        let place = |number: &usize| format!("`#{}`", self.places[*number].pointer);
        let alone = schemas.iter().find_map(|number| {
            let is_false = *self.places[*number].value == serde_json::Value::Bool(false);
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
}
