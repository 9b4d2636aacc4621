//! Forms by themselves, without a model: texts are drawn from the grammar at random.

mod faults;
mod readings;

use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::{Union, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use super::Structure;
use super::effort::Effort;
use super::gbnf::{Named, numbered};
use super::matcher::Matcher;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};

fn no_token(name: &str) -> Option<Named> {
    numbered(name).map(|id| Named { id, is_end: id == 2 })
}

fn matcher(structure: &Structure) -> Result<Matcher> {
    let grammar = structure.compile(&no_token)?;
    Matcher::new(Arc::new(grammar), &mut Effort::new(&|| Ok(())))
}

fn gbnf(text: &str) -> Matcher {
    matcher(&Structure::Grammar(text.to_owned())).unwrap()
}

fn schema(schema: Value) -> Matcher {
    let shown: String = schema.to_string().chars().take(300).collect();
    matcher(&Structure::JsonSchema(schema)).unwrap_or_else(|error| panic!("{shown}: {error}"))
}

fn reason(structure: &Structure) -> String {
    match matcher(structure) {
        Ok(_) => panic!("it is accepted: {:.300}", format!("{structure:?}")),
        Err(error) => error.to_string(),
    }
}

fn takes(mut matcher: Matcher, text: &str) -> bool {
    let mut effort = Effort::new(&|| Ok(()));
    matcher.accept_text(text, &mut effort).unwrap() && matcher.is_complete()
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// A text of the grammar, drawn character by character; `None` if it has no end within `most`.
fn draw(matcher: &mut Matcher, dice: &mut Dice, most: usize) -> Option<String> {
    let mut effort = Effort::new(&|| Ok(()));
    let mut text = String::new();
    for _ in 0..most {
        let sets = matcher.expected_sets();
        if matcher.is_complete() && (sets.is_empty() || dice.below(3) == 0) {
            return Some(text);
        }
        assert!(!sets.is_empty(), "a dead end after {text}");
        let ranges = sets[dice.below(sets.len())].ranges().to_vec();
        let (from, to) = ranges[dice.below(ranges.len())];
        let span = usize::try_from(to - from + 1).unwrap();
        let c = char::from_u32(from + u32::try_from(dice.below(span.min(200))).unwrap()).unwrap();
        assert!(matcher.accept_text(c.encode_utf8(&mut [0; 4]), &mut effort).unwrap());
        text.push(c);
    }
    None
}

#[test]
fn grammars_are_read_as_llama_cpp_reads_them() {
    let cases: [(&str, &[&str], &[&str]); 16] = [
        (r#"root ::= "yes" | "no""#, &["yes", "no"], &["", "ye", "yesno", "maybe"]),
        (r#"root ::= "a"{2,3} [0-9]+"#, &["aa1", "aaa12"], &["a1", "aaaa1", "aa"]),
        (r#"root ::= "ab"*"#, &["", "ab", "abab"], &["a", "aba", "abb"]),
        (r#"root ::= "a"? "b"{2} "c"{1,}"#, &["abbc", "bbccc"], &["abc", "bb"]),
        ("root ::= [^a-c\\n] .", &["dx", "é\n"], &["ax", "\nx", "d"]),
        ("root ::= [a-]  [\\]\\-\\\\] \"\\\"\" ", &["a]\"", "--\"", "a\\\""], &["b]\""]),
        ("root ::= \"\\x41\\u00e9\\U0001F600\"", &["Aé😀"], &["A"]),
        (
            "# first\nroot ::= # second\n  item (\",\" # third\n  item)*\nitem ::= [a-z]\n",
            &["a", "a,b,c"],
            &["a,", ","],
        ),
        ("root ::=\n \"a\" |\n \"b\"\n\n\nother ::= \"c\"", &["a", "b"], &["c"]),
        ("root ::= ( \"a\"\n | \"b\" )\r\n", &["a", "b"], &["ab"]),
        (r#"root ::= "(" root ")" | """#, &["", "(())"], &["(", "())"]),
        // Rules that begin with themselves.
        (r#"root ::= root "+" [0-9] | [0-9]"#, &["1", "1+2+3"], &["", "1+", "+1"]),
        (r#"root ::= "a" root "b" | "a" root "c" | "d""#, &["d", "aadbc", "adc"], &["ad", "adbc"]),
        ("root ::= a a a a\na ::= \"x\"* \"y\"?", &["", "xyxxyy", "yyyy"], &["yyyyy", "z"]),
        ("root ::= ((((\"x\"*)*)*)*)* \"!\"", &["!", "xxx!"], &["xxx", "y!"]),
        ("root ::= \"a\" gone | \"b\"\ngone ::= \"c\" gone", &["b"], &["a", "ac"]),
    ];
    for (grammar, accepted, refused) in cases {
        for text in accepted {
            assert!(takes(gbnf(grammar), text), "{grammar}: {text:?}");
        }
        for text in refused {
            assert!(!takes(gbnf(grammar), text), "{grammar}: {text:?}");
        }
    }
}

#[test]
fn grammars_that_cannot_be_used_are_refused_by_name_and_number() {
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000));
    let nested = "root ::= (((\"a\" \"b\"){600000}) \"c\"){600000}".to_owned();
    let cases = [
        ("root ::= (", "expecting `)`"),
        ("root ::= missing", "`missing`"),
        ("start ::= \"x\"", "`root`"),
        ("root ::= root \"x\"", "itself"),
        ("root ::= a\na ::= b\nb ::= \"x\" a", "itself"),
        (" # nothing\n", "`root`"),
        (&deep, "200 parentheses"),
        ("root ::= \"x\"{5,2}", "at least 5 and at most 2"),
        ("root ::= [a]{1000000}", "1000000 elements"),
        ("root ::= [a]{0,300000}", "1000000 elements"),
        ("root ::= [a]{99999999999999999999}", "too many"),
        (&nested, "1000000 elements"),
        ("root ::= \"a", "too early"),
        ("root ::= [a", "too early"),
        ("root ::= []", "no characters"),
        ("root ::= [z-a]", "ends before it begins"),
        ("root ::= \"\\d\"", "no such escape"),
        ("root ::= \"\\x4\"", "2 hexadecimal digits"),
        ("root ::= \"\\uD800\"", "no character"),
        ("root ::= *", "to repeat"),
        ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
        ("root ::= <none>", "no token"),
        ("root = \"a\"", "`::=`"),
        ("root ::= \"a\" )", "line 1, at `)`"),
        ("root ::= \"a\"{", "expecting a number"),
        ("root ::= \"a\"{2,1x", "expecting"),
    ];
    for (grammar, part) in cases {
        let reason = reason(&Structure::Grammar(grammar.to_owned()));
        let shown: String = grammar.chars().take(80).collect();
        assert!(reason.contains(part), "{shown}: {reason}");
    }
}

/// On the stack of any thread. They once ended the process.
#[test]
fn stacked_repetitions_do_not_nest() {
    let read = || {
        for repetition in ["?", "*", "+", "{1}", "{0,2}"] {
            let stacked = |count| format!("root ::= \"a\"{}", repetition.repeat(count));
            assert!(takes(gbnf(&stacked(50)), "a"), "{repetition}");
            let reason = reason(&Structure::Grammar(stacked(50_000)));
            assert!(reason.contains("more than 50 repetitions"), "{reason}");
        }
        let close = format!("){}", "?".repeat(50)).repeat(200);
        assert!(takes(gbnf(&format!("root ::= {}\"a\"{close}", "(".repeat(200))), "a"));
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(read).unwrap().join().unwrap();
}

#[test]
fn ambiguous_grammars_take_no_time_beyond_use() {
    let many: Vec<String> = (0..60)
        .map(|i| format!("r{i} ::= r{} \"a\" | r{} \"b\" | \"a\"\n", i + 1, i + 1))
        .collect();
    let many = many.concat();
    let grammars = [
        "root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"".to_owned(),
        "root ::= root root | \"a\"".to_owned(),
        "root ::= (\"a\"? \"a\"?)* (\"a\" | \"a\" \"a\")*".to_owned(),
        format!("root ::= r0\n{many}r60 ::= \"a\""),
    ];
    for grammar in grammars {
        let mut matcher = gbnf(&grammar);
        let mut effort = Effort::new(&|| Ok(()));
        for _ in 0..60 {
            assert!(matcher.accept_text("a", &mut effort).unwrap(), "{grammar}");
        }
    }
}

#[test]
fn work_for_a_token_ends_where_it_is_told_to() {
    let grammar = "root ::= root root root | \"a\" | \"\"";
    let mut effort =
        Effort::new(&|| Err(Error::InvalidStructure { what: "test", reason: String::new() }));
    let mut matcher = gbnf(grammar);
    let text = "a".repeat(20_000);
    let stopped = matcher.accept_text(&text, &mut effort);
    assert!(matches!(stopped, Err(Error::InvalidStructure { what: "test", .. })), "{stopped:?}");
}

/// Also for what was met before, which in such a grammar is nearly all.
#[test]
fn every_step_of_a_token_is_paid_for() {
    let mut matcher = gbnf("root ::= s \"Z\"\ns ::= s s | [a-z]");
    let told = || Err(Error::InvalidStructure { what: "test", reason: String::new() });
    let is_stopped = (0..600).any(|_| {
        let taken = matcher.accept_text("a", &mut Effort::new(&told));
        matches!(taken, Err(Error::InvalidStructure { what: "test", .. }))
    });
    assert!(is_stopped);
}

/// A token that is a name and the beginning of a character goes on as either of them.
#[test]
fn a_named_token_is_no_part_of_a_character() {
    let goes_on = |text: &[u8]| {
        let mut matcher = gbnf("root ::= \"é\" | <[7]> \"é€\"");
        let mut effort = Effort::new(&|| Ok(()));
        matcher.accept(7, b"\xC3", &mut effort).unwrap();
        for &byte in text {
            if !matcher.allows(1, &[byte], &mut effort).unwrap() {
                return None;
            }
            matcher.accept(1, &[byte], &mut effort).unwrap();
        }
        Some(matcher.is_complete())
    };
    assert_eq!(goes_on(b"\xA9"), Some(true));
    assert_eq!(goes_on(b"\xA9\xE2"), None);
    assert_eq!(goes_on("é€".as_bytes()), Some(true));
    assert_eq!(goes_on("é".as_bytes()), Some(false));
    assert_eq!(goes_on("€".as_bytes()), None);
}

/// Where a token ends inside a character, only those go on that can become an allowed one.
#[test]
fn tokens_are_allowed_by_their_bytes() {
    let texts: Vec<&[u8]> = vec![
        b"a",
        b"ab",
        b"abc",
        b"b",
        b"",
        b"\xC3",
        b"\xA9",
        b"\xE2\x82",
        b"\xE2\x82\xAC",
        b"\xED\xA0",
        b"\xE0\x82",
        b"\xF0",
        b"\xF5",
        b"\xC3a",
        b"abd",
        b"c",
    ];
    let vocabulary = Vocabulary::new(texts.iter().map(|text| Ok(text.to_vec()))).unwrap();
    let allowed = |grammar: &str, before: &[i32]| -> Vec<String> {
        let mut matcher = gbnf(grammar);
        let mut effort = Effort::new(&|| Ok(()));
        for &token in before {
            assert!(matcher.allows(token, vocabulary.bytes(token), &mut effort).unwrap());
            matcher.accept(token, vocabulary.bytes(token), &mut effort).unwrap();
        }
        let mask = vocabulary.allowed(&mut matcher, &mut effort).unwrap();
        for (token, &is_allowed) in (0..).zip(&mask) {
            let one = matcher.allows(token, vocabulary.bytes(token), &mut effort).unwrap();
            assert_eq!(one, is_allowed, "{grammar}: {token}");
        }
        let names = texts.iter().zip(mask).filter(|(_, is_allowed)| *is_allowed);
        names.map(|(text, _)| text.escape_ascii().to_string()).collect()
    };
    assert_eq!(allowed("root ::= \"ab\" [cx]", &[]), ["a", "ab", "abc"]);
    assert_eq!(allowed("root ::= \"ab\" [cx]", &[1]), ["c"]);
    assert_eq!(allowed("root ::= [é€]", &[]), ["\\xc3", "\\xe2\\x82", "\\xe2\\x82\\xac"]);
    assert_eq!(allowed("root ::= [é€]", &[5]), ["\\xa9"]);
    // No surrogates, no overlong forms, nothing beyond the last character.
    let any =
        ["a", "ab", "abc", "b", "\\xc3", "\\xe2\\x82", "\\xe2\\x82\\xac", "\\xf0", "abd", "c"];
    assert_eq!(allowed("root ::= .*", &[]), any);
    assert_eq!(
        allowed("root ::= <[4]> \"a\" | !<[3]> \"b\"", &[4]),
        ["a", "ab", "b"].into_iter().filter(|&text| text != "ab").collect::<Vec<_>>()
    );
    assert_eq!(allowed("root ::= <[4]> \"b\"", &[]), [""]);
}

/// Shapes that structured outputs use, each with an answer that it must let through.
#[test]
fn common_schemas_are_enforced() {
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
        "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
        "required": ["value", "children"], "additionalProperties": false}}});
    let pets = json!({"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"]},
        {"type": "object", "properties": {"kind": {"const": "dog"}, "barks": {"type": "boolean"}}, "required": ["kind", "barks"]}]});
    let cases = [
        (
            json!({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"], "additionalProperties": false}),
            r#"{"name": "Ann", "age": 7}"#,
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]}),
            r#"{"a": null}"#,
        ),
        (
            json!({"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": null, "title": "A"}}, "type": "object"}),
            "{}",
        ),
        (
            json!({"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 1}),
            r#"["red", "green"]"#,
        ),
        (json!({"type": "string", "pattern": "\\d{3}-\\d{4}"}), r#""call 555-1234 now""#),
        (json!({"type": "string", "pattern": "^\\w+@\\w+\\.\\w{2,3}$"}), r#""ann@example.com""#),
        (
            json!({"type": "string", "pattern": "^[A-Z]+$", "minLength": 2, "maxLength": 4}),
            r#""ABC""#,
        ),
        (json!({"type": "string", "format": "date-time"}), r#""2024-02-29T23:59:59Z""#),
        (json!({"type": "string", "format": "email"}), r#""ann.lee@mail.example.org""#),
        (json!({"type": "string", "format": "uuid"}), r#""123e4567-e89b-12d3-a456-426614174000""#),
        (json!({"type": "number", "minimum": 0, "maximum": 1}), "0.85"),
        (json!({"type": "number", "exclusiveMinimum": 0}), "12.5"),
        (json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-7}), "0.00000005"),
        (json!({"type": "string", "pattern": "^\\p{Lu}\\p{Script=Greek}$"}), r#""Aα""#),
        (json!({"type": "number", "minimum": -90, "maximum": 90}), "-33.868800"),
        (json!({"type": "integer", "minimum": 1, "maximum": 10}), "10"),
        (
            json!({"type": "integer", "exclusiveMinimum": -3, "maximum": 9_223_372_036_854_775_807_i64}),
            "-2",
        ),
        (tree, r#"{"value": 1, "children": [{"value": 2, "children": []}]}"#),
        (pets, r#"{"kind": "dog", "barks": true}"#),
        (
            json!({"type": "object", "additionalProperties": {"type": "number"}}),
            r#"{"x": 1, "y": 2.5}"#,
        ),
        (json!({"type": "object"}), r#"{"any": [1, "two", {"three": null}]}"#),
        (json!(true), r#"[1, {"a": "b"}]"#),
        (json!({}), "null"),
        (
            json!({"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}], "items": false, "minItems": 2}),
            r#"[1, "a"]"#,
        ),
        (
            json!({"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"y": {"type": "null"}}, "required": ["y"]}], "$defs": {"a": {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}}}),
            r#"{"x": 1, "y": null}"#,
        ),
        (json!({"type": "object", "required": ["free"]}), r#"{"free": 3}"#),
        (json!({"enum": [1, "a", null], "type": ["integer", "null"]}), "1"),
        (
            json!({"type": "object", "properties": {"a/b~c": {"$ref": "#/$defs/per%20cent"}}, "$defs": {"per cent": {"const": "x"}}}),
            r#"{"a/b~c": "x"}"#,
        ),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "$id": "x", "x-note": 1, "type": "string", "description": "d", "examples": ["e"], "deprecated": false}),
            r#""free \"text\"""#,
        ),
    ];
    for (form, answer) in cases {
        let value: Value = serde_json::from_str(answer).unwrap();
        jsonschema::validate(&form, &value).unwrap();
        assert!(takes(schema(form.clone()), answer), "{form}: {answer}");
    }
}

#[test]
fn schemas_that_cannot_be_enforced_are_refused_by_place() {
    let cases = [
        (json!({"properties": {"a/b": {"not": {}}}}), "`not` at `#/properties/a~1b`"),
        (json!({"items": {"uniqueItems": true}}), "`uniqueItems` at `#/items`"),
        (json!({"type": "string", "pattern": "^(?=a)b$"}), "`pattern` at `#`"),
        (json!({"type": "string", "pattern": "(?i)abc"}), "`(?i)`"),
        (json!({"type": "string", "pattern": "\\bword\\b"}), "`\\b`"),
        (json!({"type": "string", "pattern": "[[:digit:]]"}), "`[:digit:]`"),
        (json!({"type": "string", "pattern": "(a)\\1"}), "`pattern`"),
        (json!({"type": "string", "pattern": "[]a]"}), "begins with `]`"),
        (json!({"type": "string", "pattern": "a$b"}), "`$`"),
        (json!({"type": "string", "pattern": "a+b+", "maxLength": 5}), "`maxLength`"),
        (json!({"type": "string", "minLength": 5, "maxLength": 2}), "at most 2"),
        (json!({"type": "array", "minItems": 3, "maxItems": 1}), "at most 1"),
        (json!({"type": "integer", "minimum": 3, "maximum": 1}), "contradict"),
        (
            json!({"allOf": [{"minimum": 3, "type": "integer"}, {"maximum": 1}]}),
            "no value can satisfy `allOf` at `#` together",
        ),
        (json!(false), "no value can satisfy `#`, which is `false`"),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"const": 1, "type": "string"}}}),
            "no value can satisfy `const` at `#/properties/a` together",
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}, "allOf": [{"properties": {"a": {"type": "string"}}}]}),
            "no value can satisfy `#/properties/a` and `#/allOf/0/properties/a` together",
        ),
        (json!({"type": "integer", "minimum": 1.2, "maximum": 1.8}), "`minimum` at `#`"),
        (json!({"$ref": "#"}), "leads back"),
        (json!({"$ref": "#/$defs/none"}), "nothing"),
        (json!({"$ref": "https://example.com/a"}), "within the schema"),
        (json!({"type": "nonsense"}), "nonsense"),
        (json!({"minlength": 3}), "did you mean `minLength`"),
        (json!({"maxLenght": 3}), "did you mean `maxLength`"),
        (json!({"type": "object", "required": "a"}), "list of names"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "`oneOf` at `#`"),
        (json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), "`oneOf` at `#`"),
        (json!({"type": "string", "format": "regex"}), "`regex`"),
        (json!({"type": "string", "maxLength": 900_000}), "1000000 elements"),
        (json!({"type": "array", "minItems": 5_000_000}), "1000000 elements"),
        (json!({"minimum": "a"}), "not a number"),
        (json!({"minimum": 1e300}), "below 10^24"),
        (json!({"multipleOf": 0.1}), "`multipleOf`"),
        (json!({"const": 12_345_678_901_234_567_890_123_f64}), "kept exactly"),
        (json!({"enum": [{"a": [1e16]}]}), "`enum` at `#` holds"),
        (json!({"$ref": "#/$defs/%+5", "$defs": {"\u{5}": {}}}), "`$ref` at `#`"),
        (json!({"type": "string", "pattern": "^a**$"}), "repeats twice"),
        (json!({"type": "string", "pattern": "^a{2}{3}$"}), "repeats twice"),
        (json!({"type": "string", "pattern": "^\\p{greek}$"}), "`\\p{greek}`"),
        (json!({"type": "string", "pattern": "^\\p{Greek}$"}), "`\\p{Greek}`"),
        (json!({"type": "string", "pattern": "^[\\p{upper}]$"}), "`\\p{upper}`"),
        (json!({"type": "number", "maximum": 1e16}), "`maximum` at `#`"),
        (json!({"type": "array", "minItems": 100_000_000_000_000_u64}), "`minItems` at `#`"),
        (json!({"type": "string", "format": "date", "maxLength": 9}), "beside `format` cannot"),
        (json!({"enum": ["a"], "format": "date"}), "`format`"),
        (json!({"zzz": 3}), "is not a known keyword. Names of your own must begin with `x-`"),
        (json!({"type": "number", "minimum": 1e20}), "15 digits"),
        (json!([1]), "not an object"),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}], "items": {"type": "null"}}),
            "draft",
        ),
    ];
    for (form, part) in cases {
        let reason = reason(&Structure::JsonSchema(form.clone()));
        assert!(reason.contains(part), "{form}: {reason}");
    }
    let mut deep = json!({});
    for _ in 0..1000 {
        deep = json!({"items": deep});
    }
    assert!(reason(&Structure::JsonSchema(deep)).contains("64 levels"));
}

