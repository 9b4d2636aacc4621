//! Shows what a policy would do to a model. Needs no GPU and loads no weights. With the engine it asks that
//! whether it takes the file; without (`--no-default-features`) only this crate's own checks do.

mod common;
#[path = "common/template.rs"]
mod template;

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use moe_offload::gguf::GgmlType;
use moe_offload::memory::allocatable_bytes;
use moe_offload::plan::{CPU, DiskPlan, Overhead};
use moe_offload::{
    ChatTemplate, ContextOptions, Device, Error, GgufFile, OffloadPolicy, Plan, Result,
    TemplateOptions, preflight,
};

/// Shows what an offload policy would do to a model, without loading it.
///
/// Only the file's header is read, so this takes some tenths of a second for a model of any size. The status is 0
/// if the plan fits the memory that is known, 3 if it does not, and 1 for any other error, also where the engine
/// would refuse the file.
#[derive(Parser)]
struct Arguments {
    /// The model, a GGUF file; of a split model the first
    #[arg(long)]
    model: PathBuf,
    /// Where tensors go: none, all-experts, first-layers:N, last-layers:N, layers:0-3,7 or
    /// regex:PATTERN, each followed by =DEVICE, =cpu or =disk (=cpu is the default but for regex),
    /// joined by `;`, at the end fit, fit:BUDGET or fit:-MARGIN, with what it may give up and how
    /// much CPU memory it may use before experts stay on disk:
    /// fit:10GiB,cache-to-host,fewer-layers,smaller-context:2048,ram:24GiB
    #[arg(long, default_value_t, allow_hyphen_values = true)]
    policy: OffloadPolicy,
    /// Tokens that prompt and answer can have together; `auto`: more where `fit` has room
    #[arg(long, allow_negative_numbers = true)]
    context: Option<Open<Whole>>,
    /// Element type of the KV cache, such as f16, or `q8_0` for half the memory; `auto`: `fit`
    /// chooses
    #[arg(long, default_value = "f16")]
    kv_type: Open<KvType>,
    /// Tokens computed at once while a prompt is read; `auto`: `fit` chooses. Without it 512, and up to 2048 where
    /// experts are in CPU memory and a device reads prompts faster with more
    #[arg(long, allow_negative_numbers = true)]
    micro_batch: Option<Open<Whole>>,
    /// Tokens from which a device computes with experts in CPU memory; without it measured when the model is loaded
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    expert_offload_tokens: Option<u32>,
    /// Keep the KV cache in CPU memory
    #[arg(long, conflicts_with = "cpu_only")]
    cache_on_host: bool,
    /// A device with its free memory, such as CUDA0=24GiB, or a server's by its address, such as
    /// 10.0.0.2:50052=16GiB; may be repeated. `cpu=64GiB` is the CPU's memory. Default: under `fit`,
    /// which has to know the memory, this machine's CPU; else one `gpu` of any size
    #[arg(long, value_name = "NAME=BYTES", value_parser = device)]
    device: Vec<Device>,
    /// There is no device but the CPU, with the memory that this machine has now
    #[arg(long, conflicts_with = "device")]
    cpu_only: bool,
    /// Memory of a device to hold back for what it takes beside the model, such as CUDA0=300MiB, in place of
    /// what is known of its backend; 0B for none. May be repeated
    #[arg(long, value_name = "NAME=BYTES", value_parser = named_bytes, conflicts_with = "cpu_only")]
    overhead: Vec<(String, u64)>,
    /// CPU memory for experts that the policy leaves on disk, such as 8GiB; beside `ram:` the
    /// smaller one counts
    #[arg(long, value_name = "BYTES", value_parser = bytes, allow_hyphen_values = true)]
    expert_cache: Option<u64>,
    /// Bytes per second of the disk, such as 2GB: says how fast a model with experts on disk can be
    #[arg(long, value_name = "BYTES", value_parser = some_bytes, allow_hyphen_values = true)]
    #[arg(conflicts_with = "json")]
    disk_speed: Option<u64>,
    /// Print the plan as JSON, with every tensor
    #[arg(long)]
    json: bool,
    /// Store the plan, to load exactly by it later; no file is replaced
    #[arg(long, value_name = "FILE")]
    freeze: Option<PathBuf>,
}

/// The status of a plan that needs more memory than there is.
const DOES_NOT_FIT: i32 = 3;

