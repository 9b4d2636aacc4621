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
mod format;
mod keywords;
mod known;
mod number;
mod pattern;
mod refer;
mod values;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use self::alternative::{All, Alternative, Text};
use self::emit::Json;
use self::number::Numbers;
use super::grammar::{Builder, Grammar, MAX_ELEMENTS, RuleId, Unusable};
use crate::error::{Error, Result};

/// Schemas, and values in them, nest at most so deeply.
const MAX_DEPTH: usize = 64;
/// Alternatives that are made or compared, a second of work.
const MAX_WORK: usize = 2_000_000;

/// The grammar of JSON texts that a schema allows.
pub(super) fn grammar(schema: &Value) -> Result<Grammar> {
    check_depth(schema)?;
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
        inside: 0,
        dead: dead::Dead::default(),
        builder: Builder::default(),
        work: 0,
    };
    compiler.compile()
}

/// Before anything recurses into it.
fn check_depth(schema: &Value) -> Result<()> {
    let mut waiting = vec![(schema, 0)];
    while let Some((value, depth)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return Err(unusable(format!("it nests more than {MAX_DEPTH} levels deep")));
        }
        match value {
            Value::Array(items) => waiting.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => waiting.extend(fields.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

fn unusable(reason: String) -> Error {
    Error::InvalidStructure { what: "JSON schema", reason }
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

/// A schema within the schema.
#[derive(Clone, Debug)]
struct Place<'a> {
    /// As a JSON pointer, for people.
    pointer: String,
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
    /// How many values inside of each other are being compared with schemas.
    inside: usize,
    dead: dead::Dead,
    builder: Builder,
    work: usize,
}

impl<'a> Compiler<'a> {
    fn compile(mut self) -> Result<Grammar> {
        let root = self.place(String::new(), self.root);
        let root = self.rule(&All::from([root]));
        let json = Json::new(&mut self.builder).map_err(unusable_grammar)?;
        while let Some((schemas, rule)) = self.waiting.pop() {
            let alternatives = self.alternatives(&schemas)?;
            self.note_dead(&schemas, &alternatives);
            let mut forms = Vec::new();
            for alternative in &alternatives {
                forms.push(self.form(&json, &schemas, alternative)?);
            }
            let all = super::grammar::Expr::Choice(forms);
            self.builder.define(rule, &all).map_err(unusable_grammar)?;
        }
        self.builder.finish(root).map_err(|why| self.dead.error(why))
    }

    /// The number of a schema.
    fn place(&mut self, pointer: String, value: &'a Value) -> usize {
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

    fn spend(&mut self, work: usize) -> Result<()> {
        self.work += work;
        if self.work > MAX_WORK {
            let reason = format!(
                "its alternatives make more than {MAX_WORK} combinations; have fewer in `anyOf`, `oneOf`, `allOf` and `enum`"
            );
            return Err(unusable(reason));
        }
        Ok(())
    }

    /// What all of these schemas allow.
    fn alternatives(&mut self, schemas: &All) -> Result<Vec<Alternative>> {
        let mut all = Alternative::any();
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
        self.trail.push(number);
        let allowed = match place.value {
            Value::Bool(true) => Ok(Alternative::any()),
            Value::Bool(false) => Ok(Vec::new()),
            Value::Object(fields) => self.constrained(&place, fields),
            other => {
                place.refuse("schema", format!("is {other}, not an object, `true` or `false`"))
            }
        };
        self.trail.pop();
        allowed
    }

    /// Values that are of both lists.
    fn both(&mut self, a: &[Alternative], b: &[Alternative]) -> Result<Vec<Alternative>> {
        let mut both = Vec::new();
        for a in a {
            self.spend(b.len())?;
            for b in b {
                self.spend(a.parts() + b.parts())?;
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
