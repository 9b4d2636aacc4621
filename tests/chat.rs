//! What the example `chat` keeps, says and understands. `tests/terminal.rs` has what needs a terminal.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::process::example;

/// Greedy, one thread, a small context: quick, and the same each time.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("chat"));
    command.args(["--threads", "1", "--temperature", "0", "--context", "512"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What comes of these lines on standard input.
fn chat(arguments: &[&str], input: &str) -> Output {
    let mut process = command(arguments).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    process.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The messages of a session's file, as who says what.
fn messages(path: &Path) -> Vec<(String, String)> {
    let read: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = read.as_array().unwrap().iter();
    messages.map(|message| (text(&message["role"]), text(&message["content"]))).collect()
}

fn questions(path: &Path) -> Vec<String> {
    let messages = messages(path).into_iter();
    messages.filter(|(role, _)| role == "user").map(|(_, content)| content).collect()
}

/// A folder, and a session's file in it that is not there yet.
fn session() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    (folder, path)
}

#[test]
fn a_question_that_is_too_long_loses_nothing_that_was_said() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--stats", "none"];
    let long = "word ".repeat(2000);
    let output =
        chat(&arguments, &format!("What is an expert?\nWhat is 3 plus 4?\n{long}\nHello\n"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(questions(&path), ["What is an expert?", "What is 3 plus 4?", "Hello"]);
    let roles: Vec<String> = messages(&path).into_iter().map(|(role, _)| role).collect();
    assert_eq!(roles, ["user", "assistant"].repeat(3));
    let said = said(&output);
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(errors[..], [error] if error.contains("raise `--context`")), "{said}");
    assert!(!said.contains("no longer sees"), "the others fit: {said}");
}

#[test]
fn what_does_not_fit_the_context_stays_in_the_session() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--stats", "none", "--max-tokens", "8"];
    let long = "please ".repeat(30);
    let input: Vec<String> = (0..12).map(|i| format!("{long} question number {i}\n")).collect();
    let output = chat(&arguments, &input.concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(questions(&path).len(), 12);
    let notices = said(&output).matches("no longer sees").count();
    // Each makes room for several turns.
    assert!((1..=6).contains(&notices), "{}", said(&output));
}

#[test]
fn a_session_is_on_disk_before_the_next_question_is() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--stats", "json"];
    let mut process = command(&arguments).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut ask = |question: &str| {
        writeln!(input, "{question}").unwrap();
        let mut line = String::new();
        while !line.starts_with('{') {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended");
        }
    };
    ask("What is an expert?");
    ask("What is 3 plus 4?");
    process.kill().unwrap();
    process.wait().unwrap();
    let kept = messages(&path);
    assert!(kept.len() >= 3 && !kept[1].1.is_empty(), "{kept:?}");
    assert_eq!(questions(&path), ["What is an expert?", "What is 3 plus 4?"]);

    // The program may have ended before the second answer was noted.
    let answered = kept.len() / 2 * 2;
    let again = chat(&[&arguments[..], &["--prompt", "Hello"]].concat(), "");
    let expected = format!("{}, going on after {} messages", path.display(), kept.len());
    assert!(said(&again).contains(&expected), "{}", said(&again));
    assert_eq!(messages(&path).len(), answered + 2);
    let stats: Value =
        serde_json::from_str(String::from_utf8(again.stdout).unwrap().lines().last().unwrap())
            .unwrap();
    assert!(stats["reused_tokens"].as_u64() > Some(10), "its state was there too: {stats}");
}

#[test]
fn a_question_without_an_answer_is_left_out_of_the_next_prompt() {
    let (_folder, path) = session();
    let unanswered = r#"[{"role": "user", "content": "What is an expert?"}]"#;
    std::fs::write(&path, unanswered).unwrap();
    let output = chat(&["--session", path.to_str().unwrap(), "--prompt", "Hello"], "");
    assert!(said(&output).contains("never answered and is left out: What is an expert?"));
    assert_eq!(questions(&path), ["Hello"]);
}

#[test]
fn instructions_hold_for_a_session_that_goes_on() {
    let (_folder, path) = session();
    for instructions in ["Be brief.", "Be kind."] {
        let session = path.to_str().unwrap();
        let arguments = ["--session", session, "--system", instructions, "--prompt", "Hello"];
        assert!(chat(&arguments, "").status.success());
        assert_eq!(messages(&path)[0], ("system".to_owned(), instructions.to_owned()));
    }
    assert_eq!(messages(&path).len(), 5);
}

#[test]
fn a_session_that_cannot_be_kept_is_told_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("text.json"), "this is no conversation").unwrap();
    for (path, expected) in [
        (at("nowhere/talk.json"), "cannot keep a session in"),
        (at("text.json"), "cannot read"),
        (at("talk.state"), "must be a name that does not end in `.state`"),
    ] {
        let output = chat(&["--session", &path, "--prompt", "Hello"], "");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty() && said.contains(expected), "{said}");
        assert!(!said.contains("policy"), "the model was loaded first: {said}");
    }
    assert_eq!(std::fs::read_to_string(at("text.json")).unwrap(), "this is no conversation");
}

