//! How long it takes to read a full-scale header and to plan, without the engine.
//!
//! `cargo run --release -p moe-offload-benches --bin plan-time [-- MODEL]`; without a model GPT-OSS
//! 20B's header with as many merges as the published vocabulary has.

use std::path::PathBuf;
use std::time::Instant;

use moe_offload::{ContextOptions, Device, GgufFile, OffloadPolicy};
use moe_offload_synth::{self as synth, SynthOptions};

const RUNS: usize = 21;

fn full_header() -> PathBuf {
    let model = synth::family("gpt-oss-20b").and_then(|f| f.build(&SynthOptions::default()));
    let model = model.expect("is in the table");
    let mut writer = model.header().clone();
    let merges: Vec<String> = (0..446_189).map(|i| format!("pair{i} of{i}")).collect();
    writer.set("tokenizer.ggml.merges", merges);
    let path = std::env::temp_dir().join("moe-offload-plan-time.gguf");
    let mut file = std::fs::File::create(&path).expect("the temporary folder is writable");
    writer.write_header(&mut std::io::BufWriter::new(&mut file)).expect("writes");
    let header = file.metadata().expect("is there").len();
    file.set_len(header + model.tensor_bytes() * 2).expect("a hole");
    path
}

fn median(what: &str, mut run: impl FnMut()) {
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!(
        "{what:12} {:7.2} ms (median of {RUNS}; {:.2} to {:.2})",
        times[RUNS / 2],
        times[0],
        times[RUNS - 1]
    );
}

fn main() {
    let given = std::env::args().nth(1).map(PathBuf::from);
    let path = given.clone().unwrap_or_else(full_header);
    let gguf = GgufFile::open(&path).expect("reads");
    println!("header of {} bytes, {} tensors", gguf.shards()[0].header_bytes, gguf.tensors().len());
    median("header", || drop(GgufFile::open(&path).expect("reads")));
    let card = [Device::new("gpu").with_free_bytes(12 << 30)];
    for text in ["none", "all-experts", "first-layers:12", "regex:_down_exps=cpu"] {
        let policy: OffloadPolicy = text.parse().expect("is a policy");
        median(text, || drop(policy.plan(&gguf, &card, &ContextOptions::default())));
    }
    if given.is_none() {
        let _ = std::fs::remove_file(path);
    }
}
