//! Measures a model under several policies: memory, tokens per second, and what goes over the
//! network. See `--help`.

#[path = "../common/mod.rs"]
mod common;
mod contract;
mod gpu_memory;
mod quick;
mod row;
mod runs;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{ArgGroup, Parser};
use moe_offload::gguf::GgmlType;
use moe_offload::plan::parse_bytes;
use moe_offload::{
    Device, Error, LoadMode, MoeModel, MoeModelBuilder, OffloadPolicy, Plan, Result, devices,
};
use serde_json::json;

use self::gpu_memory::Holder;

/// The small model that comes with the repository.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");

/// The status where a device has too little memory, as `plan` has it.
const DOES_NOT_FIT: i32 = 3;

/// Loads a model under one policy after another and prints a table: bytes of experts on the devices,
/// tokens per second, and for RPC servers bytes and round trips per token.
///
/// Without --policy these are none, all-experts, the first half of the layers, and fit at a quarter,
/// a half and three quarters of the way between the last two's needs: from all-experts to none.
#[derive(Parser)]
#[command(group = ArgGroup::new("what_it_leaves").args(["leave_free", "contract"]))]
struct Arguments {
    /// The model, a GGUF file. Default: the demo model
    #[arg(long, default_value = DEMO, hide_default_value = true)]
    model: PathBuf,
    /// A policy to measure; may be repeated
    #[arg(long, value_name = "SPEC")]
    policy: Vec<OffloadPolicy>,
    /// Use the devices of this RPC server too; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    rpc: Vec<String>,
    /// Tokens that prompt and answer can have together
    #[arg(long, default_value_t = 512, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    context: u32,
    /// Words of the prompt, about as many tokens
    #[arg(long, default_value_t = 100, allow_negative_numbers = true, value_parser = common::whole::<usize>)]
    words: usize,
    /// Tokens of the prompt, about, instead of words
    #[arg(long, value_parser = at_least_one, allow_negative_numbers = true, conflicts_with = "words")]
    prompt_tokens: Option<usize>,
    /// Tokens to generate
    #[arg(long, default_value_t = 32, allow_negative_numbers = true, value_parser = common::whole::<u64>)]
    tokens: u64,
    /// Generate until the model ends the text or the context is full
    #[arg(long, conflicts_with = "tokens")]
    to_the_end: bool,
    /// Threads that compute on the CPU
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    threads: Option<u32>,
    /// Tokens computed at once while a prompt is read
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    micro_batch: Option<u32>,
    /// How weights in CPU memory come from the file, as `chat --help` has it
    #[arg(long, value_name = "MODE")]
    load_mode: Option<LoadMode>,
    /// Element type of the KV cache, such as `q8_0`
    #[arg(long, value_parser = kv_type)]
    kv_type: Option<GgmlType>,
    /// What the devices may take, and how fast it is then: the table of docs/gpu.md, as Markdown
    #[arg(long, conflicts_with_all = SETTINGS)]
    #[arg(conflicts_with_all = ["contract", "holder", "leave_free", "json"])]
    quick: bool,
    /// `fit` while another process holds all of the GPU's memory but 1, 2, 4 and 8 GiB: what it takes
    /// with prompts to the context's end, as Markdown. Without --holder it has that much as its budget
    #[arg(long, conflicts_with_all = SETTINGS, conflicts_with_all = ["tokens", "json"])]
    contract: bool,
    /// The program that takes a GPU's memory but for the bytes that it is told (scripts/cuda/hold-memory.c)
    #[arg(long, value_name = "PROGRAM", requires = "what_it_leaves")]
    holder: Option<PathBuf>,
    /// Bytes that it leaves free, such as 2GiB, when CUDA has started in this process
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true, requires = "holder")]
    leave_free: Option<u64>,
    /// Print JSON instead: a line per policy, or the list of devices
    #[arg(long)]
    json: bool,
    /// Only list the devices
    #[arg(long, conflicts_with_all = SETTINGS)]
    #[arg(conflicts_with_all = ["model", "tokens", "threads", "quick", "contract", "holder", "leave_free"])]
    devices: bool,
}

/// What is set by a table that is always the same, or by nothing where nothing is loaded.
const SETTINGS: [&str; 8] = [
    "policy",
    "context",
    "words",
    "prompt_tokens",
    "to_the_end",
    "micro_batch",
    "load_mode",
    "kv_type",
];

