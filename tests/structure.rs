//! With the engine: an answer has the form that was asked for.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use moe_offload::{Error, GenerateOptions, MoeModel, Sampling, StopReason, Structure};
use serde_json::{Value, json};
use support::model_files::demo;

fn model() -> MoeModel {
    MoeModel::builder(demo()).threads(1).context_tokens(1024).load().unwrap()
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
    let cases = [
        (Structure::Grammar("root ::= (".into()), "grammar", "expecting"),
        (Structure::Grammar("root ::= missing".into()), "grammar", "missing"),
        (Structure::Grammar("start ::= \"x\"".into()), "grammar", "root"),
        (Structure::Grammar("root ::= root \"x\"".into()), "grammar", "recursion"),
        (Structure::Grammar(" # nothing\n".into()), "grammar", "root"),
        (Structure::Grammar("root ::= ".to_owned() + &"(".repeat(100_000)), "grammar", "500"),
        (Structure::JsonSchema(json!({"type": "nonsense"})), "JSON schema", "nonsense"),
        (Structure::JsonSchema(json!({"$ref": "#/$defs/none"})), "JSON schema", "none"),
        (Structure::JsonSchema(json!(7)), "JSON schema", "7"),
        (Structure::JsonSchema(json!({"not": {"type": "null"}})), "JSON schema", "`not`"),
        (
            Structure::JsonSchema(
                json!({"properties": {"x": {"type": "array", "uniqueItems": true}}}),
            ),
            "JSON schema",
            "`uniqueItems`",
        ),
        (
            Structure::JsonSchema(json!({"anyOf": [{"type": "number", "maximum": 1}]})),
            "JSON schema",
            "`maximum`",
        ),
    ];
    for (structure, kind, part) in cases {
        let options = GenerateOptions::default().max_tokens(3).structure(structure.clone());
        match model.generate("x", &options) {
            Err(Error::InvalidStructure { what, reason }) => {
                assert_eq!(what, kind, "{structure:?}: {reason}");
                assert!(reason.contains(part), "{structure:?}: {reason}");
            }
            other => panic!("{structure:?}: {other:?}"),
        }
    }
    // The model goes on.
    let (text, _) = answer(&mut model, Structure::Grammar("root ::= \"a\"".into()), 0, 5);
    assert_eq!(text, "a");
    let nul = Structure::Grammar("root ::= \"\0\"".into());
    let options = GenerateOptions::default().structure(nul);
    assert!(matches!(model.generate("x", &options), Err(Error::NulByte { .. })));
}
