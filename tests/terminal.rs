//! `chat` in a terminal, with a person's keys.
#![cfg(all(feature = "llama", target_os = "linux"))]
#![allow(missing_docs)]

mod support;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rexpect::session::{PtySession, spawn_command};
use serde_json::{Value, json};
use support::process::program;

/// What is waited for at most, in milliseconds: a bound against hanging.
const PATIENCE: u64 = 120_000;

/// A conversation that waits for its first question.
fn chat(arguments: &[&str]) -> PtySession {
    let mut command = program("chat");
    command.args(["--threads", "1", "--temperature", "0", "--stats", "none"]).args(arguments);
    command.env("TERM", "xterm");
    let mut session = spawn_command(command, Some(PATIENCE)).unwrap();
    session.exp_string("Ctrl-C stops an answer").unwrap();
    session.exp_string("> ").unwrap();
    session
}

/// The same in a terminal in which no line is edited. It is the system's then, and Ctrl-C a signal.
fn chat_without_editor(arguments: &[&str]) -> PtySession {
    let mut command = program("chat");
    command.args(["--threads", "1", "--temperature", "0", "--stats", "none"]).args(arguments);
    command.env("TERM", "dumb");
    let mut session = spawn_command(command, Some(PATIENCE)).unwrap();
    session.exp_string("Ctrl-C stops an answer").unwrap();
    session.exp_string("> ").unwrap();
    session
}

fn press_control(session: &mut PtySession, key: char) {
    session.send_control(key).unwrap();
}

/// A line, as typed; returns when the editor has given the terminal back.
fn type_line(session: &mut PtySession, line: &str) {
    session.send_line(line).unwrap();
    session.exp_string("\u{1b}[?2004l").unwrap();
}

fn ends_by_control_d(mut session: PtySession) {
    press_control(&mut session, 'd');
    session.exp_eof().unwrap();
    let status = format!("{:?}", session.process().wait().unwrap());
    assert!(status.starts_with("Exited(") && status.ends_with(", 0)"), "{status}");
}

/// A text of 8⁶ letters, which no context here holds.
fn endless(folder: &Path) -> String {
    let rules = ["root", "a", "b", "c", "d", "e"]
        .windows(2)
        .map(|rule| format!("{} ::= {}\n", rule[0], [rule[1]; 8].join(" ")));
    let path = folder.join("endless.gbnf");
    std::fs::write(&path, rules.collect::<String>() + "e ::= [a-z ]{8}\n").unwrap();
    path.to_str().unwrap().to_owned()
}

fn messages(path: &Path) -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn ctrl_c_stops_an_answer_and_keeps_what_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let grammar = endless(folder.path());
    let arguments =
        ["--session", path.to_str().unwrap(), "--grammar", &grammar, "--context", "16384"];
    let mut session = chat(&arguments);
    // Twice in a row, the second time with an impatient finger.
    for presses in [1, 2] {
        type_line(&mut session, "Tell me a story.");
        session.exp_regex("[a-z ]{60}").unwrap();
        for _ in 0..presses {
            press_control(&mut session, 'c');
        }
        session.exp_string("(stopped)").unwrap();
        session.exp_string("> ").unwrap();
    }
    ends_by_control_d(session);
    let kept = messages(&path);
    assert_eq!(kept.len(), 4, "{kept:?}");
    for answer in [&kept[1], &kept[3]] {
        assert!(answer["content"].as_str().unwrap().len() >= 60, "{answer}");
    }
}

#[test]
fn ctrl_c_stops_the_reading_of_a_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let long = "A long story. ".repeat(10_000);
    let before = json!([
        {"role": "user", "content": long},
        {"role": "assistant", "content": "Yes."},
    ]);
    std::fs::write(&path, before.to_string()).unwrap();
    let mut session = chat(&["--session", path.to_str().unwrap(), "--context", "131072"]);
    type_line(&mut session, "Hello");
    session.exp_string("reading the prompt").unwrap();
    press_control(&mut session, 'c');
    session.exp_string("(stopped before the answer began").unwrap();
    session.exp_string("> ").unwrap();
    // At an empty prompt it only says how to leave.
    press_control(&mut session, 'c');
    session.exp_string("(Ctrl-D ends)").unwrap();
    session.exp_string("> ").unwrap();
    ends_by_control_d(session);
    assert_eq!(json!(messages(&path)), before);
}

#[test]
fn an_answer_does_not_control_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("escape.gbnf");
    std::fs::write(&path, r#"root ::= "red \x1B[31m\x07 end""#).unwrap();
    let mut session = chat(&["--grammar", path.to_str().unwrap()]);
    type_line(&mut session, "Hello");
    session.exp_string(r"red \u{1b}[31m\u{7} end").unwrap();
    session.exp_string("> ").unwrap();
    ends_by_control_d(session);
}

