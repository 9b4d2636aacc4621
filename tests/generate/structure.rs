//! With the engine: an answer has the form that was asked for.

use moe_offload::{
    CancelHandle, Error, GenerateOptions, Generation, MoeModel, Sampling, StopReason, Structure,
};
use serde_json::{Value, json};

use crate::support::load::on_cpu;
use crate::support::model_files::demo;

fn model() -> MoeModel {
    on_cpu(demo()).threads(1).context_tokens(1024).load().unwrap()
}

/// The answer and why it ended.
fn answer(
    model: &mut MoeModel,
    structure: Structure,
    seed: u32,
    max_tokens: u64,
) -> (String, StopReason) {
    let sampling = Sampling::default().temperature(1.2).seed(seed);
    let options =
        GenerateOptions::default().max_tokens(max_tokens).sampling(sampling).structure(structure);
    let mut answer = model.generate("JSON: ", &options).unwrap();
    let text = answer.by_ref().map(|piece| piece.unwrap()).collect();
    (text, answer.stop_reason().unwrap())
}

/// Numbers that look random, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn schema(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 8 } else { 12 }) {
            0 => json!({"type": "boolean"}),
            1 => json!({"type": "null"}),
            2 => json!({"type": "integer", "minimum": -20, "maximum": 300}),
            3 => json!({"type": "number"}),
            4 => json!({"type": "string", "minLength": 1, "maxLength": 5 + self.below(9)}),
            5 => json!({"enum": ["red", 7, null, {"a": [1.5, "ü"]}]}),
            6 => json!({"const": "fest \"so\" \\ wie es ist ✓"}),
            7 => json!({"type": "string", "pattern": "^[a-c]{1,3}-[0-9]{1,4}$"}),
            8 => {
                let items = self.schema(depth - 1);
                json!({"type": "array", "items": items, "minItems": self.below(3), "maxItems": 3})
            }
            9 => {
                let (a, b) = (self.schema(depth - 1), self.schema(depth - 1));
                json!({"anyOf": [a, b]})
            }
            10 => {
                let (a, b) = (self.schema(depth - 1), self.schema(depth - 1));
                json!({"type": "array", "prefixItems": [a, b], "minItems": 2})
            }
            _ => self.object(depth),
        }
    }

    fn object(&mut self, depth: usize) -> Value {
        let names = ["name", "größe", "a b", "list", "deep"];
        let count = 1 + self.below(names.len());
        let properties: serde_json::Map<String, Value> =
            names[..count].iter().map(|&name| (name.to_owned(), self.schema(depth - 1))).collect();
        let required = &names[..self.below(count + 1)];
        json!({"type": "object", "properties": properties, "required": required,
            "additionalProperties": false})
    }
}

#[test]
fn every_completed_answer_satisfies_its_schema() {
    let (mut model, mut dice) = (model(), Dice(7));
    let (mut complete, mut cut) = (0, 0);
    for case in 0..200 {
        let mut schema = dice.object(3);
        if case % 10 == 0 {
            schema["properties"]["again"] = json!({"$ref": "#/$defs/leaf"});
            schema["$defs"] = json!({"leaf": {"type": "string", "enum": ["x", "y"]}});
        }
        let structure = Structure::JsonSchema(schema.clone());
        let (text, reason) = answer(&mut model, structure, case, 800);
        match reason {
            StopReason::EndOfText => {
                complete += 1;
                let value: Value = serde_json::from_str(&text)
                    .unwrap_or_else(|error| panic!("{case}: {error}: {text}\n{schema}"));
                let found = jsonschema::validate(&schema, &value);
                assert!(found.is_ok(), "{case}: {found:?}\n{text}\n{schema}");
            }
            reason => {
                cut += 1;
                assert!(!reason.is_complete());
            }
        }
    }
    println!("{complete} complete, {cut} cut off");
    assert!(complete >= 180, "{complete} complete, {cut} cut off");
}

