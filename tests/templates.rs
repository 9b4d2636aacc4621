//! Published chat templates give the texts that the reference implementation gives, and hostile
//! ones end with an error.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use moe_offload::error::TemplateFault;
use moe_offload::gguf::GgufWriter;
use moe_offload::{ChatTemplate, Error, GgufFile, Message, TemplateOptions};
use serde::Deserialize;
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates")
}

#[derive(Deserialize)]
struct Case {
    name: String,
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default = "yes")]
    generation_prompt: bool,
    #[serde(default)]
    variables: BTreeMap<String, Value>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Text(String),
    Raised(String),
    Failed(String),
}

fn read<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(folder().join(name)).unwrap()).unwrap()
}

fn render(template: &ChatTemplate, case: &Case) -> Expected {
    // 2026-02-09 08:07:06, as in make.py.
    let mut options = TemplateOptions::default()
        .now(UNIX_EPOCH + Duration::from_secs(1_770_624_426))
        .generation_prompt(case.generation_prompt);
    options.tools.clone_from(&case.tools);
    options.variables.clone_from(&case.variables);
    match template.render(&case.messages, &options) {
        Ok(text) => Expected::Text(text),
        Err(Error::ChatTemplate { fault: TemplateFault::Raised { message } }) => {
            Expected::Raised(message)
        }
        Err(error) => Expected::Failed(error.to_string()),
    }
}

/// Where they part.
fn difference(found: &Expected, expected: &Expected) -> String {
    let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
    let same = std::iter::zip(found.chars(), expected.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(40)).take(90).collect::<String>();
    format!("…{}…\n    instead of …{}…", part(&found), part(&expected))
}

#[test]
fn published_templates_give_the_reference_s_texts() {
    let cases: Vec<Case> = read("cases.json");
    let expected: BTreeMap<String, BTreeMap<String, Expected>> = read("expected.json");
    assert!(expected.len() >= 7 && cases.len() >= 30);
    let (mut wrong, mut right) = (Vec::new(), 0);
    for (name, expected) in &expected {
        let source = std::fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source)
            .unwrap()
            .token("bos_token", "<bos>")
            .token("eos_token", "<eos>")
            .token("pad_token", "<pad>");
        for case in &cases {
            let (found, expected) = (render(&template, case), &expected[&case.name]);
            let equal = match (&found, expected) {
                (Expected::Failed(_), Expected::Failed(_)) => true,
                (found, expected) => found == expected,
            };
            if equal {
                right += 1;
            } else {
                wrong.push(format!("{name}, {}: {}", case.name, difference(&found, expected)));
            }
        }
    }
    assert!(wrong.is_empty(), "{right} right, {} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(right, cases.len() * expected.len());
}

fn fault(source: &str) -> TemplateFault {
    let options = TemplateOptions::default();
    let render = || ChatTemplate::new(source)?.render(&[Message::user("x")], &options);
    match render() {
        Err(Error::ChatTemplate { fault }) => fault,
        other => panic!("{source:.200}: {other:?}"),
    }
}

#[test]
fn a_hostile_template_ends_with_an_error() {
    let doubled = "{% set ns = namespace(x=['a']) %}{% for i in range(70) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let too_much = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='ab') %}{% for i in range(70) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='ab') %}{% for i in range(70) %}{% set ns.x = ns.x + ns.x %}{% endfor %}".to_owned(),
        "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}".to_owned(),
        "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}".to_owned(),
        "{{ ('a' * 100000).join(['b'] * 100000) }}".to_owned(),
        "{{ 'x' * 99999999 }}".repeat(3),
        format!("{doubled}{{{{ ns.x }}}}"),
        format!("{doubled}{{{{ ns.x|tojson }}}}"),
        format!("{doubled}{{{{ ns.x|string }}}}"),
        format!("{doubled}{{{{ [ns.x, [ns.x]]|tojson(indent=4) }}}}"),
    ];
    for source in too_much {
        assert_eq!(fault(&source), TemplateFault::TooMuchWork, "{source:.200}");
    }
    // These end with one error or another.
    for source in [
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}".to_owned(),
        "{% include 'default' %}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        format!("{doubled}{{{{ [ns.x].count(ns.x) }}}}"),
        format!("{doubled}{{{{ '{{}}'.format(ns.x) }}}}"),
        format!("{doubled}{{{{ ''.join([ns.x]) }}}}"),
        "{{ '%999999999999d'|format(1) }}".to_owned(),
        "{{ '{:9999999999}'.format(1) }}".to_owned(),
        "{{ strftime_now('%Q') }}".to_owned(),
        "(".repeat(5000) + "{{" + &"(".repeat(100_000),
        "{{ ".to_owned() + &"[".repeat(100_000),
        "{% if 1 %}".repeat(20_000),
        "x".repeat(300 << 10),
        "{{ x".to_owned() + &".a".repeat(100_000) + " }}",
    ] {
        fault(&source);
    }
}

