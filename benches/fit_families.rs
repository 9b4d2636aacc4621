//! For every family of `synth`: how many bytes of experts our fit puts on a device, beside
//! llama.cpp's own fit for the same budget.
//!
//! Needs a second device: `cargo run --release --example rpc_server`, then
//! `cargo run --release -p moe-offload-benches --bin fit-families -- [127.0.0.1:50052]`.

mod common;

use moe_offload::{ExpertMap, GgufFile, MoeModel};
use moe_offload_synth::{self as synth, SynthOptions};

const MICRO_BATCH: u32 = 64;

fn main() {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50052".to_owned());
    moe_offload::connect_rpc(&endpoint).expect("the server answers");
    let device = moe_offload::devices().expect("lists").remove(0);
    let free = device.free_bytes.expect("says its memory");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (mut compared, mut less, mut more, mut gave_up) = (0, 0, 0, 0);
    println!(
        "{:24} {:>7} {:>12} {:>12} {:>12}",
        "family", "context", "budget", "ours", "llama.cpp"
    );
    for family in synth::families() {
        let path = folder.path().join(format!("{}.gguf", family.name));
        family.build(&SynthOptions::tiny()).expect("builds").save(&path, 1, |_| {}).expect("saves");
        let path = path.to_str().expect("is UTF-8");
        let experts = ExpertMap::new(&GgufFile::open(path).expect("reads")).expect("classifies");
        for context in [256, 1000] {
            let forecast = |policy: &str| {
                MoeModel::builder(path)
                    .rpc_server(&endpoint)
                    .policy(policy.parse().expect("is a policy"))
                    .context_tokens(context)
                    .micro_batch_tokens(MICRO_BATCH)
                    .forecast()
                    .unwrap_or_else(|error| panic!("{} under {policy}: {error}", family.name))
            };
            let total = |policy| forecast(policy).devices()[0].total_bytes;
            let (lean, full) = (total("all-experts"), total("none"));
            for percent in [5, 35, 70, 100] {
                let budget = lean + 16_384 + full.saturating_sub(lean) * percent / 100;
                let ours = forecast(&format!("fit:{budget}B")).expert_bytes_on_devices();
                let margin = free.saturating_sub(budget);
                let theirs = common::llama_fit(path, &experts, context, MICRO_BATCH, margin);
                compared += 1;
                let verdict = match theirs.expert_bytes {
                    None => "found nothing".to_owned(),
                    Some(_) if theirs.host_layers > 0 => {
                        gave_up += 1;
                        format!("moved {} layers to the CPU", theirs.host_layers)
                    }
                    Some(_) if theirs.dense_bytes_moved > 0 => {
                        gave_up += 1;
                        format!("moved {} B of the dense part to the CPU", theirs.dense_bytes_moved)
                    }
                    Some(bytes) if ours < bytes => {
                        less += 1;
                        "LESS".to_owned()
                    }
                    Some(bytes) if ours > bytes => {
                        more += 1;
                        "more".to_owned()
                    }
                    Some(_) => "same".to_owned(),
                };
                println!(
                    "{:24} {context:>7} {budget:>12} {ours:>12} {:>12}  {verdict}",
                    family.name,
                    theirs.expert_bytes.unwrap_or(0)
                );
            }
        }
    }
    println!(
        "{compared} cases; in {gave_up} llama.cpp moved more than experts to the CPU; in the others ours \
         puts more experts on the device in {more}, fewer in {less}"
    );
}
