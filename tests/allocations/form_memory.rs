//! Reading a form takes memory within bounds.

use moe_offload::Structure;
use serde_json::{Map, Value, json};

use crate::PEAK;
use crate::support::alone::ran_alone;

/// A property of a long name with many members, each of which has the name in its place; then a schema
/// that is refused before it is looked into.
#[test]
fn large_schemas_take_no_memory_beyond_bounds() {
    if ran_alone() {
        return;
    }
    let mut properties = Map::new();
    properties.insert("k".repeat(200_000), json!({"anyOf": vec![Value::Bool(true); 20_000]}));
    let structure = Structure::JsonSchema(json!({"type": "object", "properties": properties}));
    PEAK.reset_peak_usage();
    let before = PEAK.current_usage();
    let reason = structure.validate().unwrap_err().to_string();
    let peak = PEAK.peak_usage() - before;
    assert!(reason.contains("1000000 elements"), "{reason}");
    assert!(peak < 300 << 20, "{peak} bytes");

    // It took gigabytes, and no limit held while they were copied.
    let structure = Structure::JsonSchema(json!({"anyOf": vec![json!({"type": "null"}); 150_000]}));
    PEAK.reset_peak_usage();
    let before = PEAK.current_usage();
    let reason = structure.validate().unwrap_err().to_string();
    let peak = PEAK.peak_usage() - before;
    assert!(reason.contains("250000 values"), "{reason}");
    assert!(peak < 16 << 20, "{peak} bytes");
}