/// On the stack of any thread. They once ended the process.
#[test]
fn chains_of_references_are_followed_so_far() {
    let chain = |links: usize, link: fn(Value) -> Value| {
        let names =
            (0..links).map(|i| (i.to_string(), json!({"$ref": format!("#/$defs/{}", i + 1)})));
        let mut defs: Map<String, Value> =
            names.map(|(name, reference)| (name, link(reference))).collect();
        defs.insert(links.to_string(), json!({"const": 1}));
        json!({"$ref": "#/$defs/0", "$defs": defs})
    };
    let read = move || {
        let links: [fn(Value) -> Value; 3] = [
            |link| link,
            |link| json!({"allOf": [link]}),
            |link| json!({"anyOf": [{"type": "null"}, link]}),
        ];
        for link in links {
            assert!(takes(schema(chain(40, link)), "1"));
            let reason = reason(&Structure::JsonSchema(chain(10_000, link)));
            assert!(reason.contains("`$ref` at `#/$defs/") && reason.contains("100"), "{reason}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(read).unwrap().join().unwrap();
}

/// Each of them took seconds, or gigabytes.
#[test]
fn what_is_copied_is_paid_for_by_its_size() {
    let long = "k".repeat(200_000);
    let any = vec![json!(true); 20_000];
    let mut property = Map::new();
    property.insert(long.clone(), json!({"anyOf": any}));
    let distinct: String = ('\u{4e00}'..).take(20_000).collect();
    assert!(takes(
        schema(json!({"pattern": format!("^[{distinct}]$"), "type": "string"})),
        "\"一\""
    ));
    let costly = [
        json!({"properties": property, "anyOf": any}),
        json!({"enum": [long.repeat(5)], "allOf": vec![json!({}); 100_000]}),
        json!({"pattern": format!("^{}$", "\\p{L}".repeat(60_000))}),
        json!({"pattern": format!("^[{}]$", "\\P{L}".repeat(60_000))}),
    ];
    for form in costly {
        let reason = reason(&Structure::JsonSchema(form));
        assert!(reason.contains("2000000"), "{reason}");
    }
}

/// Members of `oneOf` that are apart only if nothing beside them adds a property.
#[test]
fn members_of_one_of_are_told_apart_whatever_is_beside_them() {
    let a_or_b = r#"{"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]}"#;
    let a_or_b: Value = serde_json::from_str(a_or_b).unwrap();
    let one_of = &a_or_b["oneOf"];
    let both = json!({"a": {"const": 1}, "b": {"const": 2}});
    let overlapping = [
        json!({"type": "object", "properties": both, "oneOf": one_of}),
        json!({"oneOf": one_of, "required": ["a", "b"]}),
        json!({"allOf": [a_or_b, {"required": ["a", "b"]}]}),
        json!({"$ref": "#/$defs/u", "properties": both, "$defs": {"u": a_or_b}}),
        json!({"oneOf": one_of, "anyOf": [{"required": ["a", "b"]}, {"type": "null"}]}),
        json!({"properties": {"x": a_or_b}, "allOf": [{"properties": {"x": {"required": ["a", "b"]}}}]}),
        json!({"items": a_or_b, "allOf": [{"items": {"required": ["a", "b"]}}]}),
        json!({"oneOf": one_of, "enum": [{"a": 1, "b": 1}]}),
        json!({"oneOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"properties": {"b": {"type": "string"}}, "required": ["b"]}], "required": ["a", "b"]}),
        json!({"properties": {"x": {"oneOf": one_of, "const": {"a": 1, "b": 1}}}}),
        json!({"allOf": [a_or_b, {"oneOf": [{"required": ["a", "b"]}, {"type": "null"}]}]}),
        // What checkers of a format, or of white space, need not agree on.
        json!({"oneOf": [{"type": "string", "format": "date"}, {"const": "some day"}]}),
        json!({"oneOf": [{"type": "string", "pattern": "^\\s$"}, {"const": "\u{2000}"}]}),
    ];
    for form in overlapping {
        let reason = reason(&Structure::JsonSchema(form.clone()));
        assert!(reason.contains("`oneOf` at"), "{form}: {reason}");
    }
    let closed = json!({"oneOf": [
        {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": false},
        {"type": "object", "properties": {"b": {}}, "required": ["b"], "additionalProperties": false}]});
    let tagged = json!({"properties": {"n": {"type": "integer"}, "k": {"type": "string"}}, "oneOf": [
        {"type": "object", "properties": {"k": {"const": "x"}}, "required": ["k"]},
        {"type": "object", "properties": {"k": {"enum": ["y", "z"]}}, "required": ["k", "n"]}]});
    let apart = [
        (closed, r#"{"b": null}"#),
        (tagged, r#"{"n": 1, "k": "z"}"#),
        (
            json!({"oneOf": [{"type": "integer", "maximum": 0}, {"type": "number", "exclusiveMinimum": 0}]}),
            "-3",
        ),
        (
            json!({"oneOf": [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}]}),
            r#""abc""#,
        ),
        (json!({"oneOf": [{"type": "null"}, {"type": "string", "format": "date"}]}), "null"),
    ];
    for (form, answer) in apart {
        jsonschema::validate(&form, &serde_json::from_str(answer).unwrap()).unwrap();
        assert!(takes(schema(form.clone()), answer), "{form}: {answer}");
    }
}

#[test]
fn classes_that_take_white_space_away_take_all_of_it() {
    let spaces = "\u{85}\u{1680}\u{2000}\u{2003}\u{2004}\u{202f}\u{205f}\u{feff}\u{a0} ";
    for pattern in ["^[^\\s]$", "^\\S$", "^[^\\s@]$", "^[\\S]$"] {
        let form = json!({"type": "string", "pattern": pattern});
        for c in spaces.chars() {
            assert!(!takes(schema(form.clone()), &json!(c).to_string()), "{pattern}: {c:?}");
        }
        assert!(takes(schema(form), r#""x""#), "{pattern}");
    }
    // What is white space for some only is neither.
    let form = json!({"type": "string", "pattern": "^[^\\S]$"});
    assert!(takes(schema(form.clone()), r#"" ""#));
    assert!(!takes(schema(form), "\"\u{85}\""));
    let none = json!({"type": "string", "pattern": "^[^\\s\\S]$"});
    assert!(reason(&Structure::JsonSchema(none)).contains("no value"));
}

#[test]
fn drafts_are_kept_apart() {
    let draft = |name: &str| format!("http://json-schema.org/{name}/schema#");
    let refused = [
        (json!({"$schema": draft("draft-04"), "type": "integer"}), "`$schema` at `#`"),
        (json!({"$schema": draft("draft-03")}), "draft 2020-12"),
        (json!({"$schema": "https://example.com/mine"}), "leave `$schema` out"),
        (json!({"$schema": 7}), "leave `$schema` out"),
        (
            json!({"$schema": draft("draft-07"), "properties": {"a": {"$ref": "#/definitions/a", "minimum": 3}}, "definitions": {"a": {}}}),
            "`$ref` at `#/properties/a` makes `minimum`",
        ),
        (json!({"$schema": draft("draft-06"), "prefixItems": [{}]}), "`prefixItems`"),
        (
            json!({"properties": {"a": {"$id": "http://example.com/a"}}}),
            "`$id` at `#/properties/a`",
        ),
        (json!({"items": {"id": "a"}}), "`id` at `#/items`"),
        (json!({"items": {"$schema": draft("draft-07")}}), "`$schema` at `#/items`"),
        (
            json!({"$ref": "#/$defs/a/$defs/b", "$defs": {"a": {"$id": "urn:a", "$defs": {"b": {"type": "null"}}}}}),
            "`$id` of its own",
        ),
    ];
    for (form, part) in refused {
        let reason = reason(&Structure::JsonSchema(form.clone()));
        assert!(reason.contains(part), "{form}: {reason}");
    }
    let enforced = [
        json!({"$schema": draft("draft-07"), "$ref": "#/definitions/a", "title": "t", "definitions": {"a": {"type": "null"}}}),
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:a", "type": "null"}),
        json!({"$schema": draft("draft/2019-09"), "type": "null"}),
        json!({"properties": {"$id": {"type": "string"}, "id": {}}, "enum": [null]}),
    ];
    for form in enforced {
        assert!(takes(schema(form.clone()), "null"), "{form}");
    }
}

#[test]
fn thousands_of_optional_properties_are_quick() {
    let properties: Map<String, Value> =
        (0..5000).map(|i| (format!("property {i}"), json!({"type": "integer"}))).collect();
    let form = json!({"type": "object", "properties": properties, "additionalProperties": true});
    assert!(takes(schema(form.clone()), r#"{"property 7": 1, "property 4999": 2, "x": []}"#));
    assert!(!takes(schema(form), r#"{"property 7": 1, "property 6": 2}"#));
}

/// Any schema: every keyword, with values that fit and values that do not, and siblings.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(json!({})),
        1 => Just(json!(true)),
        1 => Just(json!(false)),
        20 => keywords(&Just(json!({"type": "integer"})).boxed()),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| keywords(&inner.boxed()))
}

/// Members of `oneOf` that look apart, and mostly are, if nothing is beside them.
fn union(index: usize) -> Value {
    const UNIONS: &str = r#"[
        [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}],
        [{"type": "object", "properties": {"b": {"const": 1}}, "required": ["b"]},
         {"type": "object", "properties": {"b": {"const": "x"}}, "required": ["b"]}],
        [{"properties": {"a": {"type": "integer"}}, "required": ["a"], "type": "object", "additionalProperties": false},
         {"properties": {"b": {"type": "string"}}, "required": ["b"], "type": "object", "additionalProperties": false}],
        [{"type": "integer", "maximum": 1}, {"type": "number", "minimum": 2}, {"type": "string"}],
        [{"type": "string", "maxLength": 2}, {"type": "string", "minLength": 3}, {"type": "array"}],
        [{"type": "string", "format": "date"}, {"const": "a"}, {"type": "object"}],
        [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
         {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}, {"type": "null"}]
    ]"#;
    let unions: Vec<Value> = serde_json::from_str(UNIONS).unwrap();
    json!({"oneOf": unions[index % unions.len()]})
}

/// A union, within the keywords that could write more properties into its members.
fn widened_union() -> impl Strategy<Value = (String, Value)> {
    (0_usize..7, 0_usize..7, 0_usize..5).prop_map(|(index, other, way)| {
        let one_of = union(index);
        let wide = json!({"properties": {"a": {"const": 1}, "b": {"enum": [1, "x"]}}});
        let all = match way {
            0 => return ("oneOf".to_owned(), one_of["oneOf"].clone()),
            1 => json!([one_of, wide]),
            2 => json!([one_of, {"required": ["a", "b"]}]),
            3 => json!([one_of, union(other)]),
            _ => json!([{"properties": {"a": one_of}}, {"properties": {"a": wide}}]),
        };
        ("allOf".to_owned(), all)
    })
}

fn keywords(inner: &BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let one = keyword(inner);
    let defs = json!({"a": {"type": "string", "maxLength": 4}, "b": {"type": "object",
        "properties": {"a": {"$ref": "#/$defs/b"}, "b": {"enum": [1, "x"]}}, "required": ["b"]},
        "c": union(0), "d": union(1)});
    prop::collection::vec(one, 1..5)
        .prop_map(move |pairs| {
            let mut fields: Map<String, Value> = pairs.into_iter().collect();
            fields.insert("$defs".to_owned(), defs.clone());
            Value::Object(fields)
        })
        .boxed()
}

/// A keyword with one of the values of a JSON list.
fn of(name: &'static str, values: &str) -> BoxedStrategy<(String, Value)> {
    let values: Vec<Value> = serde_json::from_str(values).unwrap();
    prop::sample::select(values).prop_map(move |value| (name.to_owned(), value)).boxed()
}

const NUMBERS: &str = "[0, 1, 3, -2, 2.5, 17, 1.0, 100000, -0.125]";
const COUNTS: &str = "[0, 1, 2, 3, 5]";
const VALUES: &str = r#"[1, 1.0, "a", "abcd", null, true, [1, "a"], {"a": 1, "b": "x"}, {"b": 1}, 2.5, "2024-01-31"]"#;
const TYPES: &str = r#"["null", "boolean", "integer", "number", "string", "array", "object", ["string", "null"],
    ["integer", "string"], ["object", "array"], "string", "object", "object", "array"]"#;
const PATTERNS: &str = r#"["^a+$", "a", "^[a-c]{1,3}-[0-9]{1,4}$", "\\d\\d", "^\\w+$", "\\s", "\\bx", "(?=a)", "(?i)a",
    "[[:digit:]]", "a+?b", "^a|b$", "^(ab|c)*$", "[^a-z]", "^\\W\\D\\S$", "\\p{Lu}", "^.{2,4}$", "^\"\\\\$", "\\n",
    "(a|b){2}", "^$", "", "[\\d_-]+", "x{2,1}", "^\\u00e9\\x41$", "^(?<n>a)$", "\\.", "^[a", "a**",
    "^[^\\s]$", "^[^\\s@]+@[^\\s]$", "^[^\\S]$", "^[^\\s\\S]?$", "^[^\\w]$", "^[^\\D]$", "^[^\\p{L}]$",
    ".*.*=.*", "^a*[ab]*(b+)*$", "^(a|b|[^a])*c?c*$"]"#;
const FORMATS: &str = r#"["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "hostname", "uri", "duration", "regex",
    "int32", "uint8", "double"]"#;
const REFERENCES: &str =
    r##"["#/$defs/a", "#/$defs/b", "#/$defs/c", "#/$defs/d", "#/$defs/d", "#", "#/$defs/none"]"##;

fn keyword(inner: &BoxedStrategy<Value>) -> impl Strategy<Value = (String, Value)> + use<> {
    let named = |name: &'static str, values: BoxedStrategy<Value>| {
        values.prop_map(move |value| (name.to_owned(), value)).boxed()
    };
    let list = prop::collection::vec(inner.clone(), 1..4).prop_map(Value::Array).boxed();
    let names = vec!["a", "b", "größe", "a b", "q\"", "undeclared"];
    let required = prop::collection::btree_set(prop::sample::select(names.clone()), 0..3);
    let properties = prop::collection::vec((prop::sample::select(names), inner.clone()), 0..4);
    let properties = properties.prop_map(|pairs| {
        Value::Object(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    });
    let values: Vec<Value> = serde_json::from_str(VALUES).unwrap();
    let values = prop::collection::vec(prop::sample::select(values), 1..5);
    let lists = |name| named(name, list.clone());
    let one = |name| named(name, inner.clone());
    let mut choices = vec![
        (225, of("type", TYPES)),
        (50, named("enum", values.prop_map(Value::Array).boxed())),
        (25, of("const", VALUES)),
        (50, of("pattern", PATTERNS)),
        (25, of("format", FORMATS)),
        (50, one("items")),
        (75, named("properties", properties.boxed())),
        (50, named("required", required.prop_map(|names| json!(names)).boxed())),
        (50, lists("anyOf")),
        (50, lists("oneOf")),
        (75, widened_union().boxed()),
        (40, of("$ref", REFERENCES)),
        (25, of("additionalProperties", "[true, false]")),
        (25, of("title", r#"["t"]"#)),
        (5, of("uniqueItems", "[true, false]")),
        (5, of("minlength", COUNTS)),
    ];
    let bounds = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    choices.extend(bounds.map(|name| (25, of(name, NUMBERS))));
    let lengths = ["minLength", "maxLength", "minItems", "maxItems"];
    choices.extend(lengths.map(|name| (25, of(name, COUNTS))));
    choices.extend(["prefixItems", "items", "allOf"].map(|name| (25, lists(name))));
    choices.extend(["additionalItems", "additionalProperties"].map(|name| (25, one(name))));
    let refused = ["not", "contains", "propertyNames", "unevaluatedProperties"];
    choices.extend(refused.map(|name| (5, one(name))));
    choices.extend(["multipleOf", "minProperties"].map(|name| (5, of(name, COUNTS))));
    Union::new_weighted(choices)
}

/// A schema is enforced or refused: whatever is drawn from its grammar satisfies it.
#[test]
fn every_text_of_a_schema_satisfies_it() {
    let count = std::env::var("SCHEMAS").map_or(300, |count| count.parse().unwrap());
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let strategy = any_schema();
    let (mut refused, mut invalid, mut texts, mut cut, mut enforced) = (0, 0, 0, 0, 0);
    let mut dice = Dice(11);
    for _ in 0..count {
        let form = strategy.new_tree(&mut runner).unwrap().current();
        if matcher(&Structure::JsonSchema(form.clone())).is_err() {
            refused += 1;
            continue;
        }
        let Ok(validator) = jsonschema::options().should_validate_formats(true).build(&form) else {
            invalid += 1;
            continue;
        };
        enforced += 1;
        for _ in 0..5 {
            let mut matcher = matcher(&Structure::JsonSchema(form.clone())).unwrap();
            let Some(text) = draw(&mut matcher, &mut dice, 400) else {
                cut += 1;
                continue;
            };
            texts += 1;
            let value: Value = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{error}: {text}\n{form}"));
            let found = validator.validate(&value);
            assert!(found.is_ok(), "{}\n{text}\n{form}", found.unwrap_err());
        }
    }
    println!(
        "{count} schemas: {refused} refused, {enforced} enforced, {invalid} no schemas; {texts} texts, {cut} cut off"
    );
    assert!(enforced * 10 > count * 3, "{enforced} of {count} were enforced");
    assert!(texts > 2 * enforced, "{texts} texts of {enforced} schemas");
}