fn main() {
    match run(common::arguments_of_writer()) {
        Ok(true) => {}
        Ok(false) => std::process::exit(DOES_NOT_FIT),
        Err(error @ (Error::DoesNotFit { .. } | Error::PagingBudget { .. })) => {
            common::fail_with(DOES_NOT_FIT, &common::words(&error))
        }
        Err(error) => common::fail_by(&error),
    }
}

/// Whether the plan fits.
fn run(arguments: Arguments) -> Result<bool> {
    let gguf = GgufFile::open(&arguments.model)?;
    // As `chat` does: what the engine would refuse needs no plan.
    preflight::check(&gguf)?;
    let mut context = ContextOptions::default();
    context.cache_on_host = arguments.cache_on_host;
    match arguments.context {
        Some(Open::Is(Whole(tokens))) => context.context_tokens = Some(tokens),
        Some(Open::Auto) => context.open.context_tokens = true,
        None => {}
    }
    match arguments.kv_type {
        Open::Is(KvType(kv_type)) => context.kv_type = kv_type,
        Open::Auto => context.open.kv_type = true,
    }
    match arguments.micro_batch {
        Some(Open::Is(Whole(tokens))) => {
            (context.micro_batch_tokens, context.micro_batch_grows) = (tokens, false);
        }
        Some(Open::Auto) => context.open.micro_batch_tokens = true,
        None => {}
    }
    context.expert_offload_tokens = arguments.expert_offload_tokens;
    let policy = arguments.policy;
    let (cpu, mut devices): (Vec<Device>, Vec<Device>) =
        arguments.device.into_iter().partition(|device| device.name.eq_ignore_ascii_case(CPU));
    let is_this_machine = devices.is_empty() && (arguments.cpu_only || policy.needs_free_memory());
    if devices.is_empty() && !is_this_machine {
        devices.push(Device::new("gpu"));
        eprintln!(
            "planned for an assumed device `gpu` of any size; name the real ones, as in --device gpu=12GiB, or \
             give --cpu-only"
        );
    }
    hold_back(arguments.overhead, &mut devices)?;
    if cpu.len() > 1 {
        common::fail(&"--device gives the memory of `cpu` twice; give it once");
    }
    let mut plan = policy.plan(&gguf, &devices, &context)?;
    #[cfg(feature = "llama")]
    {
        let builder = moe_offload::MoeModel::builder(&arguments.model);
        common::warn(&builder.dry_load()?);
        if is_this_machine {
            // Only the engine knows which weights its kernels rearrange, and allocates.
            match builder.local_devices(&[]).plan(plan.clone()).forecast() {
                // The plan itself shows what is missing.
                Err(Error::DoesNotFit { .. }) => {}
                exact => plan = exact?,
            }
        }
    }
    let told = cpu.first().and_then(|cpu| cpu.free_bytes);
    if let Some(bytes) = told.or_else(|| is_this_machine.then(allocatable_bytes)?) {
        plan = plan.with_cpu_memory(bytes);
    }
    if is_this_machine && !arguments.cpu_only && told.is_none() {
        eprintln!(
            "planned for this machine's CPU alone; name a device for another, as in --device gpu=12GiB"
        );
    }
    if let Some(bytes) = arguments.expert_cache {
        if plan.disk().is_none() {
            eprintln!("--expert-cache changes nothing: no experts are on disk (see --policy)");
        }
        plan = plan.with_expert_cache(bytes)?;
    }
    let has_experts = plan.devices().last().is_some_and(|cpu| cpu.expert_bytes > 0);
    if arguments.expert_offload_tokens.is_some() && !has_experts {
        eprintln!(
            "--expert-offload-tokens changes nothing: no experts are in CPU memory (see --policy)"
        );
    }
    if arguments.disk_speed.is_some() && plan.disk().is_none() {
        eprintln!("--disk-speed changes nothing: no experts are on disk (see --policy)");
    }
    common::warn(&preflight::warnings(&gguf, plan.context_tokens())?);
    template::warn_of_template(
        ChatTemplate::from_gguf(&gguf).as_ref(),
        &TemplateOptions::default(),
    );
    if let Some(path) = arguments.freeze {
        let json = serde_json::to_vec(&plan).expect("a plan is plain data");
        common::write_new(&path, &json).map_err(|source| Error::Io {
            action: "write",
            path,
            source,
        })?;
    }
    let path = "standard output".into();
    common::unless_closed(print(&plan, arguments.json, arguments.disk_speed))
        .map_err(|source| Error::Io { action: "write", path, source })?;
    Ok(plan.fits())
}

