//! The keywords of one schema.

use serde_json::{Map, Value};

use super::alternative::{All, Alternative, Array, Object, Text};
use super::known::check_known;
use super::number::{Bound, EXACT_DIGITS, Numbers, Whole};
use super::size::weight;
use super::{Compiler, Place, format, pattern};
use crate::error::Result;
use crate::sampling::structure::grammar::MAX_ELEMENTS;

type Fields = Map<String, Value>;

const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

impl<'a> Compiler<'a> {
    /// What an object of keywords allows.
    pub(super) fn constrained(
        &mut self,
        place: &Place<'a>,
        fields: &'a Fields,
    ) -> Result<Vec<Alternative>> {
        self.spend_reading(fields.iter().map(|(name, value)| weight(name, value)).sum())?;
        fields.keys().try_for_each(|keyword| check_known(place, keyword))?;
        self.check_draft(place, fields)?;
        let mut allowed = self.of_types(place, fields)?;
        let bounds = BOUNDS.iter().find(|keyword| fields.contains_key(**keyword));
        self.note_emptied(place, bounds.unwrap_or(&"type"), &allowed);
        if let Some(values) = fields.get("enum") {
            let Value::Array(values) = values else {
                return place.refuse("enum", "must be a list of values");
            };
            check_numbers(place, "enum", values)?;
            allowed = self.among(&allowed, values)?;
            self.note_emptied(place, "enum", &allowed);
        }
        if let Some(value) = fields.get("const") {
            let values = std::slice::from_ref(value);
            check_numbers(place, "const", values)?;
            allowed = self.among(&allowed, values)?;
            self.note_emptied(place, "const", &allowed);
        }
        self.combined(place, fields, allowed)
    }

    fn among(&mut self, allowed: &[Alternative], values: &[Value]) -> Result<Vec<Alternative>> {
        let values: Vec<_> = values.iter().cloned().map(Alternative::Value).collect();
        self.both(&values, allowed)
    }

    fn of_types(&mut self, place: &Place<'a>, fields: &'a Fields) -> Result<Vec<Alternative>> {
        let types = types(place, fields)?;
        let numbers = numbers(place, fields)?;
        let text = text(place, fields)?;
        let array = self.array(place, fields)?;
        let object = self.object(place, fields)?;
        let has = |name| types.contains(&name);
        let mut allowed = Vec::new();
        if has("null") {
            allowed.push(Alternative::Null);
        }
        if has("boolean") {
            allowed.push(Alternative::Boolean);
        }
        if has("number") || has("integer") {
            let is_whole = !has("number");
            let numbers = Numbers { is_whole, ..numbers };
            if !numbers.is_empty() {
                allowed.push(Alternative::Number(numbers));
            }
        }
        if has("string") {
            allowed.push(Alternative::Text(text));
        }
        if has("array") {
            allowed.push(Alternative::Array(array));
        }
        if has("object") {
            allowed.push(Alternative::Object(object));
        }
        Ok(allowed)
    }

    /// A schema below this one.
    fn below(&mut self, place: &Place<'a>, path: &str, value: &'a Value) -> usize {
        self.place(place.pointer.below(path.to_owned()), value)
    }

    fn array(&mut self, place: &Place<'a>, fields: &'a Fields) -> Result<Array> {
        let mut array = Array::default();
        let mut first = fields.get("prefixItems").map(|items| ("prefixItems", items));
        let mut rest = fields.get("items").map(|items| ("items", items));
        if let Some(("items", Value::Array(_))) = rest {
            if first.is_some() {
                return place.refuse("items", "is a list beside `prefixItems`; make it one schema");
            }
            first = rest;
            rest = fields.get("additionalItems").map(|items| ("additionalItems", items));
        }
        if let Some((keyword, items)) = first {
            let Value::Array(items) = items else {
                return place.refuse(keyword, "must be a list of schemas");
            };
            for (index, item) in items.iter().enumerate() {
                let item = self.below(place, &format!("{keyword}/{index}"), item);
                array.first.push(All::from([item]));
            }
        }
        if let Some((keyword, items)) = rest {
            array.rest.insert(self.below(place, keyword, items));
            array.names_rest = true;
        }
        if fields.get("uniqueItems").is_some_and(|unique| *unique != Value::Bool(false)) {
            return place.refuse(
                "uniqueItems",
                "cannot be enforced: leave it out and remove duplicates from the answer",
            );
        }
        array.least = count(place, fields, "minItems")?.unwrap_or(0);
        array.most = count(place, fields, "maxItems")?;
        check_length(place, "minItems", array.least)?;
        in_order(place, "minItems", array.least, array.most)?;
        Ok(array)
    }

