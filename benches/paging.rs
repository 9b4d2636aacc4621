//! Experts paged from disk against llama.cpp's mapped file, in a control group with a memory limit.
//!
//! `cargo run --release -p moe-offload-benches --bin paging -- MODEL [OPTION...]`, as root on Linux.
//! Each measurement is a process of its own, starts with empty caches, and the engine and we take turns.
//! Every process computes the same greedy text: a prompt, some tokens to warm up, then those that count.

#[path = "paging/child.rs"]
mod child;
#[path = "paging/disk.rs"]
mod disk;
#[path = "paging/system.rs"]
mod system;

use std::collections::BTreeMap;
use std::time::Duration;

use self::child::Figures;
use self::system::{Group, ReadAhead};

const HELP: &str = "paging MODEL [OPTION...]
  --ram BYTES        memory limit of the group (5e9)
  --budget BYTES     memory that our loads may use (0.92 of the limit)
  --tokens N         tokens that count (16), after as many as --warm-up (8)
  --threads N        threads that compute (1)
  --disk N           first the disk alone, N times a second (0)
  --pairs N          measurements of each (2)
  --read-ahead LIST  KiB of read-ahead, by comma (8192,128)
  --curve LIST       then ours alone at these percents of the experts' bytes
  --half-lives LIST  then ours alone with these half-lives in tokens (0: least recently used)
  --whole            then both without a limit, everything in memory";

pub struct Options {
    pub model: String,
    values: BTreeMap<String, String>,
}

impl Options {
    fn parse() -> Option<Self> {
        let mut arguments = std::env::args().skip(1);
        let model = arguments.next().filter(|model| !model.starts_with('-'))?;
        let mut values = BTreeMap::new();
        while let Some(name) = arguments.next() {
            let name = name.strip_prefix("--")?.to_owned();
            let value = if name == "whole" { "1".to_owned() } else { arguments.next()? };
            values.insert(name, value);
        }
        Some(Self { model, values })
    }

    fn number(&self, name: &str, default: f64) -> f64 {
        self.values.get(name).map_or(default, |text| text.parse().expect("a number"))
    }

    fn list(&self, name: &str, default: &str) -> Vec<f64> {
        let text = self.values.get(name).map_or(default, String::as_str);
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| part.parse().expect("numbers joined by commas")).collect()
    }
}

fn main() {
    if child::ran() {
        return;
    }
    let Some(options) = Options::parse() else {
        println!("{HELP}");
        return;
    };
    let limit = options.number("ram", 5e9);
    let budget = options.number("budget", limit * 0.92);
    let pairs = options.number("pairs", 2.0) as usize;
    let read_ahead = ReadAhead::of(&options.model);
    let mut text: Option<String> = None;
    let mut same = |figures: &Figures| {
        assert_eq!(*text.get_or_insert_with(|| figures.text.clone()), figures.text, "another text");
    };
    println!("{}, limit {:.2} GB, our budget {:.2} GB", options.model, limit / 1e9, budget / 1e9);
    for _ in 0..options.number("disk", 0.0) as u32 {
        let speed = disk::bytes_per_second(&options.model, Duration::from_secs(1));
        println!("the disk alone: {:.2} GB/s", speed / 1e9);
    }
    println!("{}", Figures::HEADING);
    for kib in options.list("read-ahead", "8192,128") {
        read_ahead.set(kib as u64);
        let group = Group::new(limit as u64);
        for _ in 0..pairs {
            for (name, what) in
                [("engine", "engine".to_owned()), ("ours", format!("fit:ram:{budget}"))]
            {
                let figures = child::run(&options, &what, Some(&group), 16.0);
                same(&figures);
                println!("{}", figures.row(&format!("{name}, {kib} KiB")));
            }
        }
    }
    read_ahead.restore();
    let experts = child::expert_bytes(&options.model);
    for percent in options.list("curve", "") {
        let cache = (experts * percent / 100.0) as u64;
        let figures = child::run(&options, &format!("cache:{cache}"), None, 16.0);
        same(&figures);
        println!("{}", figures.row(&format!("{percent} % of experts")));
    }
    for half_life in options.list("half-lives", "") {
        let group = Group::new(limit as u64);
        let figures = child::run(&options, &format!("fit:ram:{budget}"), Some(&group), half_life);
        same(&figures);
        println!("{}", figures.row(&format!("half-life {half_life}")));
    }
    if options.values.contains_key("whole") {
        for _ in 0..pairs {
            for (name, what) in
                [("engine, all read", "engine-read"), ("ours, all read", "cache:1e12")]
            {
                let figures = child::run(&options, what, None, 16.0);
                same(&figures);
                println!("{}", figures.row(name));
            }
        }
    }
}
