//! Forms that an answer must have: grammars and JSON schemas.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Constraints of JSON Schema that the engine's conversion passes over; an answer could break them.
const UNKNOWN: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "multipleOf",
    "minProperties",
    "maxProperties",
    "patternProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Schemas nest at most so deeply.
const MAX_DEPTH: usize = 64;

/// A form that the whole answer must have.
///
/// The answer has it when the model itself ended it ([`StopReason::EndOfText`]); one that a limit
/// or a stop string cut off is only the beginning of such a text.
///
/// ```
/// use moe_offload::{GenerateOptions, Structure};
/// let options = GenerateOptions::default()
///     .structure(Structure::Grammar(r#"root ::= "yes" | "no""#.into()));
/// let schema = serde_json::json!({"type": "object", "properties": {"age": {"type": "integer"}}});
/// let options = GenerateOptions::default().structure(Structure::JsonSchema(schema));
/// assert!(options.structure.is_some());
/// ```
///
/// [`StopReason::EndOfText`]: crate::StopReason::EndOfText
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Structure {
    /// llama.cpp's notation for grammars (GBNF); its start is `root`.
    Grammar(String),
    /// JSON that a schema allows. What the engine cannot enforce, such as `uniqueItems`, is
    /// refused; bounds of numbers are kept only for integers, and of `oneOf` any one is taken.
    JsonSchema(Value),
}

/// The engine parses grammars by recursion, which must not exhaust the stack.
pub(crate) fn check_grammar(text: &str) -> Result<()> {
    const MAX_OPEN: usize = 500;
    let mut open = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN {
            let reason = format!("more than {MAX_OPEN} parentheses are open at once");
            return Err(Error::InvalidStructure { what: "grammar", reason });
        }
    }
    Ok(())
}

/// What cannot be enforced in a schema is refused.
pub(crate) fn check_schema(schema: &Value) -> Result<()> {
    let refused = |reason: String| Err(Error::InvalidStructure { what: "JSON schema", reason });
    if !schema.is_object() && !schema.is_boolean() {
        return refused(format!("it is {schema}, not an object"));
    }
    match unknown(schema, 0) {
        None => Ok(()),
        Some(what) => refused(what),
    }
}

/// The first thing in a schema that cannot be enforced.
fn unknown(schema: &Value, depth: usize) -> Option<String> {
    if depth > MAX_DEPTH {
        return Some(format!("it nests more than {MAX_DEPTH} levels deep"));
    }
    let fields = schema.as_object()?;
    if let Some(&key) = UNKNOWN.iter().find(|&&key| fields.contains_key(key)) {
        return Some(format!("`{key}` cannot be enforced"));
    }
    let number = fields.get("type").and_then(Value::as_str) == Some("number");
    let bounds = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    if let Some(key) = bounds.iter().find(|&&key| number && fields.contains_key(key)) {
        return Some(format!("`{key}` can be enforced for integers only"));
    }
    if fields.contains_key("prefixItems") && fields.contains_key("items") {
        return Some("`items` beside `prefixItems` cannot be enforced".to_owned());
    }
    let by_name = ["properties", "$defs", "definitions"];
    let named = by_name.iter().filter_map(|&key| fields.get(key)?.as_object());
    let lists = ["anyOf", "oneOf", "allOf", "prefixItems", "items"];
    let listed = lists.iter().filter_map(|&key| fields.get(key)?.as_array());
    let single = ["items", "additionalProperties"].iter().filter_map(|&key| fields.get(key));
    let inner = named.flat_map(serde_json::Map::values).chain(listed.flatten()).chain(single);
    let mut inner = inner.filter(|schema| schema.is_object());
    inner.find_map(|schema| unknown(schema, depth + 1))
}
