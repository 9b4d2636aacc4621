//! One measurement, in a process of its own.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use llama_cpp_sys_2 as llama;
use moe_offload::PagingStats;

use crate::Options;
use crate::disk;
use crate::sides::{self, Engine};
use crate::system::{self, Group};

const CHILD: &str = "MOE_OFFLOAD_PAGING_CHILD";
/// So many times the tokens are measured without a limit.
pub const WITHOUT_LIMIT: f64 = 4.0;

/// What one process measured.
pub struct Figures {
    pub text: String,
    values: BTreeMap<String, f64>,
}

impl Figures {
    pub const HEADING: &str = "                          threads  tokens/s  GB read/token  missed  hit rate   peak GB   load s  \
         disk GB/s  of the disk";

    pub fn get(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(f64::NAN)
    }

    pub fn percent(&self, name: &str) -> String {
        let value = self.get(name) * 100.0;
        if value.is_nan() { String::new() } else { format!("{value:.1} %") }
    }

    /// What the text took of a speed of the disk.
    pub fn share_of(&self, speed: &str) -> f64 {
        self.get("rate") * self.get("missed_gb") / self.get(speed)
    }

    pub fn row(&self, name: &str, threads: u32) -> String {
        let or = |name: &str| match self.get(name) {
            value if value.is_nan() => "-".to_owned(),
            value => format!("{value:.3}"),
        };
        format!(
            "{name:25} {threads:7} {:9.2} {:14.3} {:>7} {:>9} {:9.2} {:8.1} {:10.2} {:>11}",
            self.get("rate"),
            self.get("read_gb"),
            or("missed_gb"),
            self.percent("hit_rate"),
            self.get("peak_gb"),
            self.get("load_s"),
            self.get("disk_gb"),
            match self.share_of("disk_gb") {
                share if share.is_nan() => "-".to_owned(),
                share => format!("{:.0} %", share * 100.0),
            },
        )
    }
}

/// Runs this program again for one measurement.
pub fn run(
    options: &Options,
    model: &str,
    what: &str,
    threads: u32,
    group: Option<&Group>,
    half_life: f64,
) -> Figures {
    system::drop_caches();
    // Tokens take a fifth of the time in memory, so that there are more of them to measure as well.
    let tokens = options.tokens() * if group.is_some() { 1.0 } else { WITHOUT_LIMIT };
    let warm_up = options.warm_up();
    let group = group.map_or(String::new(), |group| group.members().display().to_string());
    let task = format!("{model}\n{what}\n{tokens}\n{warm_up}\n{threads}\n{half_life}\n{group}");
    let program = std::env::current_exe().expect("known");
    let output = Command::new(program)
        .env(CHILD, task)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .expect("starts");
    assert!(output.status.success(), "{what}: {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    let (mut values, mut text) = (BTreeMap::new(), String::new());
    for line in said.lines() {
        match line.split_once('=') {
            Some(("text", it)) => text = it.replace("\\n", "\n"),
            Some((name, value)) => {
                values.insert(name.to_owned(), value.parse().unwrap_or(f64::NAN));
            }
            None => {}
        }
    }
    Figures { text, values }
}

/// Measures, if this is such a process.
pub fn ran() -> bool {
    let Ok(task) = std::env::var(CHILD) else { return false };
    let lines: Vec<&str> = task.split('\n').collect();
    let [model, what, tokens, warm_up, threads, half_life, group] = lines[..] else {
        panic!("not a task")
    };
    let number = |text: &str| text.parse::<f64>().expect("a number");
    if !group.is_empty() {
        std::fs::write(group, std::process::id().to_string()).expect("root");
    }
    let task = Task {
        model,
        tokens: number(tokens) as u64,
        warm_up: number(warm_up) as u64,
        threads: number(threads) as u32,
        pause: if group.is_empty() { Duration::ZERO } else { Duration::from_millis(500) },
    };
    match what {
        "engine" => task.engine(llama::LLAMA_LOAD_MODE_MMAP),
        "engine-read" => task.engine(llama::LLAMA_LOAD_MODE_NONE),
        "in-turns" => task.in_turns(),
        ours => task.ours(ours, number(half_life)),
    }
    true
}

struct Task<'a> {
    model: &'a str,
    tokens: u64,
    warm_up: u64,
    threads: u32,
    /// How long the disk alone is measured after each token.
    pause: Duration,
}

/// What tokens took. The disk's speed wanders by a half within seconds, so it is measured between them.
#[derive(Default)]
struct Meter {
    seconds: f64,
    read_bytes: f64,
    /// Bytes per second of the disk alone.
    disk: Vec<f64>,
}

impl Meter {
    /// Computes a token, which counts.
    fn token<T>(&mut self, task: &Task<'_>, compute: impl FnOnce() -> T) -> T {
        let (started, read) = (Instant::now(), system::read_bytes());
        let token = compute();
        self.seconds += started.elapsed().as_secs_f64();
        self.read_bytes += system::read_bytes() - read;
        if !task.pause.is_zero() {
            self.disk.push(disk::bytes_per_second(task.model, task.pause));
        }
        token
    }