fn main() {
    let arguments: Arguments = common::arguments();
    match run(&arguments) {
        Ok(()) => {}
        Err(error @ Error::DoesNotFit { .. }) => {
            common::fail_with(DOES_NOT_FIT, &common::words(&error))
        }
        Err(error) => common::fail_by(&error),
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // These measure in other processes, and this one leaves the devices to them.
    if arguments.quick {
        return quick::run(arguments);
    }
    if arguments.contract {
        return contract::run(arguments);
    }
    for endpoint in &arguments.rpc {
        moe_offload::connect_rpc(endpoint)?;
    }
    let there = devices()?;
    if arguments.devices {
        print(&list(&there, arguments.json));
        return Ok(());
    }
    let holder = arguments.holder.as_deref().zip(arguments.leave_free);
    let _holder = holder.map(|(program, bytes)| Holder::start(program, bytes));
    let policies = match arguments.policy.as_slice() {
        [] => usual_policies(arguments, !there.is_empty())?,
        given => given.to_vec(),
    };
    let mut head = !arguments.json;
    for policy in policies {
        let row = row::measure(arguments, &policy)?;
        if std::mem::take(&mut head) {
            print(&row.head());
        }
        print(&if arguments.json { row.json() } else { row.line() });
    }
    Ok(())
}

fn list(devices: &[Device], json: bool) -> String {
    if json {
        return format!("{}\n", json!(devices));
    }
    let mut text = String::new();
    for device in devices {
        let mib =
            |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string());
        let (free, total) = (mib(device.free_bytes), mib(device.total_bytes));
        let Device { name, kind, backend, description, .. } = device;
        let _ = writeln!(
            text,
            "{name:10} {kind:14} {backend:8} {free:>8} of {total:>8} MiB free  {description}"
        );
    }
    if text.is_empty() { "no device but the CPU\n".to_owned() } else { text }
}

fn builder(arguments: &Arguments, policy: &OffloadPolicy) -> MoeModelBuilder {
    let mut builder = MoeModel::builder(&arguments.model)
        .policy(policy.clone())
        .context_tokens(arguments.context);
    if let Some(threads) = arguments.threads {
        builder = builder.threads(threads);
    }
    if let Some(tokens) = arguments.micro_batch {
        builder = builder.micro_batch_tokens(tokens);
    }
    if let Some(mode) = arguments.load_mode {
        builder = builder.load_mode(mode);
    }
    if let Some(kv_type) = arguments.kv_type {
        builder = builder.kv_type(kv_type);
    }
    arguments.rpc.iter().fold(builder, MoeModelBuilder::rpc_server)
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    let number = common::whole::<u64>(text)?;
    let number = usize::try_from(number).ok().filter(|&number| number > 0);
    number.ok_or_else(|| "it must be at least 1".to_owned())
}

fn kv_type(name: &str) -> std::result::Result<GgmlType, String> {
    GgmlType::from_name(name).ok_or_else(|| format!("there is no type `{name}`"))
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// The baseline, the extremes, and steps in between.
fn usual_policies(arguments: &Arguments, has_devices: bool) -> Result<Vec<OffloadPolicy>> {
    let forecast = |policy: &OffloadPolicy| builder(arguments, policy).forecast();
    let all = forecast(&OffloadPolicy::AllExperts)?;
    let mut policies = vec![OffloadPolicy::None, OffloadPolicy::AllExperts];
    if let half @ 1.. = all.model().expert_layers / 2 {
        policies.push(OffloadPolicy::FirstLayers(half));
    }
    if has_devices {
        // The limit of `fit` is one for all devices: the fullest one's.
        let fullest = |plan: &Plan| {
            let (_cpu, devices) = plan.devices().split_last().expect("a plan has the CPU");
            devices.iter().map(|device| device.total_bytes).max().unwrap_or(0)
        };
        let none = forecast(&OffloadPolicy::None)?;
        policies.extend(between(fullest(&all), fullest(&none), 4)?);
    }
    Ok(policies)
}

/// `fit` with budgets at the steps of so many parts of the way from one number of bytes to another.
fn between(low: u64, high: u64, parts: u64) -> Result<Vec<OffloadPolicy>> {
    let budget = |step: u64| (low + high.saturating_sub(low) / parts * step).div_ceil(1 << 10);
    (1..parts).map(|step| format!("fit:{}KiB", budget(step)).parse()).collect()
}

/// A reader who went away ends the program quietly.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => common::fail(&format!("cannot write to standard output: {error}")),
        Ok(()) => {}
    }
}
