//! Which keywords there are, and what becomes of them.

use super::Place;
use crate::error::Result;

/// What is enforced.
const ENFORCED: [&str; 26] = [
    "type",
    "enum",
    "const",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "prefixItems",
    "items",
    "additionalItems",
    "minItems",
    "maxItems",
    "properties",
    "required",
    "additionalProperties",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$defs",
    "definitions",
    "uniqueItems",
];

/// What says nothing about values. Names that begin with `x-` do not either.
pub(super) const ANNOTATIONS: [&str; 18] = [
    "title",
    "description",
    "default",
    "example",
    "examples",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "id",
    "$comment",
    "$anchor",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "nullable",
    "discriminator",
];

/// What is known and not enforced, with what to do instead.
const REFUSED: [(&str, &str); 18] = [
    ("not", "say what is allowed instead"),
    ("if", "write the cases as `anyOf`"),
    ("then", "write the cases as `anyOf`"),
    ("else", "write the cases as `anyOf`"),
    ("contains", "put what must be there first, by `prefixItems`"),
    ("minContains", "put what must be there first, by `prefixItems`"),
    ("maxContains", "describe each item by `prefixItems`"),
    ("multipleOf", "list the values by `enum`, or round the answer"),
    ("minProperties", "name the properties by `required`"),
    ("maxProperties", "declare fewer `properties`"),
    (
        "patternProperties",
        "declare the names by `properties`, or all others by `additionalProperties`",
    ),
    ("propertyNames", "declare the names by `properties`"),
    ("dependentRequired", "write the cases as `anyOf`"),
    ("dependentSchemas", "write the cases as `anyOf`"),
    ("dependencies", "write the cases as `anyOf`"),
    ("unevaluatedItems", "use `items` beside `prefixItems`"),
    ("unevaluatedProperties", "use `additionalProperties`"),
    ("$dynamicRef", "use `$ref`"),
];

/// Refuses a keyword that is not enforced and no annotation.
pub(super) fn check_known(place: &Place<'_>, keyword: &str) -> Result<()> {
    if let Some((_, remedy)) = REFUSED.iter().find(|(known, _)| *known == keyword) {
        return place.refuse(keyword, format!("cannot be enforced; {remedy}"));
    }
    let is_known = ENFORCED.contains(&keyword) || ANNOTATIONS.contains(&keyword);
    if is_known || keyword.starts_with("x-") {
        return Ok(());
    }
    let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(known, keyword);
    let near = ENFORCED.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let near = near.filter(|near| likeness(near) > 0.6);
    let meant = near.map_or_else(|| ".".to_owned(), |near| format!("; did you mean `{near}`?"));
    let reason = format!("is not a known keyword{meant} Names of your own must begin with `x-`");
    place.refuse(keyword, reason)
}
