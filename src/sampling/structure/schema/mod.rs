//! JSON Schema as a grammar of the JSON texts that it allows.
//!
//! What is accepted is enforced: every text of the grammar satisfies the schema. Not every such text is
//! of the grammar (numbers have at most 18 digits, properties come in the order of the schema); what
//! cannot be enforced is refused, with its place.
//!
//! A schema is a constraint. All those that hold for one value are taken together and written as a
//! list of alternatives, each of one kind of value ([`Alternative`]); only then does it become rules.
//! The values inside are constraints again, which get rules of their own when their turn comes.

mod alternative;
mod dead;
mod draft;
mod emit;
mod escapes;
mod fit;
mod format;
mod keywords;
mod known;
mod number;
mod pattern;
mod refer;
mod simplify;
mod size;
mod values;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use self::alternative::{All, Alternative, Text};
use self::emit::Json;
use self::number::Numbers;
pub(super) use self::size::check_size;
use self::size::{reading, size};
use super::grammar::{Builder, Grammar, MAX_ELEMENTS, RuleId, Unusable};
use crate::error::{Error, Result};

/// What it is called in errors.
pub(super) const KIND: &str = "JSON schema";
/// Schemas that are looked at for one value lead to each other at most so often, by recursion.
const MAX_FOLLOWED: usize = 100;

/// The grammar of JSON texts that a schema allows.
pub(super) fn grammar(schema: &Value) -> Result<Grammar> {
    let compiler = Compiler {
        root: schema,
        places: Vec::new(),
        numbers: HashMap::new(),
        rules: HashMap::new(),
        number_rules: HashMap::new(),
        text_rules: HashMap::new(),
        patterns: HashMap::new(),
        waiting: Vec::new(),
        trail: Vec::new(),
        followed: 0,
        inside: 0,
        dead: dead::Dead::default(),
        builder: Builder::default(),
        spent: size::Spent::default(),
    };
    compiler.compile()
}

fn unusable(reason: String) -> Error {
    Error::InvalidStructure { what: KIND, reason }
}

fn unusable_grammar(why: Unusable) -> Error {
    unusable(match why {
        Unusable::TooLarge => format!(
            "its grammar has more than {MAX_ELEMENTS} elements; lower its lengths (`maxLength`, `maxItems`, …) or the numbers in its patterns"
        ),
        Unusable::Endless => {
            "no value satisfies it: what it demands contradicts itself, or never ends".to_owned()
        }
    })
}

/// Where a schema is. Those within one share the way to it, as names may be long.
#[derive(Clone, Debug, Default)]
struct Pointer(Option<Arc<(Pointer, String)>>);

impl Pointer {
    /// Of what is below, by one or more names between slashes.
    fn below(&self, path: String) -> Self {
        Self(Some(Arc::new((self.clone(), path))))
    }
}

/// As a JSON pointer, for people.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(last) => write!(f, "{}/{}", last.0, last.1),
            None => Ok(()),
        }
    }
}

/// A schema within the schema.
#[derive(Clone, Debug)]
struct Place<'a> {
    pointer: Pointer,
    value: &'a Value,
}

impl Place<'_> {
    fn refuse<T>(&self, keyword: &str, reason: impl Into<String>) -> Result<T> {
        Err(Error::InvalidSchema {
            pointer: format!("#{}", self.pointer),
            keyword: keyword.to_owned(),
            reason: reason.into(),
        })
    }
}

struct Compiler<'a> {
    root: &'a Value,
    places: Vec<Place<'a>>,
    /// The number of each place, by where its value is.
    numbers: HashMap<*const Value, usize>,
    rules: HashMap<All, RuleId>,
    /// Those of numbers and of texts, which many schemas have alike.
    number_rules: HashMap<Numbers, RuleId>,
    text_rules: HashMap<Text, RuleId>,
    /// Patterns that values were compared with; `None` for one that no text has.
    patterns: HashMap<String, Option<Arc<Grammar>>>,
    /// Rules that are called and not defined yet.
    waiting: Vec<(All, RuleId)>,
    /// Schemas that are being looked at for the same value.
    trail: Vec<usize>,
    /// How many schemas are being looked at, for this value and those that it is inside of.
    followed: usize,
    /// How many values inside of each other are being compared with schemas.
    inside: usize,
    dead: dead::Dead,
    builder: Builder,
    spent: size::Spent,
}

