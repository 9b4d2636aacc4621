//! What is refused, and in which words.

use super::*;

/// Token 2 ends a text.
#[test]
fn a_token_that_ends_the_text_is_its_end_or_refused() {
    let ends = [
        ("root ::= \"a\" <[2]>", "a"),
        ("root ::= \"a\" | \"b\" <[2]>", "b"),
        ("root ::= \"a\" ( \"b\" <[2]> )?", "ab"),
        ("root ::= \"a\" <[2]>?", "a"),
        ("root ::= \"a\" last\nlast ::= \"b\" root | <[2]>", "aba"),
        ("root ::= <[2]>", ""),
        ("root ::= !<[2]> | \"a\"", "a"),
    ];
    for (grammar, text) in ends {
        assert!(takes(gbnf(grammar), text), "{grammar}");
        assert!(!takes(gbnf(grammar), &format!("{text}!")), "{grammar}");
    }
    let refused = [
        ("root ::= <[2]> \"a\"", "`<[2]> \"a\"`"),
        ("root ::= \"a\" <[2]> \"b\"", "`<[2]> \"b\"`"),
        ("root ::= last \"b\"\nlast ::= \"a\" <[2]>", "line 2, at `<[2]>`"),
        ("root ::= (\"a\" <[2]>)*", "`<[2]>)*`"),
        ("root ::= \"a\" <[2]> <[2]>", "`<[2]> <[2]>`"),
        ("root ::= \"a\" <[2]>+", "`<[2]>+`"),
        ("root ::= root \"b\" | <[2]>", "`<[2]>`"),
        (
            "root ::= \"x\" one\none ::= two\ntwo ::= three \"\" one\nthree ::= <[2]> | \"c\"",
            "line 4",
        ),
    ];
    for (grammar, place) in refused {
        let reason = reason(&Structure::Grammar(grammar.to_owned()));
        assert!(reason.contains("ends the text") && reason.contains("very end"), "{reason}");
        assert!(reason.contains(place), "{grammar}: {reason}");
    }
}

#[test]
fn alternatives_on_several_lines_are_written_in_two_ways() {
    for grammar in ["root ::= \"a\" |\n  \"b\"", "root ::= ( \"a\"\n  | \"b\" )"] {
        assert!(takes(gbnf(grammar), "a") && takes(gbnf(grammar), "b"), "{grammar}");
    }
}

#[test]
fn faults_of_grammars_say_what_to_write() {
    let cases = [
        ("root ::= a_b\na_b ::= \"x\"", "no `_`: write `-`"),
        ("a_b ::= \"x\"", "no `_`: write `-`"),
        ("root ::= größe", "letters from `a` to `z`"),
        ("root ::= 'a'", "between `\"` and `\"`"),
        ("root ::= “a”", "between `\"` and `\"`"),
        ("root ::=\u{a0}\"a\"", "`\\u{a0}\"a\"`"),
        ("root ::=\u{a0}\"a\"", "write a space"),
        ("root ::= \"a\" \u{200b}", "`\\u{200b}`"),
        ("root ::= \"a\";", "without `;`"),
        ("root ::= \"a\", \"b\"", "without `,`"),
        ("root ::= /a/", "comments begin with `#`"),
        ("root = \"a\"", "`name ::= …`"),
        ("root -> \"a\"", "`name ::= …`"),
        ("root->\"a\"", "`name ::= …`"),
        ("root <- \"a\"", "`name ::= …`"),
        ("root", "`name ::= …`"),
        ("root ::= \"a\"\n  | \"b\"", "end that line with `|`"),
        ("root ::= \"a\"\n\n| \"b\"", "end that line with `|`"),
        ("root ::= \\d+", "`[0-9]` for `\\d`"),
        ("root ::= \"a\" \\w", "`[0-9]` for `\\d`"),
        ("root ::= [\\d]", "`[0-9]` for `\\d`"),
        ("root ::= \"\\s\"", "`[0-9]` for `\\d`"),
        ("root ::= \"\\'\"", "leave the `\\` out"),
        ("root ::= ^\"a\"$", "without `^` and `$`"),
        ("root ::= \"a\"$", "without `^` and `$`"),
        ("root ::= (?:\"a\")", "without `?:`"),
        ("root ::= [[:digit:]]", "`[0-9]` for `[[:digit:]]`"),
    ];
    for (grammar, part) in cases {
        let reason = reason(&Structure::Grammar(grammar.to_owned()));
        assert!(reason.contains(part), "{grammar}: {reason}");
    }
    assert!(takes(gbnf("\u{feff}root ::= \"a\""), "a"));
    let long = Structure::Grammar("#".repeat((16 << 20) + 1));
    assert!(reason(&long).contains("16 MiB"));
}

#[test]
fn faults_of_patterns_name_the_escape_and_its_place() {
    let cases = [
        ("^abc\\Z$", "`\\Z` at character 5"),
        ("(?<n>a)\\k<n>", "`\\k` at character 8, which refers back"),
        ("(a)\\1", "`\\1` at character 4, which refers back"),
        ("x(?>a)", "`(?>` at character 2, a kind of group"),
        ("\\ud83d", "`\\ud83d` at character 1, which is half"),
        ("a\\ude00b", "`\\ude00` at character 2, which is half"),
        ("a(?=b)", "at character 2, a look-around"),
        ("\\0\\ud83d\\ude00\\Z", "`\\Z` at character 15"),
        ("ä\\bx", "`\\b` at character 2"),
        ("[[:^alpha:]]", "`[:^alpha:]` at character 2"),
        ("a{", "at character 2"),
        ("a{,3}", "at character 3"),
        ("(a", "at character 1"),
        ("\\u12", "at character"),
    ];
    for (pattern, part) in cases {
        let reason = reason(&Structure::JsonSchema(json!({"type": "string", "pattern": pattern})));
        assert!(reason.contains(part), "{pattern}: {reason}");
    }
    let read = [
        ("^\\ud83d\\ude00$", json!("😀")),
        ("^[\\ud83d\\ude00-\\ud83d\\ude02]$", json!("😁")),
        ("^a\\cJ$", json!("a\n")),
        ("^\\0$", json!("\0")),
        ("^\\u00e9\\\\u$", json!("é\\u")),
    ];
    for (pattern, text) in read {
        let form = json!({"type": "string", "pattern": pattern});
        assert!(takes(schema(form), &text.to_string()), "{pattern}");
    }
}

