//! Published chat templates give the texts that the reference implementation gives, and hostile
//! ones end with an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use moe_offload::error::TemplateFault;
use moe_offload::{ChatTemplate, Error, GgufFile, Message, TemplateOptions};
use moe_offload_synth::GgufWriter;
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
    /// Of a text, as make.py computes it.
    Hash(String),
    Raised(String),
    Failed(String),
}

impl Expected {
    fn admits(&self, found: &Self) -> bool {
        match (found, self) {
            (Self::Failed(_), Self::Failed(_)) => true,
            (Self::Text(text), Self::Hash(hash)) => fnv(text) == *hash,
            (found, expected) => found == expected,
        }
    }
}

fn fnv(text: &str) -> String {
    let hash = text.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    format!("{hash:016x}")
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
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

/// How a template's text may differ from the reference's, and why: see tests/templates/README.md.
#[derive(Clone, Copy, Debug)]
enum Difference {
    /// The reference fails where the engine finds nothing to do, or writes a list that the reference
    /// would have to make of a generator.
    Lenient,
    /// The reference escapes what it adds to a text marked as `safe`.
    Unescaped,
    /// `~` writes floats that are very large or small without an exponent.
    Exponent,
}

const DIFFERENCES: [(&str, Difference); 8] = [
    ("CohereForAI-c4ai-command-r-plus-tool_use", Difference::Lenient),
    ("NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", Difference::Lenient),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", Difference::Lenient),
    ("llama-cpp-deepseek-r1", Difference::Lenient),
    ("meetkai-functionary-medium-v3.1", Difference::Unescaped),
    ("meetkai-functionary-medium-v3.2", Difference::Exponent),
    ("GigaChat3-10B-A1.8B", Difference::Exponent),
    ("GigaChat3.1-10B-A1.8B", Difference::Exponent),
];

impl Difference {
    fn explains(self, case: &Case, found: &Expected, expected: &Expected) -> bool {
        match (self, found) {
            (Self::Lenient, Expected::Text(_)) => matches!(expected, Expected::Failed(_)),
            (Self::Unescaped, Expected::Text(_)) => !case.tools.is_empty(),
            (Self::Exponent, Expected::Text(text)) => {
                expected.admits(&Expected::Text(text.replace("15000000000000000.0", "1.5e+16")))
            }
            _ => false,
        }
    }
}

/// Compares the templates of a folder with its `expected.json`; how many there are.
fn compare(folder: &Path) -> usize {
    let cases: Vec<Case> = read(&self::folder().join("cases.json"));
    let expected: BTreeMap<String, BTreeMap<String, Expected>> =
        read(&folder.join("expected.json"));
    let mut wrong = Vec::new();
    for (name, expected) in &expected {
        let source = std::fs::read_to_string(folder.join(format!("{name}.jinja"))).unwrap();
        let template = ChatTemplate::new(&source)
            .unwrap()
            .token("bos_token", "<bos>")
            .token("eos_token", "<eos>")
            .token("pad_token", "<pad>");
        let known = DIFFERENCES.iter().find(|(of, _)| of == name).map(|(_, known)| *known);
        let mut explained = 0;
        for case in &cases {
            let (found, expected) = (render(&template, case), &expected[&case.name]);
            if expected.admits(&found) {
                continue;
            }
            if known.is_some_and(|known| known.explains(case, &found, expected)) {
                explained += 1;
            } else {
                wrong.push(format!("{name}, {}: {}", case.name, difference(&found, expected)));
            }
        }
        if known.is_some() && explained == 0 {
            wrong.push(format!("{name} no longer differs: take it from the list"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cases.len() >= 41);
    expected.len()
}

#[test]
fn published_templates_give_the_reference_s_texts() {
    assert!(compare(&folder()) >= 22);
}

#[test]
fn the_templates_that_llama_cpp_carries_give_the_reference_s_texts() {
    assert!(compare(&folder().join("llama.cpp")) >= 43);
}

/// For the templates that are not kept here; first run `make.py` over their folder.
#[test]
#[ignore = "takes the templates in the folder MOE_OFFLOAD_TEMPLATES"]
fn templates_kept_elsewhere_give_the_reference_s_texts() {
    let folder = std::env::var_os("MOE_OFFLOAD_TEMPLATES").expect("a folder");
    assert!(compare(Path::new(&folder)) > 0);
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
    let talk = [Message::user("")];
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

/// Else the model answers something that nobody asked, and nobody says so.
#[test]
fn a_template_that_leaves_the_question_out_is_refused() {
    let every = |content: &str| format!("{{% for m in messages %}}[{content}]{{% endfor %}}");
    let render = |source: &str, talk: &[Message]| {
        ChatTemplate::new(source).unwrap().render(talk, &TemplateOptions::default())
    };
    let question = Message::user(" What is <|im_end|> for? ");
    let asked = [Message::system("Be brief."), question.clone()];
    for leaves_out in [
        "chatml",
        "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}",
        "{{ messages[0].content }}",
        "{% for m in messages[:-1] %}{{ m.content }}{% endfor %}",
    ] {
        let error = render(leaves_out, &asked).unwrap_err();
        let fault = TemplateFault::WithoutQuestion;
        assert!(
            matches!(&error, Error::ChatTemplate { fault: found } if *found == fault),
            "{error}"
        );
        assert!(error.to_string().contains("leaves out the question"), "{error}");
    }
    // However it is written, it is there.
    for content in [
        "{{ m.content }}",
        "{{ m.content|trim }}",
        "{{ m.content|upper }}",
        "{{ m.content|replace('<|im_end|>', '') }}",
        "{{ m.content|tojson }}",
        "{{ m.content.split()|join('_') }}",
        "{{ m.content|length }}",
    ] {
        let text = render(&every(content), &asked);
        assert!(text.is_ok(), "{content}: {}", text.unwrap_err());
    }
    // Nothing is asked, or nothing is said.
    for talk in [&[][..], &[question, Message::assistant("An end.")], &[Message::user(" \n")]] {
        assert!(render("chatml", talk).is_ok(), "{talk:?}");
    }
}

fn tool_turn(source: &str, question: &str, arguments: Value) -> String {
    let call = moe_offload::ToolCall::new("look", arguments);
    let talk = [Message::user(question), Message::tool_calls([call])];
    let template = ChatTemplate::new(source).unwrap();
    template.render(&talk, &TemplateOptions::default()).unwrap()
}

/// The turn has no content, which is not the word `None`.
#[test]
fn a_turn_with_only_a_tool_call_does_not_say_none() {
    let calls = "{{ m.tool_calls[0].function.arguments|tojson if m.tool_calls }}";
    let source =
        |content: &str| format!("{{% for m in messages %}}[{content}{calls}]{{% endfor %}}");
    let arguments = || serde_json::json!({"word": "None", "nothing": null});
    for content in [
        "{{ m.content }}",
        "{{ m.content if m.content is string else m.content|tojson }}",
        "{{ '' ~ m.content }}",
    ] {
        let text = tool_turn(&source(content), "None or null?", arguments());
        let expected = r#"[None or null?][{"word": "None", "nothing": null}]"#;
        assert_eq!(text, expected, "{content}");
    }
    // Who asks whether there is content is told the truth, whatever the person says.
    let text = tool_turn(&source("{{ m.content is none }}"), "None or null?", arguments());
    assert_eq!(text, r#"[False][True{"word": "None", "nothing": null}]"#);
}

#[test]
fn a_call_without_arguments_has_an_object_without_fields() {
    let source = "{% for m in messages %}{% if m.tool_calls %}\
                  {{ m.tool_calls[0].function.arguments|tojson }}{% endif %}{% endfor %}";
    for arguments in [Value::Null, "".into(), "{}".into(), "null".into()] {
        assert_eq!(tool_turn(source, "x", arguments.clone()), "{}", "{arguments}");
    }
}

#[test]
fn indent_is_python_s() {
    let template = ChatTemplate::new(
        "{{ 'a\\n\\nb\\n'|indent(2) }}|{{ 'a\\n'|indent(2, first=true) }}|{{ 'a\\n\\nb'|indent(width=1, \
         first=true, blank=true) }}|{{ 'a\\r\\nb'|indent }}|{{ ''|indent(3, true) }}",
    );
    let text = template.unwrap().render(&[], &TemplateOptions::default()).unwrap();
    assert_eq!(text, "a\n\n  b\n|  a\n| a\n \n b|a\n    b|   ");
}
