//! Experts in CPU memory: the crate's defaults against the settings that are fastest when tried by hand.
//!
//! `GGML_OP_OFFLOAD_MIN_BATCH`, from how many tokens on the engine computes them on a device, is read once for the
//! process: run this with it and without, and take the faster bare loop of both.

use moe_offload::{MoeModel, OffloadPolicy, Sampling};

use crate::bare::{Bare, Run, Settings};
use crate::{compare, first_token, head, ours, per_token};

const CONTEXT: u32 = 4096;
const TOKENS: u64 = 64;

/// What is measured of a run, in seconds.
type Time = fn(&Run) -> f64;

fn grid() -> Vec<Settings> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = i32::try_from(cpus).expect("few");
    let mut grid = Vec::new();
    for threads in [cpus, cpus / 2].into_iter().filter(|&threads| threads > 0) {
        for is_mapped in [true, false] {
            for micro_batch in [512, 2048] {
                let plain = Settings::plain(CONTEXT);
                grid.push(Settings {
                    micro_batch,
                    threads,
                    is_mapped,
                    experts_on_cpu: true,
                    ..plain
                });
            }
        }
    }
    grid
}

/// Loads and runs the model with each, and keeps the fastest.
fn fastest(path: &str, prompt: &str, time: Time) -> Settings {
    let mut best: Option<(f64, Settings)> = None;
    for settings in grid() {
        let mut bare = Bare::load(path, settings);
        bare.generate(prompt, TOKENS); // what is new to the memory and the device takes longer
        let seconds = time(&bare.generate(prompt, TOKENS));
        println!("{seconds:.6} s  {settings:?}");
        if best.is_none_or(|(least, _)| seconds < least) {
            best = Some((seconds, settings));
        }
    }
    best.expect("several were tried").1
}

/// Prints the ratio of the crate's time to the bare loop's, below 1 where the crate is faster.
pub fn compare_with_best(path: &str, pairs: usize) {
    let prompt = "Once upon a time there was a dragon who counted. ".repeat(150);
    let mut model = MoeModel::builder(path)
        .policy(OffloadPolicy::AllExperts)
        .context_tokens(CONTEXT)
        .load()
        .expect("loads");
    for (what, time) in
        [("to the first token", first_token as Time), ("tokens after the first", per_token)]
    {
        head(&format!("{what}, experts in CPU memory, {pairs} pairs"));
        let mut bare = Bare::load(path, fastest(path, &prompt, time));
        let mut our_time = || time(&ours(&mut model, &prompt, TOKENS, &Sampling::greedy()));
        compare("generate() to bare", pairs, &mut our_time, || {
            time(&bare.generate(&prompt, TOKENS))
        });
    }
}
