//! What the example `chat` keeps, says and understands. `tests/terminal.rs` has what needs a terminal.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::process::program;

/// A bound against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Greedy, one thread, a small context: quick, and the same each time.
fn command(arguments: &[&str]) -> Command {
    let mut command = program("chat");
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
    // Nobody may read what was said of it.
    assert_eq!(output.status.code(), Some(1), "{output:?}");
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
    let kept = path.with_file_name("talk.json.unanswered");
    let expected = format!("so it was kept in {}: What is an expert?", kept.display());
    assert!(said(&output).contains(&expected), "{}", said(&output));
    assert_eq!(questions(&path), ["Hello"]);
    assert_eq!(questions(&kept), ["What is an expert?"]);
    // There are no arrow keys.
    let late = chat(&["--session", path.to_str().unwrap(), "--max-seconds", "0"], "Who?\n");
    assert!(said(&late).contains("the question was dropped)"), "{}", said(&late));
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
    std::fs::write(at("read-only.json"), "[]").unwrap();
    let mut permissions = std::fs::metadata(at("read-only.json")).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(at("read-only.json"), permissions).unwrap();
    for (path, expected) in [
        (at("nowhere/talk.json"), "cannot keep a session in"),
        (at("text.json"), "cannot read"),
        (at("read-only.json"), "is read-only"),
        (folder.path().to_str().unwrap().to_owned(), "not a regular file"),
        ("/dev/null".to_owned(), "not a regular file"),
        (at("new.json/"), "name a file"),
        (at("new.json//"), "name a file"),
        (at("text.json/"), "name a file"),
        (at("new.json/.."), "cannot keep a session in"),
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
    for question in [" /help", " /exit", "  /quit", "/usr/bin/chat is a program"] {
        assert!(!chat(&[], &format!("{question}\n")).stdout.is_empty(), "{question}");
    }
}

#[test]
fn a_cleared_conversation_begins_anew() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--system", "Be brief."];
    let output = chat(&arguments, "What is an expert?\n/clear\nWhat is 3 plus 4?\n/clear\nHello\n");
    assert!(output.status.success(), "{output:?}");
    let kept: Vec<(String, String)> = messages(&path);
    assert_eq!(kept[0].0, "system");
    assert_eq!((questions(&path), kept.len()), (vec!["Hello".to_owned()], 3));
    let old = path.with_file_name("talk.json.old");
    assert!(said(&output).contains(old.to_str().unwrap()), "{}", said(&output));
    assert_eq!(questions(&old), ["What is an expert?"]);
    assert_eq!(questions(&path.with_file_name("talk.json.old.2")), ["What is 3 plus 4?"]);
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
        let mut command = program("chat");
        let output = command.args(["--threads", "1"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
}

#[test]
fn two_programs_with_one_session_lose_nothing() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--stats", "json"];
    let mut first = command(&arguments).spawn().unwrap();
    let mut input = first.stdin.take().unwrap();
    writeln!(input, "What is an expert?").unwrap();
    let mut output = BufReader::new(first.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap().starts_with('{')));
    // The last that is written of an answer.
    let started = Instant::now();
    while !path.with_file_name("talk.json.state").exists() {
        assert!(started.elapsed() < PATIENCE, "no state was written");
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = chat(&[&arguments[..], &["--prompt", "What is 3 plus 4?"]].concat(), "");
    assert!(second.status.success(), "{second:?}");
    writeln!(input, "Hello\n/clear\nWho are you?").unwrap();
    drop(input);
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{first:?}");
    assert_eq!(questions(&path), ["What is an expert?", "What is 3 plus 4?"]);
    let own = path.with_file_name("talk.json.2");
    assert!(said(&first).contains(own.to_str().unwrap()), "{}", said(&first));
    assert_eq!(questions(&own), ["Who are you?"]);
    let old = path.with_file_name("talk.json.2.old");
    assert_eq!(questions(&old), ["What is an expert?", "Hello"]);
}

#[test]
fn files_that_are_no_sessions_stay_as_they_are() {
    let (folder, path) = session();
    let names = ["talk.state", "talk.json.part", "talk.json.state", "talk.json.state.part"];
    for name in names {
        std::fs::write(folder.path().join(name), "of somebody else").unwrap();
    }
    let arguments = ["--session", path.to_str().unwrap(), "--stats", "none"];
    let output = chat(&arguments, "Hello\n");
    assert!(output.status.success(), "{output:?}");
    assert!(said(&output).contains("talk.json.state` is not a saved state"), "{}", said(&output));
    for name in names {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(text, "of somebody else", "{name}");
    }
    assert_eq!(questions(&path), ["Hello"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), names.len() + 1, "no litter");
}

#[cfg(unix)]
#[test]
fn a_conversation_is_its_owner_s_and_keeps_the_permissions_that_it_was_given() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path) = session();
    let state = path.with_file_name("talk.json.state");
    let modes = || {
        [&path, &state].map(|path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777)
    };
    let arguments = ["--session", path.to_str().unwrap(), "--prompt", "Hello"];
    assert!(chat(&arguments, "").status.success());
    assert_eq!(modes(), [0o600; 2]);
    for path in [&path, &state] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
    }
    assert!(chat(&arguments, "").status.success());
    assert_eq!(modes(), [0o640; 2]);
    assert_eq!(questions(&path).len(), 2);
}

