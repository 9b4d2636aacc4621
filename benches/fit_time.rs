//! Our fit against llama.cpp's own (`common_fit_params`) on the same file, device and budgets, in
//! one process, turn by turn.
//!
//! Needs a second device: `cargo run --release --example rpc_server`, then
//! `cargo run --release -p moe-offload-benches --bin fit-time -- MODEL [127.0.0.1:50052]`.
//! The weights are not read: a file made by `synth --no-weights` will do.

mod common;

use std::time::Instant;

use moe_offload::{ContextOptions, Device, ExpertMap, GgufFile, MoeModel, OffloadPolicy};

const CONTEXT: u32 = 4096;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a model");
    let endpoint = arguments.next().unwrap_or_else(|| "127.0.0.1:50052".to_owned());
    moe_offload::connect_rpc(&endpoint).expect("the server answers");
    let device = moe_offload::devices().expect("lists").remove(0);
    let free = device.free_bytes.expect("says its memory");
    println!(
        "{:>7}  {:>12}  {:>12}  {:>12}  {:>9}  experts on the device: ours, llama.cpp's",
        "budget", "header, pure", "dry runs", "llama.cpp", "ratio"
    );
    for gib in [3, 6, 9] {
        let budget: u64 = gib << 30;
        let policy: OffloadPolicy = format!("fit:{budget}B").parse().expect("is a policy");
        let started = Instant::now();
        let gguf = GgufFile::open(&path).expect("reads");
        let card = Device::new("card").with_free_bytes(free);
        policy.plan(&gguf, &[card], &ContextOptions::with_context_tokens(CONTEXT)).expect("fits");
        let pure = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let plan = MoeModel::builder(&path)
            .rpc_server(&endpoint)
            .policy(policy)
            .context_tokens(CONTEXT)
            .forecast()
            .expect("fits");
        let exact = started.elapsed().as_secs_f64();
        let experts = ExpertMap::new(&gguf).expect("classifies");
        let theirs = common::llama_fit(&path, &experts, CONTEXT, 512, free.saturating_sub(budget));
        let gib_of = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        println!(
            "{gib:>3} GiB  {:>9.1} ms  {:>9.0} ms  {:>9.0} ms  {:>8.1}x  {:.3} GiB, {}",
            pure * 1e3,
            exact * 1e3,
            theirs.seconds * 1e3,
            theirs.seconds / exact,
            gib_of(plan.expert_bytes_on_devices()),
            match theirs.expert_bytes {
                Some(bytes) => format!("{:.3} GiB", gib_of(bytes)),
                None => "nothing found".to_owned(),
            }
        );
    }
}
