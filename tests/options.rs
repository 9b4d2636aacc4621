//! Options of the examples of which one makes another mean nothing: they are refused, and both are named.
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod support;

use support::process::run;

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
    #[cfg(feature = "bench")]
    assert!(refusal("bench", &["tune", "--again"]).contains("--cache"));
}
