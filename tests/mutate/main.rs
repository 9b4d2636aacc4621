//! Loads changed model files and generates with them, in processes that may fail: every file must
//! end in `Ok` or an error, never in a signal, an abort, a hang or a gigabyte.
//!
//! ```sh
//! cargo test --release --test mutate -- --mutations 2000              # all families
//! cargo test --release --test mutate -- --sweep                       # every tensor, every type
//! cargo test --release --test mutate -- --family dbrx --seed 1 --only 17
//! ```
#![cfg(feature = "llama")]
#![allow(missing_docs)]

mod child;
#[path = "../support/mutation/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod mutation;
mod parent;

use std::collections::BTreeMap;
use std::process::ExitCode;

use moe_offload_synth::{self as synth, SynthOptions};
use mutation::RawFile;

/// What to do; each field is an option of the command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    family: Option<String>,
    mutations: u64,
    seed: u64,
    only: Option<u64>,
    /// Where to begin.
    from: u64,
    child: bool,
    /// That compute; without it one, and two for every eighth file.
    threads: Option<u32>,
    /// Not by chance, but every tensor and value in turn.
    sweep: bool,
    /// Say what each mutation is.
    verbose: bool,
}

fn options() -> Option<Options> {
    let mut options = Options {
        family: None,
        mutations: 20,
        seed: 1,
        only: None,
        from: 0,
        child: false,
        threads: None,
        sweep: false,
        verbose: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.parse::<u64>().ok();
        match argument.as_str() {
            "--mutations" => options.mutations = number()?,
            "--seed" => options.seed = number()?,
            "--only" => options.only = Some(number()?),
            "--from" => options.from = number()?,
            "--family" => options.family = Some(arguments.next()?),
            "--child" => options.child = true,
            "--threads" => options.threads = Some(u32::try_from(number()?).ok()?),
            "--sweep" => options.sweep = true,
            "--verbose" => options.verbose = true,
            // What cargo hands to every test program: a filter, a list, a number of threads.
            _ => return None,
        }
    }
    Some(options)
}

/// A tiny file of the family, in pieces.
pub(crate) fn tiny(family: &str) -> RawFile {
    let mut file = Vec::new();
    let family = synth::family(family).unwrap();
    family.build(&SynthOptions::tiny()).unwrap().write(&mut file).unwrap();
    RawFile::parse(&file)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        return ExitCode::SUCCESS;
    };
    if options.child {
        child::run(&options);
        return ExitCode::SUCCESS;
    }
    let mut total = BTreeMap::new();
    let mut exceptions = 0;
    for family in synth::families() {
        if options.family.as_ref().is_some_and(|wanted| wanted != family.name) {
            continue;
        }
        let mut options = options.clone();
        if options.sweep {
            options.mutations = mutation::sweep::count(&tiny(family.name));
        }
        let outcomes = parent::run(&options, family.name);
        exceptions += outcomes.exceptions;
        for (outcome, count) in outcomes.counts {
            *total.entry(outcome).or_insert(0) += count;
        }
    }
    println!("\noutcomes:");
    for (outcome, count) in &total {
        println!("{count:8} {outcome}");
    }
    println!("{:8} in all, {exceptions} exceptions", total.values().sum::<u64>());
    if exceptions == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
