//! Ways to hold weights in CPU memory, against each other.
//!
//! `cargo run --release -p moe-offload-benches --bin host-memory -- MODEL [OPTION...]`. Each measurement is a
//! process of its own; the modes take turns, every second round backwards. All compute the same greedy text.
//! The file's cache is warm, if memory holds it and what is read.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use moe_offload::{GenerateOptions, LoadMode, MoeModel, Sampling};

const HELP: &str = "host-memory MODEL [OPTION...]
  --modes LIST       load modes, by comma (mapped,read,huge,locked)
  --threads LIST     threads that compute (1,2)
  --rounds N         measurements of each (4)
  --tokens N         tokens of the answer (48)";

const CHILD: &str = "MOE_OFFLOAD_HOST_MEMORY_CHILD";
const FIGURES: [&str; 5] = ["prefill", "decode", "load", "huge", "locked"];

/// What one process measured, by name, and its text.
type Measured = (BTreeMap<String, f64>, String);

fn main() {
    if let Ok(task) = std::env::var(CHILD) {
        return measure(&task);
    }
    let mut arguments = std::env::args().skip(1);
    let Some(model) = arguments.next().filter(|model| !model.starts_with('-')) else {
        println!("{HELP}");
        return;
    };
    let mut options = BTreeMap::new();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        options.insert(name, value);
    }
    let option =
        |name: &str, default: &str| options.get(name).map_or(default, String::as_str).to_owned();
    let modes = option("--modes", "mapped,read,huge,locked");
    let modes: Vec<&str> = modes.split(',').collect();
    let rounds: usize = option("--rounds", "4").parse().expect("a number");
    let tokens = option("--tokens", "48");
    for threads in option("--threads", "1,2").split(',') {
        let mut found: BTreeMap<&str, Vec<BTreeMap<String, f64>>> = BTreeMap::new();
        let mut text = None;
        for round in 0..rounds {
            let mut turn = modes.clone();
            if round % 2 == 1 {
                turn.reverse();
            }
            for mode in turn {
                let (figures, said) = run(&format!("{model}\n{mode}\n{threads}\n{tokens}"));
                assert_eq!(*text.get_or_insert_with(|| said.clone()), said, "another text");
                eprintln!("{mode}, {threads} thread(s): {figures:?}");
                found.entry(mode).or_default().push(figures);
            }
        }
        print(threads, &modes, &found);
    }
}

/// Medians, the range of load times, and how the decode rate compares with that of the first mode in the
/// same round.
fn print(threads: &str, modes: &[&str], found: &BTreeMap<&str, Vec<BTreeMap<String, f64>>>) {
    println!("threads: {threads}");
    println!(
        "mode         prefill t/s  decode t/s        load s  huge GB  locked GB  decode against {}",
        modes[0]
    );
    for mode in modes {
        let rows = &found[mode];
        let [prefill, decode, load, huge, locked] = FIGURES.map(|name| {
            let mut values: Vec<f64> = rows.iter().map(|row| row[name]).collect();
            values.sort_by(f64::total_cmp);
            values
        });
        let ratio = |(row, first): (&BTreeMap<_, f64>, &BTreeMap<_, f64>)| {
            format!("{:.3}", row["decode"] / first["decode"])
        };
        let pairs: Vec<String> = rows.iter().zip(&found[modes[0]]).map(ratio).collect();
        println!(
            "{mode:12} {:11.2} {:11.2} {:5.1} to {:4.1} {:8.2} {:10.2}  {}",
            median(&prefill),
            median(&decode),
            load[0],
            load[load.len() - 1],
            median(&huge) / 1e9,
            median(&locked) / 1e9,
            pairs.join(" ")
        );
    }
}

/// Of sorted values.
fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

fn run(task: &str) -> Measured {
    let output = Command::new(std::env::current_exe().expect("known"))
        .env(CHILD, task)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .expect("starts");
    assert!(output.status.success(), "{task}: {}", output.status);
    let said = String::from_utf8_lossy(&output.stdout);
    let (figures, text) = said.split_once("text=").expect("ends with it");
    let figure = |line: &str| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    (figures.lines().filter_map(figure).collect(), text.to_owned())
}

/// In a process of its own.
fn measure(task: &str) {
    let [model, mode, threads, tokens] = task.split('\n').collect::<Vec<_>>()[..] else {
        panic!("not a task")
    };
    let mode: LoadMode = mode.parse().unwrap_or_else(|error| panic!("{error}"));
    let mut model = MoeModel::builder(model)
        .load_mode(mode)
        .threads(threads.parse().expect("a number"))
        .context_tokens(1024)
        .load()
        .unwrap_or_else(|error| panic!("{error}"));
    let options = GenerateOptions::default()
        .sampling(Sampling::greedy())
        .max_tokens(tokens.parse().expect("a number"));
    let prompt = "Water runs down the hill and into the river. ".repeat(6);
    let text = model.generate(&prompt, &options).and_then(|answer| answer.text());
    let text = text.unwrap_or_else(|error| panic!("{error}"));
    let stats = model.stats();
    let host = model.memory().last().and_then(|cpu| cpu.host).unwrap_or_default();
    let values = [
        stats.prefill_tokens_per_second.unwrap_or(0.0),
        stats.decode_tokens_per_second.unwrap_or(0.0),
        stats.load_seconds,
        host.huge_bytes as f64,
        host.locked_bytes as f64,
    ];
    for (name, value) in FIGURES.iter().zip(values) {
        println!("{name}={value}");
    }
    print!("text={text}");
}