#[test]
fn an_answer_that_a_limit_cuts_off_says_so() {
    let schema = json!({"type": "array", "items": {"type": "integer"}, "minItems": 50});
    let (text, reason) = answer(&mut model(), Structure::JsonSchema(schema), 1, 5);
    assert_eq!(reason, StopReason::MaxTokens);
    assert!(!reason.is_complete());
    assert!(serde_json::from_str::<Value>(&text).is_err(), "{text}");
}

#[test]
fn grammars_are_kept() {
    let mut model = model();
    for seed in 0..20 {
        let grammar = r#"root ::= ("yes" | "no, " name) "."
name ::= [A-Z] [a-zäöü]{2,6}"#;
        let (text, reason) = answer(&mut model, Structure::Grammar(grammar.into()), seed, 50);
        assert_eq!(reason, StopReason::EndOfText);
        let name = text.strip_prefix("no, ").and_then(|text| text.strip_suffix('.'));
        let is_name = |name: &str| (3..=7).contains(&name.chars().count());
        assert!(text == "yes." || name.is_some_and(is_name), "{text}");
    }
    // Greedy, and with a token that the grammar needs banned.
    let options = GenerateOptions::default()
        .sampling(Sampling::greedy())
        .structure(Structure::Grammar("root ::= \"only this ✓\"".into()));
    assert_eq!(model.generate("x", &options).unwrap().text().unwrap(), "only this ✓");
}

#[test]
fn bad_structures_are_errors_before_the_first_token() {
    let mut model = model();
    let grammar = |text: &str| Structure::Grammar(text.to_owned());
    let cases = [
        (grammar("root ::= ("), "expecting"),
        (grammar("root ::= missing"), "missing"),
        (grammar("start ::= \"x\""), "root"),
        (grammar("root ::= root \"x\""), "recursion"),
        (grammar(" # nothing\n"), "root"),
        (grammar(&("root ::= ".to_owned() + &"(".repeat(100_000))), "200"),
        (grammar("root ::= \"x\"{5,2}"), "at least 5 and at most 2"),
        (grammar("root ::= \"x\"{1000000}"), "1000000"),
        (grammar("root ::= <no-such-token>"), "no token"),
        (grammar("root ::= <[100000000]>"), "no token"),
        (grammar("root ::= <|im_end|> \"a\""), "ends the text"),
        (grammar("root ::= \"a\" <|im_end|> \"b\""), "ends the text"),
        (Structure::JsonSchema(json!({"type": "nonsense"})), "nonsense"),
        (Structure::JsonSchema(json!({"$ref": "#/$defs/none"})), "none"),
        (Structure::JsonSchema(json!(7)), "7"),
        (Structure::JsonSchema(json!({"not": {"type": "null"}})), "`not` at `#`"),
        (
            Structure::JsonSchema(
                json!({"properties": {"x": {"type": "array", "uniqueItems": true}}}),
            ),
            "`uniqueItems` at `#/properties/x`",
        ),
        (
            Structure::JsonSchema(json!({"type": "string", "minLength": 3, "maxLength": 1})),
            "`minLength` at `#`",
        ),
        (
            Structure::JsonSchema(json!({"items": {"minItems": 2, "maxItems": 1}})),
            "`minItems` at `#/items`",
        ),
        (
            Structure::JsonSchema(json!({"type": "integer", "minimum": 2, "maximum": 1})),
            "`minimum` at `#`",
        ),
    ];
    for (structure, part) in cases {
        let options = GenerateOptions::default().max_tokens(3).structure(structure.clone());
        let error = model.generate("x", &options).and_then(Generation::text).unwrap_err();
        let is_typed =
            matches!(error, Error::InvalidStructure { .. } | Error::InvalidSchema { .. });
        assert!(is_typed, "{structure:?}: {error:?}");
        assert!(error.to_string().contains(part), "{structure:?}: {error}");
    }
    // The model goes on.
    let (text, _) = answer(&mut model, Structure::Grammar("root ::= \"a\"".into()), 0, 5);
    assert_eq!(text, "a");
}