    fn object(&mut self, place: &Place<'a>, fields: &'a Fields) -> Result<Object> {
        let mut object = Object::default();
        match fields.get("properties") {
            None => {}
            Some(Value::Object(properties)) => {
                for (name, schema) in properties {
                    let path = format!("properties/{}", escaped(name));
                    let schema = self.below(place, &path, schema);
                    object.declared.push((name.clone(), All::from([schema])));
                }
            }
            Some(_) => return place.refuse("properties", "must be an object of schemas"),
        }
        match fields.get("required") {
            None => {}
            Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
                object.required =
                    names.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            Some(_) => return place.refuse("required", "must be a list of names"),
        }
        if let Some(others) = fields.get("additionalProperties") {
            object.others.insert(self.below(place, "additionalProperties", others));
            object.names_others = *others != Value::Bool(false);
        }
        Ok(object)
    }

    /// What is left of values that are allowed so far.
    fn combined(
        &mut self,
        place: &Place<'a>,
        fields: &'a Fields,
        mut allowed: Vec<Alternative>,
    ) -> Result<Vec<Alternative>> {
        if let Some(reference) = fields.get("$ref") {
            let target = self.referred(place, reference)?;
            let target = self.allowed(target)?;
            allowed = self.both(&allowed, &target)?;
            self.note_emptied(place, "$ref", &allowed);
        }
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let Some(members) = fields.get(keyword) else { continue };
            let Value::Array(members) = members else {
                return place.refuse(keyword, "must be a list of schemas");
            };
            let mut lists = Vec::new();
            for (index, member) in members.iter().enumerate() {
                let member = self.below(place, &format!("{keyword}/{index}"), member);
                lists.push(self.allowed(member)?);
            }
            if keyword == "allOf" {
                for list in &lists {
                    allowed = self.both(&allowed, list)?;
                }
                self.note_emptied(place, keyword, &allowed);
                continue;
            }
            if keyword == "oneOf" {
                self.check_apart(place, &lists)?;
            }
            let any: Vec<Alternative> = lists.into_iter().flatten().collect();
            allowed = self.both(&allowed, &any)?;
            self.note_emptied(place, keyword, &allowed);
        }
        Ok(allowed)
    }
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn types<'a>(place: &Place<'_>, fields: &'a Fields) -> Result<Vec<&'a str>> {
    let types = match fields.get("type") {
        None => return Ok(TYPES.to_vec()),
        Some(Value::Array(types)) => types.iter().collect(),
        Some(one) => vec![one],
    };
    let known = |value: &&'a Value| value.as_str().filter(|name| TYPES.contains(name));
    match types.iter().find(|value| known(value).is_none()) {
        Some(unknown) => place.refuse(
            "type",
            format!("is {unknown}; the types are the texts \"{}\"", TYPES.join("\", \"")),
        ),
        None => Ok(types.iter().filter_map(known).collect()),
    }
}

/// A number of characters or items.
fn count(place: &Place<'_>, fields: &Fields, keyword: &str) -> Result<Option<usize>> {
    let Some(value) = fields.get(keyword) else { return Ok(None) };
    let float = value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..1e15).contains(float));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    match float {
        Some(count) => Ok(Some(count as usize)),
        None => place.refuse(keyword, format!("is {value}, not a number from 0 to 10^15")),
    }
}

fn check_length(place: &Place<'_>, keyword: &str, least: usize) -> Result<()> {
    if least > MAX_ELEMENTS {
        let reason =
            format!("is {least}: its grammar has more than {MAX_ELEMENTS} elements; lower it");
        return place.refuse(keyword, reason);
    }
    Ok(())
}