/// Ends by the last line that was typed, `/exit`; returns the questions that were asked.
fn questions_asked(mut session: PtySession, path: &Path) -> Vec<String> {
    session.exp_eof().unwrap();
    let kept = messages(path).into_iter();
    let asked = kept.filter(|message| message["role"] == "user");
    asked.map(|message| message["content"].as_str().unwrap().to_owned()).collect()
}

/// As a terminal without bracketed paste sends what is pasted.
fn paste(session: &mut PtySession, lines: &[String]) {
    session.send(&format!("{}\r/exit\r", lines.join("\r"))).unwrap();
    session.flush().unwrap();
}

#[test]
fn lines_that_arrive_at_once_are_all_asked_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    // More than the editor reads at once, and more than the terminal holds.
    let about = "and what does that mean for the memory of a small card? ".repeat(2);
    let lines: Vec<String> = (0..50).map(|i| format!("Question {i}: {}", about.trim())).collect();
    let mut session = chat(&["--session", path.to_str().unwrap(), "--max-tokens", "1"]);
    paste(&mut session, &lines);
    assert_eq!(questions_asked(session, &path), lines);
}

#[test]
fn lines_typed_during_an_answer_are_asked_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let grammar = endless(folder.path());
    let arguments = ["--session", path.to_str().unwrap(), "--grammar", &grammar];
    let mut session =
        chat(&[&arguments[..], &["--context", "16384", "--max-tokens", "1000"]].concat());
    type_line(&mut session, "Tell me a story.");
    session.exp_regex("[a-z ]{60}").unwrap();
    let lines = ["What is an expert?", "What is 3 plus 4?", "Who are you?"].map(str::to_owned);
    paste(&mut session, &lines);
    assert_eq!(questions_asked(session, &path)[1..], lines);
}

#[test]
fn a_bracketed_paste_is_one_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let mut session = chat(&["--session", path.to_str().unwrap(), "--max-tokens", "1"]);
    paste(&mut session, &["\u{1b}[200~one\rtwo\u{1b}[201~".to_owned(), "three".to_owned()]);
    assert_eq!(questions_asked(session, &path), ["one\ntwo", "three"]);
}

#[test]
fn what_is_no_text_is_told_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let mut session = chat(&["--session", path.to_str().unwrap(), "--max-tokens", "1"]);
    // Latin-1, as an old terminal sends it.
    let mut keys = session.process().get_file_handle().unwrap();
    keys.write_all(b"gr\xfc\xdfe\r").unwrap();
    session.exp_string("no text in UTF-8").unwrap();
    session.exp_string("> ").unwrap();
    paste(&mut session, &["Hello".to_owned()]);
    assert_eq!(questions_asked(session, &path), ["Hello"]);
}

/// Longer than what counts as right after Enter.
fn hesitate() {
    std::thread::sleep(Duration::from_secs(1));
}

#[test]
fn an_interrupt_before_a_question_drops_no_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let arguments = ["--session", path.to_str().unwrap(), "--max-tokens", "1"];
    let mut session = chat(&arguments);
    session.process_mut().signal("SIGINT".parse().unwrap()).unwrap();
    hesitate();
    paste(&mut session, &["Hello".to_owned()]);
    assert_eq!(questions_asked(session, &path), ["Hello"]);
}

#[test]
fn without_an_editor_ctrl_c_says_how_to_leave_and_drops_no_question() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let arguments = ["--session", path.to_str().unwrap(), "--max-tokens", "1"];
    let mut session = chat_without_editor(&arguments);
    for _ in 0..2 {
        press_control(&mut session, 'c');
        session.exp_string("(Ctrl-D ends)").unwrap();
        session.exp_string("> ").unwrap();
    }
    hesitate();
    session.send_line("Hello").unwrap();
    session.exp_string("> ").unwrap();
    session.send_line("/exit").unwrap();
    assert_eq!(questions_asked(session, &path), ["Hello"]);
}

#[test]
fn without_an_editor_no_key_is_named_that_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("talk.json");
    let before = json!([
        {"role": "user", "content": "A long story. ".repeat(10_000)},
        {"role": "assistant", "content": "Yes."},
    ]);
    std::fs::write(&path, before.to_string()).unwrap();
    let arguments = ["--session", path.to_str().unwrap(), "--context", "131072"];
    let mut session = chat_without_editor(&[&arguments[..], &["--max-seconds", "1"]].concat());
    session.send_line("Hello").unwrap();
    session.exp_string("before the answer began; the question was dropped)").unwrap();
    session.exp_string("> ").unwrap();
    session.send_line("/exit").unwrap();
    session.exp_eof().unwrap();
    assert_eq!(json!(messages(&path)), before);
}
