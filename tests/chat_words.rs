//! What the example `chat` says of options and files that cannot be used, or that change nothing.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::process::program;

/// What comes of one question.
fn chat(arguments: &[&str]) -> Output {
    let mut command = program("chat");
    command.args(["--threads", "1", "--prompt", "Tell me a story."]).args(arguments);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_chooses_among_tokens_does_nothing_where_none_are_chosen_and_says_so() {
    let with = |temperature: &str, options: &[&str]| {
        let temperature = ["--temperature", temperature, "--max-tokens", "1"];
        let output = chat(&[&temperature[..], options].concat());
        assert!(output.status.success(), "{output:?}");
        said(&output)
    };
    for options in [&["--seed", "1"][..], &["--top-k", "5", "--xtc", "0.5"], &["--mirostat", "2"]] {
        let greedy = with("0", options);
        let line = greedy.lines().find(|line| line.contains("at --temperature 0")).unwrap();
        assert!(options.iter().step_by(2).all(|option| line.contains(option)), "{line}");
        assert!(!with("0.5", options).contains("at --temperature 0"));
    }
    assert!(!with("0", &["--repeat-penalty", "1.1"]).contains("at --temperature 0"));
}

#[test]
fn a_model_without_a_chat_template_takes_nothing_that_needs_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.gguf");
    let mut model = std::fs::read(support::model_files::demo()).unwrap();
    let key = b"tokenizer.chat_template";
    let at = model.windows(key.len()).position(|bytes| bytes == key).unwrap();
    model[at..at + 9].copy_from_slice(b"tokenised");
    std::fs::write(&path, &model).unwrap();
    let model = ["--model", path.to_str().unwrap(), "--max-tokens", "2"];
    let plain = chat(&model);
    assert!(
        plain.status.success() && said(&plain).contains("continued as plain text"),
        "{plain:?}"
    );
    for option in [["--system", "Be brief."], ["--template", "x=1"]] {
        let output = chat(&[&model[..], &option].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let expected = format!("no chat template, so {} would change nothing", option[0]);
        assert!(output.stdout.is_empty() && said(&output).contains(&expected), "{output:?}");
    }
}

#[test]
fn buffers_that_do_not_fit_are_blamed_on_the_micro_batch() {
    let server = support::process::Server::start();
    let with = |tokens: &str| {
        let mut command = program("chat");
        let large = ["--policy", "fit:48MiB", "--context", "8192", "--micro-batch", tokens];
        command.args(["--rpc", &server.endpoint, "--prompt", "x", "--max-tokens", "1"]);
        command.args(large).output().unwrap()
    };
    let output = with("8192");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = "use a smaller micro-batch (`--micro-batch`)";
    assert!(said(&output).contains(expected), "{}", said(&output));
    assert!(with("64").status.success());
}

#[test]
fn a_variable_of_the_template_is_given_once() {
    let output = chat(&["--template", "a=1", "--template", "b=2", "--template", "a=x"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = "--template sets `a` twice, to 1 and to \"x\"";
    assert!(output.stdout.is_empty() && said(&output).contains(expected), "{output:?}");
}

/// A plan for the demo model with a context of so many tokens, changed by hand.
fn stored_plan(path: &Path, context: &str, change: impl Fn(&mut Value)) {
    let demo = support::model_files::demo();
    let arguments = ["--model", demo.to_str().unwrap(), "--cpu-only", "--context", context];
    let output = support::process::run("plan", &[&arguments[..], &["--json"]].concat());
    let mut plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    change(&mut plan);
    std::fs::write(path, plan.to_string()).unwrap();
}

fn with_plan(path: &Path, prompt: &str) -> Output {
    let mut command = program("chat");
    command.args(["--threads", "1", "--temperature", "0", "--prompt", prompt]);
    command.arg("--plan").arg(path).output().unwrap()
}

#[test]
fn what_a_stored_plan_says_is_no_option_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    for (key, value) in [
        ("context_tokens", 0_u64),
        ("context_tokens", u64::from(u32::MAX)),
        ("micro_batch_tokens", 0),
        ("sequences", 0),
        ("expert_offload_tokens", 0),
    ] {
        stored_plan(&path, "512", |plan| plan["context"][key] = value.into());
        let said = said(&with_plan(&path, "x"));
        let expected =
            format!("this plan cannot be kept: its `context.{key}` is {value}, but must be");
        assert!(said.contains(&expected) && !said.contains("--"), "{said}");
    }
    // Nor is what would make room.
    stored_plan(&path, "32", |_| {});
    let long = said(&with_plan(&path, &"word ".repeat(100)));
    assert!(long.contains("raise `--context` of `plan --freeze` or shorten"), "{long}");
    let full = said(&with_plan(&path, "Tell me a story."));
    assert!(full.contains("a plan with a larger --context leaves more room"), "{full}");
}

#[test]
fn a_file_that_is_no_plan_or_conversation_is_told_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.json");
    let model = std::fs::read(support::model_files::demo()).unwrap();
    let talk = r#"[{"role": "user", "content": "Hello"}]"#;
    for (plan, expected) in [
        (&b""[..], "it is empty, not a stored plan; store one by `plan --freeze`"),
        (br#"{"policy": "fi"#, "it is cut off ("),
        (b"policy: fit", "it is not JSON, so not a stored plan ("),
        (talk.as_bytes(), "it is JSON, but not a stored plan ("),
        (&model, "it is a model, not a stored plan; store one"),
        (b"null", "it is JSON, but not a stored plan (that is an object); store one"),
    ] {
        std::fs::write(&path, plan).unwrap();
        let output = with_plan(&path, "x");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    for (talk, expected) in [
        (&talk.as_bytes()[..20], "it is cut off ("),
        (b"Hello", "it is not JSON, so not a conversation ("),
        (br#"{"policy": "fit"}"#, "it is JSON, but not a conversation ("),
        (br#"[{"role": "robot", "content": "x"}]"#, "it is JSON, but not a conversation (unknown"),
        (
            b"[1,2,3]",
            "a conversation (that is a list of objects with `role` and `content`); correct",
        ),
        (br#"[["role", "user"]]"#, "that is a list of objects"),
        (&model, "it is a model, not a conversation; correct it, or name another file"),
    ] {
        std::fs::write(&path, talk).unwrap();
        let output = chat(&["--session", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said(&output).contains(expected), "{}", said(&output));
        assert_eq!(std::fs::read(&path).unwrap(), talk);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_plan_s_smaller_cache_counts_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    let demo = support::model_files::demo();
    let arguments = ["--model", demo.to_str().unwrap(), "--cpu-only", "--policy"];
    let cache = ["all-experts=disk", "--expert-cache", "1MiB", "--freeze", path.to_str().unwrap()];
    let planned = support::process::run("plan", &[&arguments[..], &cache].concat());
    assert!(planned.status.success(), "{planned:?}");
    for (given, is_told) in [("2MiB", true), ("1MiB", false), ("768KiB", false)] {
        let plan = ["--plan", path.to_str().unwrap(), "--max-tokens", "1"];
        let output = chat(&[&plan[..], &["--expert-cache", given]].concat());
        assert!(output.status.success(), "{output:?}");
        let expected = "--expert-cache is 2.00 MiB, but the plan's 1.00 MiB counts";
        assert_eq!(said(&output).contains(expected), is_told, "{}", said(&output));
    }
}

#[test]
fn a_form_that_is_too_large_says_what_of_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("form");
    let refused = |option: &str, text: &str| {
        std::fs::write(&path, text).unwrap();
        let output = chat(&[option, path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        said(&output)
    };
    let long = refused("--grammar", &format!("root ::= \"{}\"", "a".repeat(1_500_000)));
    assert!(long.contains("each letter of a text is one") && !long.contains("braces"), "{long}");
    let repeated = refused("--grammar", r#"root ::= "a"{600000} "b"{600000}"#);
    assert!(repeated.contains("lower the numbers in braces"), "{repeated}");
    let members: Vec<u32> = (0..100_000).collect();
    let schema = serde_json::json!({"enum": members}).to_string();
    let members = refused("--json-schema", &schema);
    assert!(
        members.contains("`enum` at `#` has 100000 members; some 50000 can be used"),
        "{members}"
    );
    let most: Vec<u32> = (0..50_000).collect();
    std::fs::write(&path, serde_json::json!({"enum": most}).to_string()).unwrap();
    let taken = chat(&["--json-schema", path.to_str().unwrap(), "--max-tokens", "1"]);
    assert!(taken.status.success(), "{}", said(&taken));
}
