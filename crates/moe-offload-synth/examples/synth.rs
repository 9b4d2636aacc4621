//! Writes a model file in the shape of a published mixture-of-experts model, with random weights.
//!
//! ```text
//! cargo run --release --example synth -- --list
//! cargo run --release --example synth -- --arch mixtral-8x7b --layers 4 --out mixtral.gguf
//! ```

#[path = "../../../examples/common/mod.rs"]
mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use moe_offload::gguf::GgmlType;
use moe_offload::{Error, Result};
use moe_offload_synth::{self as synth, Family, Scale, SynthOptions};

/// Write a model file in the shape of a published model, with random weights.
#[derive(Parser)]
struct Arguments {
    /// Show the known models and stop
    #[arg(long, conflicts_with_all = OF_A_FILE)]
    list: bool,
    /// Show them as the Markdown table of README.md instead
    #[arg(long, requires = "list", conflicts_with_all = OF_A_FILE)]
    markdown: bool,
    /// Which model, by a name that --list shows
    #[arg(long, required_unless_present = "list")]
    arch: Option<String>,
    /// As published, or a small model of the same structure
    #[arg(long, value_enum, default_value_t = Size::Full)]
    scale: Size,
    /// This many layers instead
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    layers: Option<u32>,
    /// Experts of this type instead, such as `q4_K` or `f16`
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    experts_type: Option<GgmlType>,
    /// A vocabulary of this many tokens instead
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    vocab: Option<u32>,
    /// Another seed gives other weights
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = common::whole::<u64>)]
    seed: u64,
    /// Split the model over this many files
    #[arg(long, default_value_t = 1, allow_negative_numbers = true, value_parser = common::whole::<u16>)]
    shards: u16,
    /// Leave the weights out as a hole that takes no disk: enough to plan with
    #[arg(long, conflicts_with = "seed")]
    no_weights: bool,
    /// The file to write; none is replaced
    #[arg(long, required_unless_present = "list")]
    out: Option<PathBuf>,
}

/// What says how a file is written.
const OF_A_FILE: [&str; 9] =
    ["arch", "scale", "layers", "experts_type", "vocab", "seed", "shards", "no_weights", "out"];

#[derive(Clone, Copy, ValueEnum)]
enum Size {
    Full,
    Tiny,
}

fn main() {
    let arguments: Arguments = common::arguments_of_writer();
    let result = match (arguments.list, arguments.markdown) {
        (true, true) => markdown(),
        (true, false) => list(),
        _ => write(&arguments),
    };
    match result {
        Ok(text) => {
            let written = std::io::stdout().write_all(text.as_bytes());
            if let Err(error) = common::unless_closed(written) {
                common::fail(&format!("cannot write to standard output: {error}"));
            }
        }
        Err(error) => common::fail_by(&error),
    }
}

/// Writes the model and returns the paths of its files, one a line.
fn write(arguments: &Arguments) -> Result<String> {
    let (Some(arch), Some(out)) = (&arguments.arch, &arguments.out) else {
        return Ok(String::new()); // the parser requires both
    };
    let mut options = SynthOptions::default().seed(arguments.seed);
    options.scale = match arguments.scale {
        Size::Full => Scale::Full,
        Size::Tiny => Scale::Tiny,
    };
    options.layers = arguments.layers;
    options.expert_type = arguments.experts_type;
    options.vocab = arguments.vocab;

    let model = synth::family(arch)?.build(&options)?;
    // Of all its files, before the first is written.
    for path in synth::paths(out, arguments.shards) {
        if path.is_file() || path.is_dir() {
            return Err(Error::Io { action: "write", path, source: common::exists() });
        }
    }
    let paths = if arguments.no_weights {
        model.save_without_weights(out, arguments.shards)?
    } else {
        let bar = ProgressBar::new(model.tensor_bytes()).with_style(style());
        let paths = model.save(out, arguments.shards, |bytes| bar.inc(bytes))?;
        bar.finish_and_clear();
        paths
    };
    let mut text = String::new();
    for path in paths {
        let _ = writeln!(text, "{}", path.display());
    }
    Ok(text)
}

/// The table of known models.
fn list() -> Result<String> {
    let mut table = format!(
        "{:<22} {:>6} {:>10} {:>7} {:>6} {:>15} {:>9}  source\n",
        "name", "layers", "MoE layers", "experts", "active", "bytes", "size"
    );
    for family in synth::families() {
        let Family { name, source, experts, .. } = family;
        let bytes = family.build(&SynthOptions::default())?.file_bytes();
        let _ = writeln!(
            table,
            "{name:<22} {:>6} {:>10} {:>7} {:>6} {bytes:>15} {:>9}  {source}",
            family.blocks(),
            family.expert_layers(),
            experts.count,
            experts.active,
            human(bytes),
        );
    }
    Ok(table)
}

/// The same as README.md has it.
fn markdown() -> Result<String> {
    let mut table = String::from(
        "| `--arch` | architecture | layers | with experts | experts | active | size |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for family in synth::families() {
        let _ = writeln!(
            table,
            "| {} | `{}` | {} | {} | {} | {} | {} |",
            family.name,
            family.architecture,
            family.blocks(),
            family.expert_layers(),
            family.experts.count,
            family.experts.active,
            human(family.build(&SynthOptions::default())?.file_bytes()),
        );
    }
    Ok(table)
}

/// Gigabytes with one digit.
fn human(bytes: u64) -> String {
    let tenths = bytes.saturating_add(50_000_000) / 100_000_000;
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

fn parse_type(name: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(name).ok_or_else(|| format!("there is no type `{name}`"))
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes} {binary_bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