impl<'a> Compiler<'a> {
    fn compile(mut self) -> Result<Grammar> {
        let root = self.place(Pointer::default(), self.root);
        let root = self.rule(&All::from([root]));
        let json = Json::new(&mut self.builder).map_err(unusable_grammar)?;
        while let Some((schemas, rule)) = self.waiting.pop() {
            let alternatives = self.alternatives(&schemas)?;
            self.note_dead(&schemas, &alternatives);
            let mut forms = Vec::new();
            for alternative in &alternatives {
                self.note_needed(alternative);
                forms.push(self.form(&json, &schemas, alternative)?);
            }
            let all = super::grammar::Expr::Choice(forms);
            self.builder.define(rule, &all).map_err(unusable_grammar)?;
        }
        self.builder.finish(root).map_err(|why| self.dead.error(why))
    }

    /// The number of a schema.
    fn place(&mut self, pointer: Pointer, value: &'a Value) -> usize {
        let places = &mut self.places;
        *self.numbers.entry(std::ptr::from_ref(value)).or_insert_with(|| {
            places.push(Place { pointer, value });
            places.len() - 1
        })
    }

    /// The rule of values for which all of these schemas hold.
    fn rule(&mut self, schemas: &All) -> RuleId {
        if let Some(&rule) = self.rules.get(schemas) {
            return rule;
        }
        let rule = self.builder.rule();
        self.rules.insert(schemas.clone(), rule);
        self.waiting.push((schemas.clone(), rule));
        rule
    }

    /// What all of these schemas allow.
    fn alternatives(&mut self, schemas: &All) -> Result<Vec<Alternative>> {
        let mut all = Alternative::any();
        self.spent.on = schemas.first().copied();
        for &schema in schemas {
            let allowed = self.allowed(schema)?;
            all = self.both(&all, &allowed)?;
        }
        Ok(all)
    }

    /// What one schema allows.
    fn allowed(&mut self, number: usize) -> Result<Vec<Alternative>> {
        let place = self.places[number].clone();
        self.spend(1)?;
        if self.trail.contains(&number) {
            return place.refuse("$ref", "leads back to itself with no value in between");
        }
        if self.followed == MAX_FOLLOWED {
            let reason = format!(
                "is reached over more than {MAX_FOLLOWED} of `$ref`, `anyOf`, `oneOf` and `allOf`, one in another; write what it says nearer to where it is wanted"
            );
            return place.refuse("$ref", reason);
        }
        self.trail.push(number);
        self.followed += 1;
        self.spend_reading(reading(place.value))?;
        let allowed = match place.value {
            Value::Bool(true) => Ok(Alternative::any()),
            Value::Bool(false) => Ok(Vec::new()),
            Value::Object(fields) => self.constrained(&place, fields),
            other => {
                place.refuse("schema", format!("is {other}, not an object, `true` or `false`"))
            }
        };
        self.trail.pop();
        self.followed -= 1;
        allowed
    }

    /// Values that are of both lists. What is copied is paid for by its size.
    fn both(&mut self, a: &[Alternative], b: &[Alternative]) -> Result<Vec<Alternative>> {
        let mut both = Vec::new();
        let sizes: Vec<usize> = b.iter().map(size).collect();
        for a in a {
            self.spend(b.len())?;
            let size = size(a);
            for (b, other_size) in std::iter::zip(b, &sizes) {
                self.spend(size + other_size)?;
                match (a, b) {
                    (Alternative::Value(value), other) | (other, Alternative::Value(value)) => {
                        if self.keeps(other, value)? {
                            both.push(Alternative::Value(value.clone()));
                        }
                    }
                    _ => both.extend(a.both(b)),
                }
            }
        }
        Ok(both)
    }
}
