//! How large a schema may be, and how much work.

use serde_json::Value;

use super::alternative::Alternative;
use super::{Compiler, unusable};
use crate::error::Result;

/// Schemas, and values in them, nest at most so deeply.
const MAX_DEPTH: usize = 64;
/// Values within each other: some tens of megabytes, each time that the schema is copied.
const MAX_VALUES: usize = 250_000;
/// Bytes of all names and texts.
const MAX_TEXT: usize = 8 << 20;
/// Alternatives that are made or compared, a second of work.
const MAX_WORK: usize = 2_000_000;
/// Members of an `enum` that are never too many, if each is a number or a short text and nothing is beside them.
const MANY_MEMBERS: usize = 50_000;
/// Characters of a name that are told.
const TOLD_CHARACTERS: usize = 40;

/// Refuses a schema that is too large to be copied, or too deep to recurse into.
pub(in crate::sampling::structure) fn check_size(schema: &Value) -> Result<()> {
    let (mut values, mut text) = (0, 0);
    let mut waiting = vec![(schema, 0)];
    while let Some((value, depth)) = waiting.pop() {
        if depth > MAX_DEPTH {
            return Err(unusable(format!(
                "it nests more than {MAX_DEPTH} levels deep; put parts into `$defs` and refer to them"
            )));
        }
        match value {
            Value::Array(items) => waiting.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                text += fields.keys().map(String::len).sum::<usize>();
                waiting.extend(fields.values().map(|item| (item, depth + 1)));
            }
            Value::String(string) => text += string.len(),
            _ => {}
        }
        values += 1;
        if values + waiting.len() > MAX_VALUES {
            return Err(unusable(format!(
                "it holds more than {MAX_VALUES} values, one in another; put what is repeated into `$defs` and refer to it"
            )));
        }
        if text > MAX_TEXT {
            return Err(unusable(format!(
                "its names and texts have more than {} MiB together; shorten them, or leave annotations such as `description` out",
                MAX_TEXT >> 20
            )));
        }
    }
    Ok(())
}

/// Bytes of text that are copied for one unit of work.
const BYTES_PER_WORK: usize = 16;
/// The work of a class of Unicode, which has hundreds of ranges.
const CLASS_WORK: usize = 500;

/// The work of reading the names, values and pattern that a schema itself holds.
pub(super) fn reading(schema: &Value) -> usize {
    let Value::Object(fields) = schema else { return 0 };
    fields.iter().map(|(keyword, value)| reading_of(keyword, value)).sum()
}

fn reading_of(keyword: &str, value: &Value) -> usize {
    match (keyword, value) {
        ("enum" | "const" | "required", value) => value_size(value),
        ("properties", Value::Object(all)) => {
            all.keys().map(|name| 1 + name.len() / BYTES_PER_WORK).sum()
        }
        ("pattern", Value::String(pattern)) => {
            CLASS_WORK * pattern.to_ascii_lowercase().matches("\\p").count()
        }
        _ => 0,
    }
}

/// The work of copying a value.
fn value_size(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(value_size).sum::<usize>(),
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| name.len() / BYTES_PER_WORK + value_size(value);
            1 + fields.iter().map(field).sum::<usize>()
        }
        Value::String(text) => 1 + text.len() / BYTES_PER_WORK,
        _ => 1,
    }
}

/// The work of copying an alternative.
pub(super) fn size(alternative: &Alternative) -> usize {
    let name = |name: &String| 1 + name.len() / BYTES_PER_WORK;
    match alternative {
        Alternative::Value(value) => value_size(value),
        Alternative::Text(text) => text.patterns.iter().map(name).sum(),
        Alternative::Array(array) => {
            array.rest.len() + array.first.iter().map(|all| 1 + all.len()).sum::<usize>()
        }
        Alternative::Object(object) => {
            let declared = object.declared.iter();
            let declared: usize = declared.map(|(text, all)| name(text) + all.len()).sum();
            declared + object.others.len() + object.required.iter().map(name).sum::<usize>()
        }
        _ => 0,
    }
}

/// What it costs to read the value of a keyword.
pub(super) fn weight(keyword: &str, value: &Value) -> usize {
    match value {
        Value::Array(values) => values.len(),
        Value::Object(fields) => fields.len(),
        Value::String(text) if keyword == "pattern" => 4 * text.len(),
        _ => 1,
    }
}

/// Work that was done.
#[derive(Default)]
pub(super) struct Spent {
    all: usize,
    /// To read keywords, not to combine what they say.
    reading: usize,
    /// The schema that is looked at, if it is by none inside of it.
    pub(super) on: Option<usize>,
    /// The schema whose members of `oneOf` are being compared, the outermost.
    pub(super) comparing: Option<usize>,
}

impl Compiler<'_> {
    pub(super) fn spend(&mut self, work: usize) -> Result<()> {
        self.spent.all += work;
        if self.spent.all > MAX_WORK { self.too_much() } else { Ok(()) }
    }

    pub(super) fn spend_reading(&mut self, work: usize) -> Result<()> {
        self.spent.reading += work;
        self.spend(work)
    }

    /// Names the schema that was looked at, and what of it is so large.
    fn too_much(&self) -> Result<()> {
        let at = self.spent.comparing.or(self.trail.last().copied()).or(self.spent.on);
        let place = at.and_then(|number| self.places.get(number));
        let is_read = self.spent.reading > MAX_WORK / 2;
        let reason = if is_read {
            format!(
                "makes the schema cost more than {MAX_WORK} units of work to read; have fewer or shorter names, values and patterns"
            )
        } else {
            format!(
                "makes more than {MAX_WORK} combinations with what is beside it and around it; have fewer alternatives"
            )
        };
        let Some(place) = place else {
            return Err(unusable(format!("all of it {reason}")));
        };
        let Value::Object(fields) = place.value else {
            return place.refuse("schema", reason);
        };
        let cost =
            |(name, value): &(&String, &Value)| weight(name, value) + reading_of(name, value);
        let combines = |(name, _): &(&String, &Value)| COMBINING.contains(&name.as_str());
        if self.spent.comparing.is_some() && !is_read {
            let reason = format!(
                "has so many members that telling them apart takes more than {MAX_WORK} comparisons; use `anyOf`, or have fewer"
            );
            return place.refuse("oneOf", reason);
        }
        let members = fields.get("enum").and_then(Value::as_array).map_or(0, Vec::len);
        if members > MANY_MEMBERS && !is_read {
            let reason = format!(
                "has {members} members; some {MANY_MEMBERS} can be used, fewer where they are large or have something beside them"
            );
            return place.refuse("enum", reason);
        }
        let largest = fields.iter().filter(|field| is_read || combines(field)).max_by_key(cost);
        let keyword = largest.or_else(|| fields.iter().max_by_key(cost)).map(|(name, _)| name);
        let keyword: String =
            keyword.map_or("schema", String::as_str).chars().take(TOLD_CHARACTERS).collect();
        place.refuse(&keyword, reason)
    }
}

/// What makes alternatives of others.
const COMBINING: [&str; 5] = ["anyOf", "oneOf", "allOf", "enum", "$ref"];