#[test]
fn commands_are_for_the_program() {
    let output = chat(&[], "/help\n/nonsense now\nquit\nHello\n");
    let said = said(&output);
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(said.contains("/clear") && said.contains("there is no /nonsense;"), "{said}");
    for end in ["exit", "/exit", "/quit"] {
        let output = chat(&[], &format!("{end}\nHello\n"));
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    for question in [" /help", "/usr/bin/chat is a program"] {
        assert!(!chat(&[], &format!("{question}\n")).stdout.is_empty(), "{question}");
    }
}

#[test]
fn a_cleared_conversation_begins_anew() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--system", "Be brief."];
    let output = chat(&arguments, "What is an expert?\n/clear\nHello\n");
    assert!(output.status.success(), "{output:?}");
    let kept: Vec<(String, String)> = messages(&path);
    assert_eq!(kept[0].0, "system");
    assert_eq!((questions(&path), kept.len()), (vec!["Hello".to_owned()], 3));
    let old = path.with_file_name("talk.json.old");
    assert!(said(&output).contains(old.to_str().unwrap()), "{}", said(&output));
    assert_eq!(questions(&old), ["What is an expert?"]);
}

#[test]
fn an_answer_has_one_line_of_statistics_unless_more_is_asked_for() {
    let after_the_answer = |arguments: &[&str]| {
        let output = chat(&[&["--prompt", "Hello"], arguments].concat(), "");
        assert!(output.status.success(), "{output:?}");
        let said = said(&output);
        let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
        let plan = lines.iter().rposition(|line| line.contains('█')).unwrap_or(0);
        lines[plan + 1..].iter().map(|&line| line.to_owned()).collect::<Vec<_>>()
    };
    let without = after_the_answer(&["--stats", "none"]).len();
    let line = after_the_answer(&[]);
    assert_eq!(line.len(), without + 1, "{line:?}");
    assert!(line.last().unwrap().contains("tokens at "), "{line:?}");
    let table = after_the_answer(&["--stats"]).join("\n");
    assert!(table.contains("prefill ") && table.contains("memory "), "{table}");
}

#[test]
fn errors_name_the_options_of_the_program() {
    let long = "word ".repeat(2000);
    for (arguments, expected) in [
        (&["--prompt", &long][..], "raise `--context` or"),
        (&["--context", "0", "--prompt", "x"], "--context is 0"),
        (&["--micro-batch", "0", "--prompt", "x"], "--micro-batch is 0"),
        (&["--top-p", "7", "--prompt", "x"], "--top-p is 7"),
        (&["--xtc", "7", "--prompt", "x"], "--xtc is 7"),
        (&["--dry", "700", "--prompt", "x"], "--dry is 700"),
    ] {
        let mut command = Command::new(example("chat"));
        let output = command.args(["--threads", "1"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
}