#[test]
fn an_empty_file_is_a_new_session() {
    let (_folder, path) = session();
    std::fs::write(&path, "").unwrap();
    let output = chat(&["--session", path.to_str().unwrap(), "--prompt", "Hello"], "");
    assert!(said(&output).contains("a new one"), "{}", said(&output));
    assert_eq!(questions(&path), ["Hello"]);
}

#[test]
fn an_answer_that_is_cut_off_says_by_what() {
    let (folder, path) = session();
    let schema = folder.path().join("schema.json");
    std::fs::write(&schema, r#"{"enum": ["Ja"]}"#).unwrap();
    let schema = schema.to_str().unwrap();
    let form = "(cut off at --max-tokens; the answer may not have the whole form";
    for (arguments, expected) in [
        (&["--max-tokens", "1"][..], "(stopped at --max-tokens 1)"),
        (&["--max-tokens", "1"], "(1 token,"),
        (&["--max-tokens", "1", "--json-schema", schema], form),
        (&["--max-seconds", "0"], "(stopped at --max-seconds 0 before the answer began;"),
    ] {
        let output = chat(&[&["--prompt", "Hello"], arguments].concat(), "");
        assert!(output.status.success(), "{output:?}");
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    let session = path.to_str().unwrap();
    let output = chat(&["--session", session, "--max-seconds", "0"], "Hello\n");
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(messages(&path).is_empty(), "no answer is none that is kept");
    let whole = chat(&["--prompt", "Say hello."], "");
    assert!(!said(&whole).contains("(stopped"), "{}", said(&whole));
}

#[test]
fn control_characters_of_a_file_do_not_reach_the_terminal() {
    let (_folder, path) = session();
    let unanswered = r#"[{"role": "user", "content": "Red\u001b[31m\r\u009b bell\u0007"}]"#;
    std::fs::write(&path, unanswered).unwrap();
    let output = chat(&["--session", path.to_str().unwrap(), "--prompt", "Hello"], "");
    let said = said(&output);
    assert!(said.contains(r"Red\u{1b}[31m\r\u{9b} bell\u{7}"), "{said}");
    assert!(!said.contains(|c: char| c.is_control() && c != '\n' && c != '\t'), "{said:?}");
}

#[test]
fn options_are_checked_before_anything_else_is_done() {
    for (arguments, expected) in [
        (&["--rpc", "nonsense"][..], "it needs HOST:PORT"),
        (&["--temperature", "700"], "--temperature is 700"),
        (&["--threads", "0"], "--threads is 0"),
        (&["--threads", "-1"], "must be a whole number from 0 to 4294967295"),
        (&["--top-p", "-1"], "--top-p is -1, but must be"),
        (&["--seed", "4294967296"], "from 0 to 4294967295"),
        (&["--context", "4k"], "write it in digits: 4096"),
        (&["--max-seconds", "0.5"], "a whole number from 0"),
        (&["--expert-cache", "-1GiB"], "a number with a unit"),
        (&["--stop", ""], "a value is required for '--stop <TEXT>'"),
        (&["--rpc", "127.0.0.1:99999"], "a port from 1 to 65535"),
        (&["--template", "enable_thinking=False"], "write enable_thinking=false, or"),
        (&["--template", "x=None"], "write x=null, or"),
        (&["--template", "x=off"], "write x=false, or"),
        (&["--template", "x=01"], "is not JSON"),
        (&["--template", "x={a:1}"], "is not JSON"),
        (&["--template", "x="], "is not JSON"),
        (&["--template", "messages=[]"], "`messages`, but must be another name"),
        (&["--template", "add_generation_prompt=false"], "`add_generation_prompt`"),
        (&["--template", "=1"], "a name of letters"),
        #[cfg(unix)]
        (&["--grammar", "/dev/zero"], "more than 4 MiB"),
        #[cfg(unix)]
        (&["--json-schema", "/dev/zero"], "more than 4 MiB"),
        #[cfg(unix)]
        (&["--plan", "/dev/zero"], "more than 64 MiB"),
    ] {
        let mut command = program("chat");
        let output = command.args(["--prompt", "x"]).args(arguments).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said.contains(expected) && !said.contains("connecting"), "{said}");
    }
}

#[test]
fn llama_cpp_s_flags_are_a_policy_also_without_an_equals_sign() {
    let arguments = ["--policy", "--n-cpu-moe 2", "--prompt", "x", "--max-tokens", "1"];
    let output = chat(&arguments, "");
    assert!(output.status.success(), "{output:?}");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    let plan = ["--model", demo, "--policy", "--n-cpu-moe 2"];
    let output = support::process::run("plan", &plan);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn more_threads_than_cpus_are_warned_of() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    let with = |threads: usize| {
        let mut command = program("chat");
        command.args(["--prompt", "x", "--max-tokens", "1", "--threads", &threads.to_string()]);
        command.output().unwrap()
    };
    let output = with(cpus);
    assert!(output.status.success() && !said(&output).contains("warning: --threads"), "{output:?}");
    if cpus < 4 {
        let output = with(cpus + 1);
        assert!(
            output.status.success() && said(&output).contains("warning: --threads"),
            "{output:?}"
        );
    }
    let many = cpus.max(4) + 1;
    let output = with(many);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = format!("error: --threads is {many}, but this process may use {cpus} CPU");
    assert!(said(&output).contains(&expected), "{}", said(&output));
}

#[cfg(unix)]
#[test]
fn a_server_that_is_silent_at_the_end_holds_nobody_up() {
    let (_folder, path) = session();
    let server = support::process::Server::start();
    let session = path.to_str().unwrap();
    let arguments = ["--session", session, "--rpc", &server.endpoint, "--stats", "json"];
    let mut process =
        command(&[&arguments[..], &["--policy", "layers:1-2"]].concat()).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    writeln!(input, "What is an expert?").unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
    assert!(output.any(|line| line.unwrap().starts_with('{')));
    // The state of the first answer is written now.
    writeln!(input, "/nonsense").unwrap();
    let mut errors = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(errors.any(|line| line.unwrap().contains("/nonsense")));
    server.signal("STOP");
    drop(input);
    let (sender, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(errors.map_while(Result::ok).collect::<Vec<_>>()));
    let said = said.recv_timeout(PATIENCE).expect("it ends");
    let status = process.wait().unwrap();
    server.signal("CONT");
    assert!(status.success(), "{said:?}");
    assert!(said.iter().any(|line| line.contains("the conversation is saved")), "{said:?}");
    assert_eq!(questions(&path), ["What is an expert?"]);
}

#[test]
fn a_session_may_begin_with_a_mark_of_its_encoding() {
    let (_folder, path) = session();
    let talk = r#"[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]"#;
    std::fs::write(&path, format!("\u{feff}{talk}")).unwrap();
    let arguments = ["--session", path.to_str().unwrap(), "--prompt", "What is an expert?"];
    assert!(chat(&arguments, "").status.success());
    assert_eq!(questions(&path), ["Hello", "What is an expert?"]);
    let wide: Vec<u8> = talk.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = [&[0xff, 0xfe], &wide[..]].concat();
    std::fs::write(&path, &wide).unwrap();
    let output = chat(&arguments, "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("it is in UTF-16; save it as UTF-8"), "{}", said(&output));
    assert_eq!(std::fs::read(&path).unwrap(), wide);
}

#[test]
fn a_command_with_something_after_it_does_nothing() {
    let output = chat(&["--max-tokens", "1"], "/clear x\n/quit now\n/nope\n");
    let said = said(&output);
    assert!(said.contains("/clear takes nothing after it"), "{said}");
    assert!(said.contains("/quit takes nothing after it"), "{said}");
    assert!(said.contains("there is no /nope"), "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_line_without_an_end_is_not_read_for_ever() {
    let mut command = program("chat");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // It may end before all of this is read.
    let part = vec![b'a'; 1 << 20];
    for _ in 0..66 {
        if input.write_all(&part).is_err() {
            break;
        }
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("more than 64 MiB"), "{}", said(&output));
}

#[test]
fn a_name_too_long_for_the_state_is_told_as_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("n".repeat(252));
    for messages in [2, 4] {
        let output = chat(&["--session", path.to_str().unwrap(), "--prompt", "Hello"], "");
        assert!(output.status.success(), "{output:?}");
        assert!(said(&output).contains(".state` cannot be kept: "), "{}", said(&output));
        assert_eq!(self::messages(&path).len(), messages);
    }
}

/// What comes of these bytes on standard input.
fn chat_bytes(arguments: &[&str], input: &[u8]) -> Output {
    let mut process = command(arguments).spawn().unwrap();
    process.stdin.take().unwrap().write_all(input).unwrap();
    process.wait_with_output().unwrap()
}

#[cfg(unix)]
#[test]
fn standard_input_that_cannot_be_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(&[]);
    let output = command.stdin(std::fs::File::open(folder.path()).unwrap()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("error: cannot read `standard input`: "), "{}", said(&output));
}

#[test]
fn a_line_that_is_no_text_is_told_and_not_asked() {
    let (_folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--max-tokens", "1"];
    let output = chat_bytes(&arguments, b"\xef\xbb\xbfHello\ngr\xfc\xdfe\nWho are you?\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = "error: line 2 of standard input is no text in UTF-8, so it was dropped";
    assert!(said(&output).contains(told), "{}", said(&output));
    assert_eq!(questions(&path), ["Hello", "Who are you?"]);

    let utf_16: Vec<u8> = "\u{feff}Hello\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let output = chat_bytes(&[], &utf_16);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = "cannot read `standard input`: it is in UTF-16; save it as UTF-8";
    assert!(output.stdout.is_empty() && said(&output).contains(told), "{}", said(&output));
}

#[cfg(unix)]
#[test]
fn a_state_that_cannot_be_written_is_told_once() {
    let (_folder, path) = session();
    let mut command = Command::new("bash");
    // Room for the messages, but not for the state.
    command.args(["-c", "ulimit -f 10; exec \"$0\" \"$@\""]);
    command.arg(support::process::example("chat")).args(["--threads", "1", "--max-tokens", "4"]);
    command.arg("--session").arg(&path);
    support::gpus::hide(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(b"Hello\nWho are you?\n").unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(said(&output).matches("error: cannot write").count(), 1, "{}", said(&output));
    assert_eq!(questions(&path), ["Hello", "Who are you?"]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_went_away_is_told_once() {
    let (folder, path) = session();
    let arguments = ["--session", path.to_str().unwrap(), "--max-tokens", "4"];
    let mut process = command(&arguments).spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    let mut said = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
    // What comes after an answer is done when the next line is.
    writeln!(input, "Hello\n/help").unwrap();
    assert!(said.any(|line| line.starts_with("/help")), "it ended");
    folder.close().unwrap();
    writeln!(input, "What is an expert?\nWho are you?").unwrap();
    drop(input);
    let errors: Vec<String> = said.filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(process.wait().unwrap().code(), Some(1));
}
