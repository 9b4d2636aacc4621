//! Shows what a policy would do to a model. Needs no GPU, no engine, and loads nothing.

use std::io::Write;
use std::path::PathBuf;

use clap::Parser;
use moe_offload::{ContextOptions, Device, GgufFile, OffloadPolicy, Plan, Result};

/// Shows what an offload policy would do to a model, without loading it.
///
/// Only the file's header is read, so this takes milliseconds for a model of any size.
#[derive(Parser)]
struct Arguments {
    /// The model, a GGUF file; of a split model the first
    #[arg(long)]
    model: PathBuf,
    /// Where tensors go: none, all-experts, first-layers:N, last-layers:N, layers:0-3,7 or
    /// regex:PATTERN=DEVICE, joined by `;`
    #[arg(long, default_value = "all-experts")]
    policy: OffloadPolicy,
    /// Tokens that prompt and answer can have together
    #[arg(long)]
    context: Option<u32>,
    /// A device with its free memory, such as CUDA0=24GiB; may be repeated. Default: one `gpu`
    #[arg(long, value_name = "NAME=BYTES", value_parser = device)]
    device: Vec<Device>,
    /// Print the plan as JSON, with every tensor
    #[arg(long)]
    json: bool,
}

fn main() {
    if let Err(error) = run(Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let gguf = GgufFile::open(&arguments.model)?;
    let mut context = ContextOptions::default();
    context.context_tokens = arguments.context;
    let devices = match arguments.device {
        named if named.is_empty() => vec![Device::new("gpu")],
        named => named,
    };
    let plan = arguments.policy.plan(&gguf, &devices, &context)?;
    // A reader who went away (`plan … | head`) is no reason to fail.
    let _ = print(&plan, arguments.json);
    Ok(())
}

fn print(plan: &Plan, json: bool) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer(&mut out, plan)?;
        writeln!(out)?;
    } else {
        write!(out, "{plan}")?;
    }
    out.flush()
}

/// `NAME=BYTES`, the bytes as a number or with a unit such as `12GiB` or `12GB`.
fn device(text: &str) -> Result<Device, String> {
    let (name, bytes) = text.rsplit_once('=').ok_or("write NAME=BYTES, as in CUDA0=24GiB")?;
    let bytes = moe_offload::plan::parse_bytes(bytes).map_err(|error| error.to_string())?;
    Ok(Device::new(name).with_free_bytes(bytes))
}
