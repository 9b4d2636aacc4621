//! Experts paged from disk against llama.cpp's mapped file, in a control group with a memory limit.
//!
//! `cargo run --release -p moe-offload-benches --bin paging -- MODEL [OPTION...]`, as root on Linux.
//! Each measurement is a process of its own, starts with empty caches, and the engine and we take turns.
//! Every process computes the same greedy text: a prompt, some tokens to warm up, then those that count.

#[path = "paging/child.rs"]
mod child;
#[path = "paging/disk.rs"]
mod disk;
#[path = "paging/report.rs"]
mod report;
#[path = "paging/sides.rs"]
mod sides;
#[path = "paging/system.rs"]
mod system;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use self::child::Figures;
use self::report::{Kind, Point, Report, Row};
use self::system::{Group, ReadAhead};

const HELP: &str = "paging MODEL [OPTION...]
  --ram BYTES        memory limit of the group (5e9)
  --budget SHARE     share of a limit that our loads may use (0.952)
  --tokens N         tokens that count (16; without a limit 4 times as many), after as many as --warm-up (8)
  --disk N           first the disk alone, N times a second (0)
  --threads LIST     threads that compute (all cores, then 1); where the engine takes minutes, and after that,
                     the first
  --pairs N          measurements of each (2); one where the engine takes minutes
  --read-ahead LIST  KiB of read-ahead, by comma (128,8192)
  --curve LIST       then both at limits of these percents of the file, with 128 KiB
  --half-lives LIST  then ours alone with these half-lives in tokens (0: least recently used)
  --whole FILE       then both without a limit, everything in memory; and in turns in one process, twice as many
                     times, with this model, of which two fit
  --out FOLDER       writes paging.md and paging.svg there";

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
            values.insert(name, arguments.next()?);
        }
        Some(Self { model, values })
    }

    fn number(&self, name: &str, default: f64) -> f64 {
        self.values.get(name).map_or(default, |text| text.parse().expect("a number"))
    }

    fn tokens(&self) -> f64 {
        self.number("tokens", 16.0)
    }

    fn warm_up(&self) -> f64 {
        self.number("warm-up", 8.0)
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
        eprintln!("{HELP}");
        std::process::exit(2);
    };
    let mut all = Measuring {
        limit: options.number("ram", 5e9),
        budget: options.number("budget", 0.952),
        // All cores are the default for experts on disk; with one, computing takes longer than the disk.
        threads: options
            .list("threads", &format!("{},1", system::cores()))
            .into_iter()
            .map(|n| n as u32)
            .collect(),
        pairs: options.number("pairs", 2.0) as usize,
        read_ahead: ReadAhead::of(&options.model),
        text: None,
        report: Report::default(),
        options,
    };
    println!("{}, limit {:.2} GB", all.options.model, all.limit / 1e9);
    for _ in 0..all.options.number("disk", 0.0) as u32 {
        let speed = disk::bytes_per_second(&all.options.model, Duration::from_secs(1));
        println!("the disk alone: {:.2} GB/s", speed / 1e9);
    }
    println!("{}", Figures::HEADING);
    all.pairs();
    all.curve();
    all.half_lives();
    all.whole();
    all.read_ahead.restore();
    all.claim();
    all.write();
}

/// Everything that is measured in one run of the program.
struct Measuring {
    options: Options,
    limit: f64,
    budget: f64,
    threads: Vec<u32>,
    pairs: usize,
    read_ahead: ReadAhead,
    /// What every run must say.
    text: Option<String>,
    report: Report,
}

impl Measuring {
    fn run(
        &mut self,
        name: &str,
        what: &str,
        threads: u32,
        group: Option<&Group>,
        half_life: f64,
    ) -> Figures {
        let figures =
            child::run(&self.options, &self.options.model, what, threads, group, half_life);
        let text = self.text.get_or_insert_with(|| figures.text.clone());
        let same = figures.text.starts_with(&*text) || text.starts_with(&figures.text);
        assert!(same, "another text: {} and {text}", figures.text);
        println!("{}", figures.row(name, threads));
        figures
    }

    /// Both in turns in a group of this limit, noted as rows.
    fn pair(&mut self, name: &str, limit: f64, threads: u32) -> (Figures, Figures) {
        let group = Group::new(limit as u64);
        let ours = format!("fit:ram:{}B", limit * self.budget);
        let half_life = moe_offload::PagingOptions::default().half_life_tokens;
        let engine = self.run(&format!("engine, {name}"), "engine", threads, Some(&group), 0.0);
        let ours = self.run(&format!("ours, {name}"), &ours, threads, Some(&group), half_life);
        (engine, ours)
    }

