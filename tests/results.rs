//! What the examples write: all of it or nothing, and what cannot be written is told.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::process::Output;

use support::model_files::demo;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Where no file may have more than so many KiB.
#[cfg(target_os = "linux")]
fn run_with_files_of_at_most(kib: u64, program: &str, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new("bash");
    support::gpus::hide(&mut command);
    command.args(["-c", &format!("ulimit -f {kib}; exec \"$0\" \"$@\"")]);
    command.arg(support::process::example(program)).args(arguments).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_limit_of_a_file_s_size_is_an_error_and_nothing_half_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let demo = demo().to_str().unwrap().to_owned();
    let synth = ["--arch", "dbrx", "--scale", "tiny", "--out", &at("new.gguf")];
    for (kib, program, arguments) in [
        (0, "chat", &["--session", &at("talk.json"), "--prompt", "Hello"][..]),
        (1, "plan", &["--model", &demo, "--cpu-only", "--freeze", &at("plan.json")]),
        (64, "synth", &synth),
        (64, "synth", &[&synth[..], &["--shards", "2"]].concat()),
        (64, "synth", &[&synth[..], &["--no-weights"]].concat()),
    ] {
        let output = run_with_files_of_at_most(kib, program, arguments);
        assert_eq!(output.status.code(), Some(1), "{program}: {output:?}");
        let said = said(&output);
        assert!(said.contains("File too large"), "{program}: {said}");
        assert_eq!(names(folder.path()), [""; 0], "{program}");
        if program == "chat" {
            assert!(!output.stdout.is_empty(), "the answer is there: {output:?}");
            // Of the question, of the state, and at the end.
            assert_eq!(said.matches("File too large (os error 27)\n").count(), 3, "{said}");
        }
    }
    // The conversation has room, the model's state has none.
    let talk = ["--session", &at("talk.json"), "--prompt", "Hello", "--max-tokens", "4"];
    let output = run_with_files_of_at_most(1, "chat", &talk);
    assert!(said(&output).contains("talk.json.state`: File too large"), "{}", said(&output));
    assert_eq!((output.status.code(), names(folder.path())), (Some(1), vec!["talk.json".into()]));
}