/// Every one of these once left an answer that does not satisfy its schema, and was called complete.
#[test]
fn what_was_passed_over_is_enforced() {
    let mut model = model();
    let schemas = [
        json!({"type": "string", "pattern": "[0-9]{3}"}),
        json!({"type": "string", "pattern": "^\\d{3}$"}),
        json!({"type": "string", "pattern": "^\\w+\\s\\w+$"}),
        json!({"type": "string", "pattern": "^a+?b$"}),
        json!({"type": "string", "pattern": "^[a-z]*$", "minLength": 3, "maxLength": 5}),
        json!({"type": ["string", "integer"], "minLength": 4, "minimum": 1000}),
        json!({"minLength": 4, "minimum": 1000, "minItems": 2, "required": ["x"]}),
        json!({"$ref": "#/$defs/short", "minLength": 2, "$defs": {"short": {"type": "string", "maxLength": 4}}}),
        json!({"anyOf": [{"type": "string"}, {"type": "integer"}], "maxLength": 3, "maximum": 5, "minimum": 0}),
        json!({"allOf": [{"type": "string", "minLength": 2}, {"type": "string", "maxLength": 3}]}),
        json!({"enum": ["red", "green", 7], "type": "string", "maxLength": 3}),
        json!({"type": "object", "required": ["undeclared"], "properties": {"a": {"const": 1}}}),
        json!({"type": "object", "properties": {"a": true, "b": false}, "required": ["a"]}),
        json!({"type": "array", "items": {"type": "boolean"}, "prefixItems": [{"const": 1}], "minItems": 2, "maxItems": 3}),
        json!({"type": "number", "minimum": -0.5, "exclusiveMaximum": 0.25}),
    ];
    let mut complete = 0;
    for (schema, seed) in schemas.iter().flat_map(|schema| (0..6).map(move |seed| (schema, seed))) {
        let structure = Structure::JsonSchema(schema.clone());
        let (text, reason) = answer(&mut model, structure, seed, 300);
        if reason == StopReason::EndOfText {
            complete += 1;
            let value: Value = serde_json::from_str(&text).unwrap();
            let found = jsonschema::validate(schema, &value);
            assert!(found.is_ok(), "{found:?}\n{text}\n{schema}");
        }
    }
    assert!(complete >= 70, "{complete} of 90 were complete");
}