    fn note(&mut self, kind: Kind, name: String, threads: u32, figures: Figures) {
        self.report.rows.push(Row { kind, name, threads, figures });
    }

    fn pairs(&mut self) {
        for kib in self.options.list("read-ahead", "128,8192") {
            self.read_ahead.set(kib as u64);
            let (asked, least) = match kib as u64 {
                8192 => ("at least 4 times the mapped file at 8 MiB of read-ahead", 4.0),
                128 => ("at least 1.6 times the mapped file at 128 KiB of read-ahead", 1.6),
                _ => ("more than the mapped file at another read-ahead", 1.0),
            };
            // With much read-ahead the engine takes minutes.
            let threads = if kib > 1024.0 { vec![self.threads[0]] } else { self.threads.clone() };
            let pairs = if kib > 1024.0 { 1 } else { self.pairs };
            let mut rates = Vec::new();
            for threads in threads {
                for _ in 0..pairs {
                    let (engine, ours) = self.pair(&format!("{kib} KiB"), self.limit, threads);
                    rates.push((engine.get("rate"), ours.get("rate")));
                    self.note(
                        Kind::Engine,
                        format!("engine, mapped, read-ahead {kib} KiB"),
                        threads,
                        engine,
                    );
                    self.note(Kind::Paged, format!("paged, read-ahead {kib} KiB"), threads, ours);
                }
            }
            self.report.claim_ratio(asked, least, &rates);
        }
    }

    /// What all rows show together.
    fn claim(&mut self) {
        if !self.report.rows.is_empty() {
            for threads in self.threads.clone() {
                self.report.claim_disk(threads);
            }
            self.report.claim_paging(self.limit * self.budget / 1e9);
        }
    }

    fn curve(&mut self) {
        let file = std::fs::metadata(&self.options.model).expect("a model").len() as f64;
        self.read_ahead.set(128);
        for percent in self.options.list("curve", "") {
            let limit = file * percent / 100.0;
            let threads = self.threads[0];
            let (engine, ours) = self.pair(&format!("{percent} %"), limit, threads);
            self.report.curve.push(Point { percent, threads, limit_gb: limit / 1e9, engine, ours });
        }
    }

    fn half_lives(&mut self) {
        for half_life in self.options.list("half-lives", "") {
            let group = Group::new(self.limit as u64);
            let what = format!("fit:ram:{}B", self.limit * self.budget);
            let (name, threads) = (format!("paged, half-life {half_life} tokens"), self.threads[0]);
            let figures = self.run(&name, &what, threads, Some(&group), half_life);
            self.note(Kind::OtherHalfLife, name, threads, figures);
        }
    }

    fn whole(&mut self) {
        let Some(half) = self.options.values.get("whole").cloned() else { return };
        for threads in self.threads.clone() {
            let engine = self.run("engine, all read", "engine-read", threads, None, 0.0);
            self.note(Kind::Engine, "engine, everything in memory".to_owned(), threads, engine);
            let ours = self.run("ours, all read", "cache:1e12", threads, None, 0.0);
            self.note(Kind::Whole, "paged, everything in memory".to_owned(), threads, ours);
            let rates: Vec<_> = (0..2 * self.pairs)
                .map(|_| {
                    let both = child::run(&self.options, &half, "in-turns", threads, None, 0.0);
                    let rates = (both.get("engine_rate"), both.get("rate"));
                    println!("in turns: engine {:.2}, ours {:.2} tokens/s", rates.0, rates.1);
                    rates
                })
                .collect();
            self.report.claim_no_slower(&half, threads, 0.03, &rates);
        }
    }

    fn write(&self) {
        let setting = format!(
            "By `make paging-benchmark`: {}, {}; a memory control group of {:.2} GB, of which ours may use \
             {:.2} GB, {} tokens ({} with everything in memory) after {} to warm up, empty caches, the engine \
             and ours in turns, each in a process of its own unless it says otherwise. What it shows, and what was asked:\n",
            self.options.model,
            system::machine(),
            self.limit / 1e9,
            self.limit * self.budget / 1e9,
            self.options.tokens(),
            self.options.tokens() * child::WITHOUT_LIMIT,
            self.options.warm_up(),
        );
        let text = self.report.markdown(&setting, "benchmarks/paging.svg");
        println!("\n{text}");
        let Some(folder) = self.options.values.get("out").map(Path::new) else { return };
        std::fs::create_dir_all(folder).expect("a folder");
        if !self.report.curve.is_empty() {
            self.report.draw(&folder.join("paging.svg")).expect("a picture");
        }
        std::fs::write(folder.join("paging.md"), text).expect("writable");
    }
}
