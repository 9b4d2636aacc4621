//! Any text as a pattern: a plan or a typed error, and the engine never gets to see it. Ten
//! thousand of them, with how long the slowest took:
//!
//! ```sh
//! PATTERNS=10000 cargo test --release --no-default-features --test pure patterns -- --nocapture
//! ```

#[path = "../support/mutation/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod mutation;

use std::time::{Duration, Instant};

use moe_offload::{ContextOptions, Device, Error, GgufFile, OffloadPolicy};
use moe_offload_synth::{self as synth, SynthOptions};
use mutation::Random;

/// What patterns are made of; back-tracking would take for ever on many of them.
const PARTS: &[&str] = &[
    "blk",
    "exps",
    "ffn_",
    "_up",
    "attn",
    "[0-9]+",
    ".",
    ".*",
    ".+",
    "(a+)+$",
    "(.*)*",
    "(x+x+)+y",
    "(?:.|.)*",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "{2,5}",
    "{1000}",
    "{60}",
    "*",
    "+",
    "?",
    "^",
    "$",
    "|",
    "\\",
    "\\.",
    "\\b",
    "\\w{200}",
    "\\pL{90}",
    "(?i)",
    "(?x)",
    "(?s-u)",
    "(?=a)",
    "\\1",
    "[[:alpha:]]",
    "[^\\W\\d]",
    "[a-\u{10FFFF}]{9}",
    "é",
    "漢",
    "🦀",
    "\u{0}",
    "\n",
    ";",
    "=",
    ",",
    "weight",
    "(blk|exps|[a-z]+)*",
    "(((((.{0,9}){0,9}){0,9}){0,9}){0,9})",
];
const DEVICES: &[&str] = &["cpu", "gpu", "a", "b", "c", "", "a,b", "é"];

fn pattern(random: &mut Random) -> String {
    let parts = |random: &mut Random, count: u64| -> String {
        (0..random.below(count)).map(|_| *random.pick(PARTS)).collect()
    };
    match random.below(10) {
        0 => String::new(),
        1 => {
            let part = *random.pick(PARTS);
            part.repeat(10_000 / part.len())
        }
        2 => parts(random, 3_000),
        3 => (0..random.below(40))
            .filter_map(|_| char::from_u32(u32::try_from(random.below(0x11_0000)).unwrap()))
            .collect(),
        4 => (0..random.below(60)).map(|_| char::from(random.byte() & 0x7f)).collect(),
        _ => parts(random, 8),
    }
}

/// The largest published table of tensors here.
fn header() -> GgufFile {
    let model = synth::family("kimi-k2").unwrap().build(&SynthOptions::default()).unwrap();
    let mut bytes = Vec::new();
    model.header().write_header(&mut bytes).unwrap();
    GgufFile::read(&bytes[..], 1 << 42, "header.gguf").unwrap()
}

fn is_typed(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidPattern { .. }
            | Error::InvalidPolicy { .. }
            | Error::NoMatch { .. }
            | Error::UnknownDevice { .. }
    )
}

#[test]
fn any_pattern_is_planned_or_refused() {
    let count = std::env::var("PATTERNS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let gguf = header();
    let devices = ["a", "b"].map(|name| Device::new(name).with_free_bytes(1 << 42));
    let (mut plans, mut slowest) = (0, (Duration::ZERO, String::new()));
    for number in 0..count {
        let mut random = Random::of(3, "patterns", number);
        let pattern = pattern(&mut random);
        let text = format!("regex:{pattern}={}", random.pick(DEVICES));
        let started = Instant::now();
        let plan = text
            .parse::<OffloadPolicy>()
            .and_then(|policy| policy.plan(&gguf, &devices, &ContextOptions::default()));
        if started.elapsed() > slowest.0 {
            slowest = (started.elapsed(), text.chars().take(60).collect());
        }
        match plan {
            Ok(plan) => {
                plans += 1;
                for entry in plan.overrides() {
                    let plain = |c: char| c.is_ascii_alphanumeric() || r"^$\._|()[]-".contains(c);
                    assert!(entry.pattern.chars().all(plain), "{}", entry.pattern);
                    assert!(entry.pattern.starts_with('^') && entry.pattern.ends_with('$'));
                }
            }
            Err(error) => assert!(is_typed(&error), "{text}: {error}"),
        }
    }
    println!("{count} patterns: {plans} plans; the slowest took {:?}: {}", slowest.0, slowest.1);
}