/// Gives the devices the overheads that were set by hand, one each.
fn hold_back(overheads: Vec<(String, u64)>, devices: &mut [Device]) -> Result<()> {
    let refused = |value: String, expected: &'static str| {
        Err(Error::InvalidOption { option: "device_overhead", value, expected })
    };
    let mut given = vec![None; devices.len()];
    for (name, bytes) in overheads {
        let shown = format!("{} of `{name}`", indicatif::HumanBytes(bytes));
        if name.eq_ignore_ascii_case(CPU) {
            return refused(shown, "of a device: of CPU memory nothing is held back");
        }
        let is_meant = |device: &Device| device.name.eq_ignore_ascii_case(&name);
        let Some(i) = devices.iter().position(is_meant) else {
            let known = devices.iter().map(|device| device.name.clone()).collect();
            return Err(Error::UnknownDevice { name, known });
        };
        devices[i].overhead = Overhead::Bytes(bytes);
        if let Some(first) = given[i].replace(shown.clone()) {
            return refused(format!("{first} and {shown}"), "given once for each device");
        }
    }
    Ok(())
}

fn print(plan: &Plan, json: bool, disk_speed: Option<u64>) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    if json {
        serde_json::to_writer(&mut out, plan)?;
        writeln!(out)?;
    } else {
        write!(out, "{plan}\n{}", plan.picture())?;
        if let (Some(speed), Some(disk)) = (disk_speed, plan.disk())
            && disk.token_bytes > 0
        {
            print_bounds(&mut out, speed, disk)?;
        }
    }
    out.flush()
}

/// Most tokens per second, by how many of the needed experts are in memory.
fn print_bounds(out: &mut impl Write, speed: u64, disk: &DiskPlan) -> std::io::Result<()> {
    #[allow(clippy::cast_precision_loss)] // a rate
    let most = |hit_rate| disk.tokens_per_second_at_most(speed as f64, hit_rate);
    if disk.even_hit_rate() == Some(1.0) {
        return writeln!(out, "\nnothing is read from disk while text is made: all fit in memory");
    }
    if let Some(even) = disk.even_hit_rate() {
        writeln!(out, "\nat most {:.2} tokens/s if routers chose evenly", most(even))?;
    }
    writeln!(
        out,
        "at most {:.2} tokens/s if half of what is needed is in memory, {:.2} if 9 of 10 are",
        most(0.5),
        most(0.9)
    )
}

fn bytes(text: &str) -> Result<u64, String> {
    moe_offload::plan::parse_bytes(text).map_err(|error| error.to_string())
}

fn some_bytes(text: &str) -> Result<u64, String> {
    bytes(text)
        .and_then(|bytes| if bytes > 0 { Ok(bytes) } else { Err("must be more than 0".into()) })
}

/// `NAME=BYTES`, the bytes with a unit such as `12GiB` or `12GB`.
fn named_bytes(text: &str) -> Result<(String, u64), String> {
    let (name, bytes) = text.rsplit_once('=').ok_or("write NAME=BYTES, as in CUDA0=24GiB")?;
    if name.contains([',', '=', ';']) {
        return Err("write one device, NAME=BYTES, and give the option again for another".into());
    }
    if let Some((host, port)) = name.rsplit_once(':').filter(|(host, _)| !host.is_empty())
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && !port.parse::<u16>().is_ok_and(|port| port > 0)
    {
        return Err(format!("the server {host} has no port `{port}`; ports go from 1 to 65535"));
    }
    Ok((name.to_owned(), self::bytes(bytes)?))
}

/// A device of the backend that its name begins with, as the engine's names do: `CUDA0`.
fn device(text: &str) -> Result<Device, String> {
    let (name, bytes) = named_bytes(text)?;
    let backend = name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    Ok(Device::new(name).of_backend(&backend).with_free_bytes(bytes))
}

/// A value, or `auto`.
#[derive(Clone)]
enum Open<T> {
    Is(T),
    Auto,
}

impl<T: FromStr> FromStr for Open<T>
where
    T::Err: ToString,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Is).map_err(|error: T::Err| error.to_string())
    }
}

#[derive(Clone)]
struct Whole(u32);

impl FromStr for Whole {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        common::whole(text).map(Self)
    }
}

#[derive(Clone)]
struct KvType(GgmlType);

impl FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        GgmlType::from_name(name).map(Self).ok_or_else(|| format!("there is no type `{name}`"))
    }
}