/// Refuses numbers that may have been written with more digits than were kept.
fn check_numbers(place: &Place<'_>, keyword: &str, values: &[Value]) -> Result<()> {
    let mut waiting: Vec<&Value> = values.iter().collect();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(fields) => waiting.extend(fields.values()),
            Value::Number(number) if number.is_f64() => {
                // Beyond 2^53 not every whole number is a double.
                let is_exact =
                    number.as_f64().is_some_and(|float| float.abs() < 9_007_199_254_740_992.0);
                if !is_exact {
                    let reason = format!(
                        "holds {number}, which is too large to be kept exactly; write it as a text"
                    );
                    return place.refuse(keyword, reason);
                }
                if has_too_many_digits(&number.to_string()) {
                    let reason = format!(
                        "holds {number}, which may have been rounded when it was read; write at most {EXACT_DIGITS} digits, or a text"
                    );
                    return place.refuse(keyword, reason);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether a number with a fraction has more digits than a double keeps.
fn has_too_many_digits(number: &str) -> bool {
    let (digits, _) = number.split_once('e').unwrap_or((number, ""));
    let digits: String = digits.chars().filter(char::is_ascii_digit).collect();
    let is_whole = !number.contains('.') || number.ends_with(".0");
    !is_whole && digits.trim_start_matches('0').len() > EXACT_DIGITS as usize
}

fn in_order(place: &Place<'_>, keyword: &str, least: usize, most: Option<usize>) -> Result<()> {
    match most.filter(|&most| most < least) {
        Some(most) => place.refuse(
            keyword,
            format!("is {least}, but its counterpart allows at most {most}; no value has both"),
        ),
        None => Ok(()),
    }
}

fn numbers(place: &Place<'_>, fields: &Fields) -> Result<Numbers> {
    let bound = |keyword: &str, is_exclusive| match fields.get(keyword) {
        None => Ok(None),
        Some(Value::Number(number)) => match Bound::of(number, is_exclusive) {
            Some(bound) => Ok(Some(bound)),
            None => place.refuse(
                keyword,
                format!("is {number}; bounds have at most 12 decimals and are below 10^24"),
            ),
        },
        Some(other) => place.refuse(keyword, format!("is {other}, not a number")),
    };
    let pair = |inclusive, exclusive, is_least| {
        let (a, b) = (bound(inclusive, false)?, bound(exclusive, true)?);
        Ok(super::number::tighter(a, b, is_least))
    };
    let numbers = Numbers {
        is_whole: false,
        least: pair("minimum", "exclusiveMinimum", true)?,
        most: pair("maximum", "exclusiveMaximum", false)?,
        format: fields.get("format").and_then(Value::as_str).and_then(Whole::of),
    };
    if numbers.is_empty() {
        let keyword = if fields.contains_key("minimum") { "minimum" } else { "exclusiveMinimum" };
        return place.refuse(
            keyword,
            "and the upper bound contradict each other; no number satisfies both",
        );
    }
    Ok(numbers)
}

fn text(place: &Place<'_>, fields: &Fields) -> Result<Text> {
    let mut text = Text {
        least: count(place, fields, "minLength")?.unwrap_or(0),
        most: count(place, fields, "maxLength")?,
        ..Text::default()
    };
    in_order(place, "minLength", text.least, text.most)?;
    check_length(place, "minLength", text.least)?;
    match fields.get("pattern") {
        None => {}
        Some(Value::String(found)) => {
            if let Err(reason) = pattern::pattern(found) {
                return place.refuse("pattern", reason);
            }
            text.patterns.insert(found.clone());
        }
        Some(other) => return place.refuse("pattern", format!("is {other}, not a text")),
    }
    match fields.get("format") {
        None => {}
        Some(Value::String(name)) if format::pattern(name).is_some() => {
            text.formats.insert(name.clone());
        }
        Some(Value::String(name)) => check_format(place, fields, name)?,
        Some(other) => return place.refuse("format", format!("is {other}, not a text")),
    }
    Ok(text)
}

/// Refuses a format that is none of texts, unless it is one of numbers and stands where numbers do.
fn check_format(place: &Place<'_>, fields: &Fields, name: &str) -> Result<()> {
    let is_of_numbers = Whole::of(name).is_some() || NOTED_FORMATS.contains(&name);
    let types = types(place, fields)?;
    let has_numbers = types.contains(&"number") || types.contains(&"integer");
    let remedy = match (is_of_numbers, has_numbers) {
        (true, true) => return Ok(()),
        (true, false) => {
            "is one of numbers, which `type` leaves out; write what the text looks like as a `pattern`, as `^-?[0-9]{1,18}$`"
        }
        (false, true) if !types.contains(&"string") => {
            "cannot be enforced; write it as `minimum` and `maximum`, or leave it out"
        }
        (false, _) => "cannot be enforced; write it as a `pattern`",
    };
    place.refuse("format", format!("`{name}` {remedy}"))
}

/// They say how a number is kept, not which it is.
const NOTED_FORMATS: [&str; 2] = ["float", "double"];