/// What nests deeply without being refused must not overflow the stack either.
#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for (messages, source) in [
        (1, "{{ ".to_owned() + &"-".repeat(60_000) + "1 }}"),
        (1, "{{ ".to_owned() + &"not ".repeat(25_000) + "1 }}"),
        (1, "{{ 1".to_owned() + &"+1".repeat(60_000) + " }}"),
        (1000, "{{ messages".to_owned() + &"|list".repeat(25_000) + " }}"),
        (1000, "{% if 0 %}".to_owned() + &"{% elif 0 %}".repeat(10_000) + "{% endif %}"),
        (1000, "{{ 1".to_owned() + &" if 1 else 1".repeat(10_000) + " }}"),
        (1000, "{{ 1".to_owned() + &" ~ 1".repeat(60_000) + " }}"),
        (1000, "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}".into()),
        (1000, format!("{{% set ns = namespace(x=[]) %}}{{% for i in range(90000) %}}{{% set ns.x = {}ns.x{} %}}{{% endfor %}}", "[".repeat(20), "]".repeat(20))),
        (1000, "{% set ns = namespace(x={}) %}{% for i in range(90000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}".into()),
        (1, "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x|length }}".into()),
        (1000, "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = ns.x|map('string') %}{% endfor %}".into()),
        (1000, "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}".into()),
    ] {
        let template = ChatTemplate::new(&source);
        // Whether it works is the template's affair; that this process goes on is ours.
        let _ = template.and_then(|template| {
            template.render(&vec![Message::user("x"); messages], &TemplateOptions::default())
        });
    }
}

#[test]
fn a_model_file_s_templates_and_tokens() {
    let mut writer = GgufWriter::new();
    writer
        .set("tokenizer.ggml.tokens", vec!["<unk>".to_owned(), "<s>".into(), "</s>".into()])
        .set("tokenizer.ggml.bos_token_id", 1_u32)
        .set("tokenizer.ggml.eos_token_id", 2_u32)
        .set("tokenizer.chat_template", "{{ bos_token }}plain{{ eos_token }}{{ mask_token }}")
        .set("tokenizer.chat_template.tool_use", "{{ bos_token }}{{ tools|length }} tools")
        .set("tokenizer.chat_template.rag", "{{ documents is none }}");
    let mut file = Vec::new();
    writer.write_header(&mut file).unwrap();
    let gguf = GgufFile::read(&file[..], file.len() as u64, "memory").unwrap();
    let template = ChatTemplate::from_gguf(&gguf).unwrap();
    let talk = [Message::user("x")];
    let options = TemplateOptions::default();
    assert_eq!(template.render(&talk, &options).unwrap(), "<s>plain</s>");
    let with_tool = options.clone().tool(serde_json::json!({}));
    assert_eq!(template.render(&talk, &with_tool).unwrap(), "<s>1 tools");
    let rag = ChatTemplate::named(&gguf, "rag").unwrap();
    assert_eq!(rag.render(&talk, &options).unwrap(), "True");
    assert!(matches!(ChatTemplate::named(&gguf, "none"), Err(Error::NoChatTemplate)));
}

#[test]
fn what_only_training_needs_is_left_out() {
    let template = ChatTemplate::new(
        "{%- for m in messages %}{% generation %}\n{{ m.content }}{%- endgeneration -%} !\n{% endfor %}",
    );
    let text = template.unwrap().render(&[Message::user("x")], &TemplateOptions::default());
    assert_eq!(text.unwrap(), "x!\n");
    assert!(matches!(fault("{% if %}"), TemplateFault::Syntax { line: Some(1), .. }));
    assert!(matches!(fault("\n{{ 1 + none }}"), TemplateFault::Failed { line: Some(2), .. }));
    let raised = fault("{{ raise_exception('roles must alternate') }}");
    assert_eq!(raised, TemplateFault::Raised { message: "roles must alternate".into() });
}