    fn tell(&self, text: &str, tokens: f64, load: f64) {
        println!("text={}", text.replace('\n', "\\n"));
        println!("rate={}\nread_gb={}", tokens / self.seconds, self.read_bytes / tokens / 1e9);
        println!("load_s={load}\npeak_gb={}", system::status_bytes("VmHWM") / 1e9);
        if !self.disk.is_empty() {
            println!("disk_gb={}", self.disk.iter().sum::<f64>() / self.disk.len() as f64 / 1e9);
        }
    }
}

impl Task<'_> {
    fn ours(&self, what: &str, half_life: f64) {
        let mut model = sides::load_ours(self.model, what, half_life, self.threads);
        let load = model.stats().load_seconds;
        let mut text = String::new();
        let mut generation = sides::generate(&mut model, self.warm_up + self.tokens);
        let (mut count, mut before, mut meter) = (0, None, Meter::default());
        loop {
            let piece = match before {
                Some(_) => meter.token(self, || generation.next()),
                None => generation.next(),
            };
            let Some(piece) = piece else { break };
            text.push_str(&piece.unwrap_or_else(|error| panic!("{error}")));
            let stats = generation.stats();
            count = stats.generated_tokens;
            if count >= self.warm_up && before.is_none() {
                before = Some(stats.paging);
            }
        }
        drop(generation);
        let counted = (count - self.warm_up) as f64;
        if let (Some(Some(before)), Some(after)) = (before, model.paging()) {
            tell_paging(&before, &after, counted, meter.seconds);
        }
        meter.tell(&text, counted, load);
    }

    fn engine(&self, mode: llama::llama_load_mode) {
        let loading = Instant::now();
        let mut engine = Engine::load(self.model, mode, self.threads);
        let load = loading.elapsed().as_secs_f64();
        let mut meter = Meter::default();
        (0..self.warm_up).for_each(|_| engine.token());
        (0..self.tokens).for_each(|_| meter.token(self, || engine.token()));
        meter.tell(&engine.text(), self.tokens as f64, load);
    }

    /// Both with everything in memory, token by token in turns, so that a machine that changes its pace does so
    /// to both. They are the same tokens.
    fn in_turns(&self) {
        let mut engine = Engine::load(self.model, llama::LLAMA_LOAD_MODE_NONE, self.threads);
        let mut model = sides::load_ours(self.model, "cache:1e12", 0.0, self.threads);
        let all = self.warm_up + self.tokens;
        let mut generation = sides::generate(&mut model, all);
        let (mut text, mut ours, mut theirs) = (String::new(), 0.0, 0.0);
        for token in 0..all {
            let mut turn = |is_ours: bool| {
                let started = Instant::now();
                if is_ours {
                    let piece = generation.next().expect("text for each token");
                    text.push_str(&piece.unwrap_or_else(|error| panic!("{error}")));
                } else {
                    engine.token();
                }
                let seconds =
                    if token < self.warm_up { 0.0 } else { started.elapsed().as_secs_f64() };
                *(if is_ours { &mut ours } else { &mut theirs }) += seconds;
            };
            let ours_first = token % 2 == 0;
            turn(ours_first);
            turn(!ours_first);
        }
        let count = generation.stats().generated_tokens;
        drop(generation);
        assert_eq!((&text, count), (&engine.text(), all), "the same tokens in each turn");
        let paging = model.paging().expect("experts on disk");
        assert_eq!(paging.read_bytes, 0, "everything is in memory");
        println!("rate={}\nengine_rate={}", self.tokens as f64 / ours, self.tokens as f64 / theirs);
    }
}

/// What was counted between two looks.
fn tell_paging(before: &PagingStats, after: &PagingStats, tokens: f64, seconds: f64) {
    let missed = (after.missed_bytes - before.missed_bytes) as f64;
    let slices = (after.missed_slices - before.missed_slices) as f64;
    let needed = (after.needed_slices - before.needed_slices) as f64;
    println!("missed_gb={}\nhit_rate={}", missed / tokens / 1e9, 1.0 - slices / needed);
    let reading = after.reading_seconds - before.reading_seconds;
    println!("stall_share={}", (after.stall_seconds - before.stall_seconds) / seconds);
    println!("reading_gb={}", (after.read_bytes - before.read_bytes) as f64 / reading / 1e9);
    eprintln!(
        "  ({}: of {seconds:.2} s {:.2} s waiting, {reading:.2} s reading; {} slices by a guess, {} in vain)",
        after.reader,
        after.stall_seconds - before.stall_seconds,
        after.ahead_slices - before.ahead_slices,
        after.wasted_slices - before.wasted_slices,
    );
}