/// The rules and repetitions that once took the engine minutes, or all memory.
#[test]
fn large_and_ambiguous_forms_are_answered() {
    let mut model = model();
    let many: Vec<String> = (0..200)
        .map(|i| format!("r{i} ::= r{} \"a\" | r{} \"b\" | \"a\"\n", i + 1, i + 1))
        .collect();
    let many = many.concat();
    let properties: serde_json::Map<String, Value> =
        (0..3000).map(|i| (format!("property {i}"), json!({"type": "integer"}))).collect();
    let structures = [
        Structure::Grammar("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"".into()),
        Structure::Grammar("root ::= root root | [a-z] | \"\"".into()),
        Structure::Grammar("root ::= ((\"a\"? \"b\"?)* (\"a\" | \"b\")*)*".into()),
        Structure::Grammar(format!("root ::= r0\n{many}r200 ::= \"a\"")),
        Structure::Grammar("root ::= [a-z]{0,100000}".into()),
        Structure::JsonSchema(json!({"type": "object", "properties": properties})),
        Structure::JsonSchema(json!({"type": "string", "maxLength": 100_000})),
    ];
    for structure in structures {
        structure.validate().unwrap();
        let (text, reason) = answer(&mut model, structure, 1, 20);
        assert!(
            matches!(reason, StopReason::MaxTokens | StopReason::EndOfText),
            "{text}: {reason:?}"
        );
    }
}

#[test]
fn limits_hold_while_a_form_is_read_and_followed() {
    let mut model = model();
    let structure = Structure::Grammar("root ::= root root root | [a-z] | \"\"".into());
    let options = GenerateOptions::default().structure(structure).max_tokens(1000);
    let brief = options.clone().max_time(std::time::Duration::from_millis(1));
    match model.generate("x", &brief) {
        Ok(mut answer) => {
            answer.by_ref().for_each(|piece| drop(piece.unwrap()));
            assert_eq!(answer.stop_reason(), Some(StopReason::TimeLimit));
        }
        Err(error) => assert!(matches!(error, Error::TimedOut { .. }), "{error}"),
    }
    let cancel = CancelHandle::new();
    cancel.cancel();
    let outcome = model.generate("x", &options.cancel(&cancel)).and_then(Generation::text);
    assert!(matches!(outcome, Err(Error::Cancelled { .. })), "{outcome:?}");
    let (text, _) = answer(&mut model, Structure::Grammar("root ::= \"a\"".into()), 0, 5);
    assert_eq!(text, "a");
}

/// The switch and the deadline hold while a form is read, not only while it is followed.
#[test]
fn limits_hold_while_a_large_form_is_read() {
    let mut model = model();
    // Its fault is at its end, which is not reached.
    let form = Structure::Grammar(format!("root ::= [{}] (", "a-z".repeat(5_000_000)));
    let options = GenerateOptions::default().structure(form).max_tokens(1);
    let brief = options.max_time(std::time::Duration::from_millis(30));
    let mut answer = model.generate("x", &brief).unwrap();
    answer.by_ref().for_each(|piece| drop(piece.unwrap()));
    assert_eq!(answer.stop_reason(), Some(StopReason::TimeLimit));
}

/// Only a computation can lose a context: where no token is left, the model stays usable.
#[test]
fn a_dead_end_is_an_error_and_the_model_goes_on() {
    let mut model = model();
    let mut sampling = Sampling::default();
    let mut token = 0;
    // All of the vocabulary, however large it is.
    loop {
        sampling.logit_bias.insert(token, f32::NEG_INFINITY);
        let options = GenerateOptions::default().sampling(sampling.clone()).max_tokens(0);
        if model.generate("x", &options).and_then(Generation::text).is_err() {
            sampling.logit_bias.remove(&token);
            break;
        }
        token += 1;
    }
    let structure = Structure::Grammar("root ::= \"only this\"".into());
    let options = GenerateOptions::default().sampling(sampling).structure(structure).max_tokens(5);
    for _ in 0..2 {
        match model.generate("x", &options).and_then(Generation::text) {
            Err(Error::DeadEnd { written, expected }) => {
                assert_eq!((&*written, &*expected), ("", "'o'"));
            }
            other => panic!("{other:?}"),
        }
    }
    let (text, _) = answer(&mut model, Structure::Grammar("root ::= \"a\"".into()), 0, 5);
    assert_eq!(text, "a");
    let free = GenerateOptions::default().max_tokens(3).sampling(Sampling::greedy());
    assert!(!model.generate("Hello", &free).unwrap().text().unwrap().is_empty());
}

/// It once wrote the `a`, and then said that no token goes on.
#[test]
fn a_token_that_ends_the_text_is_the_end_of_a_grammar() {
    let mut model = model();
    for grammar in ["root ::= \"a\" <|im_end|>", "root ::= \"a\" ( <|im_end|> | <|endoftext|> )"] {
        let (text, reason) = answer(&mut model, Structure::Grammar(grammar.into()), 0, 5);
        assert_eq!((&*text, reason), ("a", StopReason::EndOfText), "{grammar}");
    }
}

/// What a grammar demands is told, also where it is a token without a text.
#[test]
fn a_banned_token_that_the_grammar_names_is_told() {
    let mut model = model();
    let mut sampling = Sampling::default();
    sampling.logit_bias.insert(5, f32::NEG_INFINITY);
    let structure = Structure::Grammar("root ::= <[5]> \"a\"".into());
    let options = GenerateOptions::default().sampling(sampling).structure(structure).max_tokens(5);
    match model.generate("x", &options).and_then(Generation::text) {
        Err(Error::DeadEnd { expected, .. }) => assert_eq!(expected, "the token 5"),
        other => panic!("{other:?}"),
    }
}

/// A schema's pattern that has many readings is answered at length.
#[test]
fn patterns_of_many_repetitions_are_answered() {
    let schema = json!({"type": "string", "pattern": "^.*.*.*.*.*.*=.*$"});
    let (text, reason) = answer(&mut model(), Structure::JsonSchema(schema), 3, 300);
    assert!(matches!(reason, StopReason::MaxTokens | StopReason::EndOfText), "{text}: {reason:?}");
}
