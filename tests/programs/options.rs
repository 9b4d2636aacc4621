//! Options of the examples: one that another makes mean nothing is refused, and both are named; so is a number
//! that cannot be, with what may be.

use crate::support::process::run;

/// A program, with what it needs besides; an option; options beside which that means nothing.
type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static [&'static str]]);

const ROWS: &[Row] = &[
    (&["measure"], &["--to-the-end"], &[&["--tokens", "5"]]),
    (&["measure"], &["--words", "5"], &[&["--prompt-tokens", "5"]]),
    (
        &["measure"],
        &["--quick"],
        &[
            &["--contract"],
            &["--policy", "none"],
            &["--context", "512"],
            &["--words", "5"],
            &["--prompt-tokens", "5"],
            &["--to-the-end"],
            &["--micro-batch", "64"],
            &["--load-mode", "read"],
            &["--kv-type", "f16"],
            &["--holder", "true", "--leave-free", "1GiB"],
            &["--json"],
        ],
    ),
    (
        &["measure"],
        &["--contract"],
        &[
            &["--policy", "none"],
            &["--context", "512"],
            &["--words", "5"],
            &["--prompt-tokens", "5"],
            &["--tokens", "5"],
            &["--to-the-end"],
            &["--micro-batch", "64"],
            &["--load-mode", "read"],
            &["--kv-type", "f16"],
            &["--leave-free", "1GiB", "--holder", "true"],
            &["--json"],
        ],
    ),
    (
        &["measure"],
        &["--devices"],
        &[
            &["--quick"],
            &["--contract"],
            &["--model", "x.gguf"],
            &["--policy", "none"],
            &["--context", "512"],
            &["--words", "5"],
            &["--prompt-tokens", "5"],
            &["--tokens", "5"],
            &["--to-the-end"],
            &["--threads", "1"],
            &["--micro-batch", "64"],
            &["--load-mode", "read"],
            &["--kv-type", "f16"],
            &["--holder", "true", "--leave-free", "1GiB"],
        ],
    ),
    (
        &["chat", "--prompt", "x"],
        &["--plan", "x.json"],
        &[
            &["--policy", "none"],
            &["--context", "512"],
            &["--micro-batch", "64"],
            &["--no-operation-offload"],
            &["--expert-offload-tokens", "1"],
            &["--overhead", "CUDA0=1GiB"],
        ],
    ),
    (&["chat", "--prompt", "x"], &["--no-operation-offload"], &[&["--expert-offload-tokens", "1"]]),
    (&["chat", "--prompt", "x"], &["--grammar", "x.gbnf"], &[&["--json-schema", "x.json"]]),
    (
        &["chat", "--prompt", "x"],
        &["--mirostat", "2"],
        &[
            &["--top-k", "5"],
            &["--top-p", "0.5"],
            &["--min-p", "0.5"],
            &["--typical-p", "0.5"],
            &["--xtc", "0.5"],
        ],
    ),
    (
        &["plan", "--model", "x.gguf"],
        &["--cpu-only"],
        &[&["--device", "gpu=1GiB"], &["--overhead", "gpu=1MiB"], &["--cache-on-host"]],
    ),
    (&["plan", "--model", "x.gguf"], &["--json"], &[&["--disk-speed", "1GB"]]),
    (
        &["synth"],
        &["--list"],
        &[
            &["--arch", "dbrx"],
            &["--scale", "tiny"],
            &["--layers", "2"],
            &["--experts-type", "f16"],
            &["--vocab", "500"],
            &["--seed", "1"],
            &["--shards", "2"],
            &["--no-weights"],
            &["--out", "/nowhere/x"],
        ],
    ),
    (&["synth", "--arch", "dbrx", "--out", "/nowhere/x"], &["--no-weights"], &[&["--seed", "1"]]),
];

/// What the program says of it: one line, before it does anything.
fn refusal(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{program} {arguments:?}: {said}");
    let is_one_line = said.starts_with("error: ") && said.trim_end().lines().count() == 1;
    assert!(output.stdout.is_empty() && is_one_line, "{program} {arguments:?}: {said}");
    said
}

#[test]
fn an_option_that_would_do_nothing_is_refused_and_what_makes_it_so_is_named() {
    for (start, option, others) in ROWS {
        let (program, start) = start.split_first().unwrap();
        for other in *others {
            for (first, second) in [(option, other), (other, option)] {
                let said = refusal(program, &[start, first, second].concat());
                assert!(said.contains(option[0]) && said.contains(other[0]), "{said}");
            }
        }
    }
}

#[test]
fn a_number_that_cannot_be_is_told_with_what_may_be() {
    let tune = "bench tune --policy none";
    for (command, expected) in [
        ("measure --words -1", "a whole number from 0"),
        ("measure --tokens x", "a whole number from 0"),
        ("measure --context 4k", "write it in digits: 4096"),
        ("measure --prompt-tokens 0", "at least 1"),
        ("measure --prompt-tokens -1", "a whole number from 0"),
        ("measure --holder x --leave-free -8GiB", "a number with a unit"),
        ("synth --arch dbrx --out /nowhere/x --layers -1", "a whole number from 0"),
        ("synth --arch dbrx --out /nowhere/x --shards 70000", "from 0 to 65535"),
        ("synth --arch dbrx --scale tiny --out /nowhere/x --shards 99", "99 (of 35 tensors)"),
        ("synth --arch deepseek-v3 --scale tiny --out /nowhere/x --layers 1", "(the least is 4)"),
        ("rpc_server --threads -1", "a whole number from 0"),
        ("plan --model x --expert-offload-tokens -1", "a whole number from 0"),
        ("chat --expert-offload-tokens -1", "a whole number from 0"),
        ("bench run --context 4k", "write it in digits: 4096"),
        ("bench run --repetitions -1", "a whole number from 0"),
        ("bench run --threads 1 --threads 2 --threads 1", "--threads is 1 in it twice"),
        ("bench tune --minutes -1", "at least 0"),
        ("bench tune --budget -1GiB", "a number with a unit"),
        ("bench tune --prompt-tokens 4k", "write it in digits: 4096"),
        ("bench tune --context 0", "--context is 0, but must be from 1"),
        (&format!("{tune} --prompt-tokens 0"), "--prompt-tokens is 0, but must be at least 1"),
        (&format!("{tune} --answer-tokens 0"), "--answer-tokens is 0, but must be at least 2"),
        (&format!("{tune} --answer-tokens 1"), "--answer-tokens is 1, but must be at least 2"),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let said = refusal(words[0], &words[1..]);
        assert!(said.contains(expected), "{command}: {said}");
    }
}

#[test]
fn an_option_that_does_nothing_alone_says_what_it_needs() {
    for (arguments, needed) in [
        (&["measure", "--holder", "true"][..], "--contract"),
        (&["measure", "--holder", "true"], "--leave-free"),
        (&["measure", "--leave-free", "1GiB"], "--holder"),
        (&["synth", "--markdown"], "--list"),
        (&["synth", "--markdown", "--arch", "dbrx", "--out", "/nowhere/x"], "--markdown"),
        (&["rpc_server", "--allow-remote"], "--listen 0.0.0.0"),
        (&["rpc_server", "--allow-remote", "--listen", "localhost:50077"], "--listen 0.0.0.0"),
    ] {
        let said = refusal(arguments[0], &arguments[1..]);
        assert!(said.contains(needed), "{said}");
    }
    assert!(refusal("bench", &["tune", "--again"]).contains("--cache"));
}
