//! What the examples write: all of it or nothing, and what cannot be written is told.

use std::path::Path;
use std::process::Output;

use crate::support;
use crate::support::model_files::demo;
use crate::support::process::said;

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
        (1, "bench", &["run", "--policy", "none", "--no-quality", "--journal", &at("run.jsonl")]),
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
            // Not again for the state, nor at the end.
            assert_eq!(said.matches("File too large (os error 27)\n").count(), 1, "{said}");
        }
    }
    // The conversation has room, the model's state has none.
    let talk = ["--session", &at("talk.json"), "--prompt", "Hello", "--max-tokens", "4"];
    let output = run_with_files_of_at_most(1, "chat", &talk);
    assert!(said(&output).contains("talk.json.state`: File too large"), "{}", said(&output));
    assert_eq!((output.status.code(), names(folder.path())), (Some(1), vec!["talk.json".into()]));
}

#[test]
fn what_bench_could_not_write_in_the_end_is_told_before_it_measures() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("file"), "of somebody").unwrap();
    std::fs::create_dir_all(at("taken/report.md")).unwrap();
    std::fs::create_dir(at("other.scratch")).unwrap();
    std::fs::create_dir(at("notes")).unwrap();
    std::fs::write(at("notes/report.md"), "of somebody").unwrap();
    std::fs::write(at("other.scratch/file"), "of somebody").unwrap();
    let (new, there, other) = (at("new.jsonl"), at("file"), at("other.jsonl"));
    for (arguments, expected) in [
        (&["--journal", &new, "--out", &there][..], "file`: File exists"),
        (&["--journal", &new, "--out", &at("file/in")], "file/in"),
        (&["--journal", &new, "--out", &at("taken")], "taken/report.md"),
        (&["--journal", &new, "--out", &at("notes")], "notes/report.md`: it is there already"),
        (&["--journal", &new, "--out", "/proc"], "`/proc"),
        (&["--journal", &there], "file` exists; resume it"),
        (&["--journal", &other], "other.scratch`: it is there already"),
        (&["--journal", &at("nowhere/x.jsonl")], "nowhere/x.jsonl"),
        (&["--journal", &new, "--context", "0"], "--context is 0 in it; the smallest is 1"),
        (&["--journal", &new, "--threads", "0"], "--threads is 0"),
        (&["--journal", &new, "--micro-batch", "0"], "--micro-batch is 0"),
        (&["--journal", &new, "--answer-tokens", "0"], "--answer-tokens is 0"),
    ] {
        let few = ["run", "--policy", "none", "--no-quality", "--repetitions", "1"];
        let output = support::process::run("bench", &[&few[..], arguments].concat());
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let is_told = said.trim_end().lines().count() == 1 && said.starts_with("error: ");
        assert!(is_told && said.contains(expected), "{arguments:?}: {said}");
    }
    assert_eq!(names(folder.path()), ["file", "notes", "other.scratch", "taken"]);
    assert_eq!(std::fs::read_to_string(at("notes/report.md")).unwrap(), "of somebody");
    assert_eq!(std::fs::read_to_string(at("other.scratch/file")).unwrap(), "of somebody");
}

#[test]
fn a_name_of_a_later_shard_that_is_taken_is_told_before_the_first_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let second = folder.path().join("m-00002-of-00002.gguf");
    std::fs::create_dir(second).unwrap();
    let out = folder.path().join("m.gguf");
    let arguments = ["--arch", "dbrx", "--scale", "tiny", "--shards", "2", "--out"];
    let output =
        support::process::run("synth", &[&arguments[..], &[out.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("nothing is replaced"), "{}", said(&output));
    assert_eq!(names(folder.path()), ["m-00002-of-00002.gguf"]);
}
