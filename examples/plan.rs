//! Shows what a policy would do to a model. Needs no GPU, no engine, and loads nothing.

mod common;

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use moe_offload::gguf::GgmlType;
use moe_offload::{ContextOptions, Device, Error, GgufFile, OffloadPolicy, Plan, Result};

/// Shows what an offload policy would do to a model, without loading it.
///
/// Only the file's header is read, so this takes milliseconds for a model of any size.
#[derive(Parser)]
struct Arguments {
    /// The model, a GGUF file; of a split model the first
    #[arg(long)]
    model: PathBuf,
    /// Where tensors go: none, all-experts, first-layers:N, last-layers:N, layers:0-3,7 or
    /// regex:PATTERN=DEVICE, joined by `;`, at the end fit, fit:BUDGET or fit:-MARGIN
    #[arg(long, default_value = "all-experts")]
    policy: OffloadPolicy,
    /// Tokens that prompt and answer can have together
    #[arg(long)]
    context: Option<u32>,
    /// Element type of the KV cache, such as f16, or `q8_0` for half the memory
    #[arg(long, default_value = "f16", value_parser = kv_type)]
    kv_type: GgmlType,
    /// Tokens computed at once while a prompt is read
    #[arg(long, default_value_t = 512)]
    micro_batch: u32,
    /// A device with its free memory, such as CUDA0=24GiB; may be repeated. Default: one `gpu`
    #[arg(long, value_name = "NAME=BYTES", value_parser = device)]
    device: Vec<Device>,
    /// Print the plan as JSON, with every tensor
    #[arg(long)]
    json: bool,
    /// Store the plan, to load exactly by it later
    #[arg(long, value_name = "FILE")]
    freeze: Option<PathBuf>,
}

fn main() {
    if let Err(error) = run(common::arguments()) {
        common::fail(&error);
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let gguf = GgufFile::open(&arguments.model)?;
    let mut context = ContextOptions::default();
    context.context_tokens = arguments.context;
    context.kv_type = arguments.kv_type;
    context.micro_batch_tokens = arguments.micro_batch;
    let devices = match arguments.device {
        named if named.is_empty() => vec![Device::new("gpu")],
        named => named,
    };
    let plan = arguments.policy.plan(&gguf, &devices, &context)?;
    if let Some(path) = arguments.freeze {
        let json = serde_json::to_vec(&plan).expect("a plan is plain data");
        std::fs::write(&path, json).map_err(|source| Error::Io {
            action: "write",
            path,
            source,
        })?;
    }
    let path = "standard output".into();
    common::unless_closed(print(&plan, arguments.json)).map_err(|source| Error::Io {
        action: "write",
        path,
        source,
    })
}

fn print(plan: &Plan, json: bool) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer(&mut out, plan)?;
        writeln!(out)?;
    } else {
        write!(out, "{plan}\n{}", plan.picture())?;
    }
    out.flush()
}

/// `NAME=BYTES`, the bytes as a number or with a unit such as `12GiB` or `12GB`.
fn device(text: &str) -> Result<Device, String> {
    let (name, bytes) = text.rsplit_once('=').ok_or("write NAME=BYTES, as in CUDA0=24GiB")?;
    let bytes = moe_offload::plan::parse_bytes(bytes).map_err(|error| error.to_string())?;
    Ok(Device::new(name).with_free_bytes(bytes))
}

fn kv_type(name: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(name).ok_or_else(|| format!("there is no type `{name}`"))
}