/// The contradiction, not the `false` alone.
#[test]
fn what_needs_a_value_that_cannot_be_is_named() {
    let cases = [
        (
            json!({"type": "object", "properties": {"a": {}}, "required": ["z"], "additionalProperties": false}),
            "the property `z` is required, but `#/additionalProperties` is `false`",
        ),
        (
            json!({"type": "object", "allOf": [{"properties": {"a": {"type": "null"}}, "additionalProperties": false}, {"properties": {"b": {}}, "required": ["b"]}]}),
            "the property `b` is required, but `#/allOf/0/additionalProperties` is `false`",
        ),
        (
            json!({"type": "object", "properties": {"a": false}, "required": ["a"]}),
            "the property `a` is required, but `#/properties/a` is `false`",
        ),
        (
            json!({"type": "array", "prefixItems": [{"const": 1}], "items": false, "minItems": 2}),
            "a list of 2 items is needed, but `#/items` is `false`, so that it has 1 at most",
        ),
    ];
    for (form, part) in cases {
        let reason = reason(&Structure::JsonSchema(form.clone()));
        assert!(reason.contains(part), "{form}: {reason}");
        assert!(!reason.contains("no value can satisfy"), "{reason}");
    }
}

#[test]
fn formats_of_numbers_are_bounds() {
    let cases = [
        ("int32", "2147483647", "2147483648"),
        ("int32", "-2147483648", "-2147483649"),
        ("uint8", "255", "256"),
        ("uint64", "0", "-1"),
        ("int64", "999999999999999999", "1.5"),
        ("uint", "7", "-7"),
    ];
    for (format, inside, outside) in cases {
        for kind in ["integer", "number"] {
            let form = json!({"type": kind, "format": format});
            assert!(takes(schema(form.clone()), inside), "{form} {inside}");
            assert!(!takes(schema(form.clone()), outside), "{form} {outside}");
        }
    }
    assert!(takes(schema(json!({"type": "integer", "format": "int32", "minimum": 5})), "17"));
    assert!(takes(schema(json!({"type": "number", "format": "double"})), "2.5"));
    assert!(takes(schema(json!({"type": ["string", "integer"], "format": "int32"})), "\"any\""));
    let refused = [
        (json!({"type": "string", "format": "int64"}), "^-?[0-9]{1,18}$"),
        (json!({"type": "integer", "format": "decimal"}), "`minimum` and `maximum`"),
        (json!({"type": "string", "format": "regex"}), "write it as a `pattern`"),
        (json!({"type": "integer", "format": "uint8", "minimum": 300}), "no value"),
        // Checkers that do not know the format take both.
        (
            json!({"oneOf": [{"type": "integer", "format": "int8"}, {"const": 1000}]}),
            "one value may satisfy members 0 and 1",
        ),
    ];
    for (form, part) in refused {
        let reason = reason(&Structure::JsonSchema(form.clone()));
        assert!(reason.contains(part), "{form}: {reason}");
    }
}

#[test]
fn numbers_that_were_rounded_are_refused() {
    for text in
        ["0.1234567890123456789", "[1, 1234567.12345678901]", "{\"a\": 0.30000000000000004}"]
    {
        let value: Value = serde_json::from_str(text).unwrap();
        let reason = reason(&Structure::JsonSchema(json!({"const": value})));
        assert!(reason.contains("at most 15 digits"), "{text}: {reason}");
    }
    for text in ["0.123456789012345", "-2.5", "1.5e-300", "1234567890123456.0", "100000.0"] {
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(takes(schema(json!({"const": value})), &value.to_string()), "{text}");
    }
}

#[test]
fn large_schemas_are_refused_by_what_makes_them_large() {
    assert!(takes(schema(json!({"type": "null", "description": "x".repeat(3_000_000)})), "null"));
    let property = json!({"type": "string", "pattern": "a".repeat(600_000)});
    let form = json!({"properties": {"name": property}});
    let told = reason(&Structure::JsonSchema(form));
    assert!(told.contains("`pattern` at `#/properties/name`"), "{told}");
    assert!(told.contains("to read"), "{told}");
    let cases: Vec<Value> = (0..2000).map(|i| json!({"minimum": i, "type": "number"})).collect();
    let form = json!({"items": {"allOf": [{"anyOf": cases}, {"anyOf": cases}]}});
    let told = reason(&Structure::JsonSchema(form));
    assert!(told.contains("`allOf` at `#/items`") && told.contains("combinations"), "{told}");
    let members: Vec<Value> = (0..600)
        .map(|i| json!({"type": "object", "properties": {"k": {"const": i}}, "required": ["k"]}))
        .collect();
    let told = reason(&Structure::JsonSchema(json!({"items": {"oneOf": members}})));
    assert!(told.contains("`oneOf` at `#/items`") && told.contains("comparisons"), "{told}");
    let many = json!({"enum": vec![0; 250_000]});
    assert!(reason(&Structure::JsonSchema(many)).contains("250000 values"));
    let long = json!({"description": "x".repeat((8 << 20) + 1)});
    assert!(reason(&Structure::JsonSchema(long)).contains("8 MiB"));
}
