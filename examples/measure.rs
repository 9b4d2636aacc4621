//! Measures a model under several policies: memory, tokens per second, and what goes over the
//! network. See `--help`.

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Parser;
use moe_offload::{
    Device, GenerateOptions, MoeModel, MoeModelBuilder, OffloadPolicy, Plan, Result, RpcTraffic,
    Sampling, devices, rpc_traffic,
};
use serde_json::json;

/// The small model that comes with the repository.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");

/// Loads a model under one policy after another and prints a table: bytes of experts on the devices,
/// tokens per second, and for RPC servers bytes and round trips per token.
///
/// Without --policy these are none, all-experts, the first half of the layers, and fit at a quarter,
/// a half and three quarters of the way between the last two's needs: from all-experts to none.
#[derive(Parser)]
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
    #[arg(long, default_value_t = 512)]
    context: u32,
    /// Words of the prompt, about as many tokens
    #[arg(long, default_value_t = 100)]
    words: usize,
    /// Tokens to generate
    #[arg(long, default_value_t = 32)]
    tokens: u64,
    /// Threads that compute on the CPU
    #[arg(long)]
    threads: Option<u32>,
    /// Print one line of JSON per policy instead
    #[arg(long)]
    json: bool,
    /// Only list the devices
    #[arg(long)]
    devices: bool,
}

fn main() {
    let arguments: Arguments = common::arguments();
    if let Err(error) = run(&arguments) {
        common::fail(&error);
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    for endpoint in &arguments.rpc {
        moe_offload::connect_rpc(endpoint)?;
    }
    let there = devices()?;
    if arguments.devices {
        print(&list(&there, arguments.json));
        return Ok(());
    }
    let policies = match arguments.policy.as_slice() {
        [] => usual_policies(arguments, !there.is_empty())?,
        given => given.to_vec(),
    };
    let mut head = !arguments.json;
    for policy in policies {
        let row = measure(arguments, &policy)?;
        if std::mem::take(&mut head) {
            print(&row.head());
        }
        print(&if arguments.json { row.json() } else { row.line() });
    }
    Ok(())
}

fn list(devices: &[Device], json: bool) -> String {
    let mut text = String::new();
    for device in devices {
        if json {
            let _ = writeln!(text, "{}", json!(device));
            continue;
        }
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
    for endpoint in &arguments.rpc {
        builder = builder.rpc_server(endpoint);
    }
    builder
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
        let (low, high) = (fullest(&all), fullest(&forecast(&OffloadPolicy::None)?));
        for quarters in 1..=3 {
            let kib = (low + high.saturating_sub(low) / 4 * quarters).div_ceil(1 << 10);
            policies.push(format!("fit:{kib}KiB").parse()?);
        }
    }
    Ok(policies)
}

/// What was measured under one policy.
struct Row {
    policy: String,
    device_bytes: u64,
    expert_bytes: u64,
    holds: bool,
    prefill: Option<f64>,
    decode: Option<f64>,
    /// By server.
    traffic: Vec<Traffic>,
    text: String,
}

/// What goes to one server and back.
struct Traffic {
    endpoint: String,
    prompt: RpcTraffic,
    per_token: Option<PerToken>,
}

/// Of decoding.
struct PerToken {
    sent_bytes: f64,
    received_bytes: f64,
    round_trips: f64,
}

fn measure(arguments: &Arguments, policy: &OffloadPolicy) -> Result<Row> {
    let mut model = builder(arguments, policy).load()?;
    let prompt = "word ".repeat(arguments.words);
    let now = || -> Vec<RpcTraffic> {
        arguments.rpc.iter().map(|endpoint| rpc_traffic(endpoint).unwrap_or_default()).collect()
    };
    // The same prompt twice, once with one token and once with many: the difference is decoding.
    // In between another text, so that the prompt is computed both times.
    let mut generate = |tokens: u64| {
        let options = GenerateOptions::default().sampling(Sampling::greedy());
        let mut say = |prompt: &str, tokens| {
            model.generate(prompt, &options.clone().max_tokens(tokens))?.text()
        };
        say("x", 1)?;
        let before = now();
        let text = say(&prompt, tokens)?;
        let used: Vec<RpcTraffic> = std::iter::zip(before, now())
            .map(|(before, after)| difference(before, after))
            .collect();
        Ok::<_, moe_offload::Error>((text, used, model.stats()))
    };
    generate(2)?; // the first computation also builds graphs
    let (_, short, _) = generate(1)?;
    let (text, long, stats) = generate(arguments.tokens)?;
    let steps = stats.generated_tokens.saturating_sub(1);
    let traffic = std::iter::zip(&arguments.rpc, std::iter::zip(short, long))
        .map(|(endpoint, (short, long))| Traffic {
            endpoint: endpoint.clone(),
            prompt: short,
            per_token: (steps > 0).then(|| per_token(difference(short, long), steps)),
        })
        .collect();
    if !model.verify().holds() {
        eprintln!("{policy}: memory is not as planned\n{}", model.verify());
    }
    let devices = model.plan().devices().iter().rev().skip(1);
    Ok(Row {
        policy: policy.to_string(),
        device_bytes: devices.map(|device| device.total_bytes).sum(),
        expert_bytes: model.plan().expert_bytes_on_devices(),
        holds: model.verify().holds(),
        prefill: stats.prefill_tokens_per_second,
        decode: stats.decode_tokens_per_second,
        traffic,
        text,
    })
}

fn difference(before: RpcTraffic, after: RpcTraffic) -> RpcTraffic {
    let mut difference = RpcTraffic::default();
    difference.sent_bytes = after.sent_bytes.saturating_sub(before.sent_bytes);
    difference.received_bytes = after.received_bytes.saturating_sub(before.received_bytes);
    difference.round_trips = after.round_trips.saturating_sub(before.round_trips);
    difference.one_way_requests = after.one_way_requests.saturating_sub(before.one_way_requests);
    difference
}

#[allow(clippy::cast_precision_loss)] // far below 2^52
fn per_token(traffic: RpcTraffic, steps: u64) -> PerToken {
    let each = |all: u64| all as f64 / steps as f64;
    PerToken {
        sent_bytes: each(traffic.sent_bytes),
        received_bytes: each(traffic.received_bytes),
        round_trips: each(traffic.round_trips),
    }
}

impl Row {
    fn head(&self) -> String {
        let mut head = format!(
            "{:24} {:>12} {:>12} {:>8} {:>11} {:>11}",
            "policy", "devices MiB", "experts MiB", "as plan", "prefill t/s", "decode t/s"
        );
        if !self.traffic.is_empty() {
            let _ = write!(head, "  per token: sent B, received B, round trips of each server");
        }
        head + "\n"
    }

    fn line(&self) -> String {
        let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.2}"));
        let mut line = format!(
            "{:24} {:>12} {:>12} {:>8} {:>11} {:>11}",
            self.policy,
            self.device_bytes >> 20,
            self.expert_bytes >> 20,
            if self.holds { "yes" } else { "NO" },
            rate(self.prefill),
            rate(self.decode)
        );
        for traffic in &self.traffic {
            let _ = match &traffic.per_token {
                Some(PerToken { sent_bytes, received_bytes, round_trips }) => {
                    write!(line, "  {sent_bytes:>9.0} {received_bytes:>9.0} {round_trips:>6.1}")
                }
                None => write!(line, "  {:>9} {:>9} {:>6}", "-", "-", "-"),
            };
        }
        line + "\n"
    }

    fn json(&self) -> String {
        let servers: Vec<_> = self
            .traffic
            .iter()
            .map(|traffic| {
                let per_token = traffic.per_token.as_ref().map(|each| {
                    json!({
                        "sent_bytes": each.sent_bytes,
                        "received_bytes": each.received_bytes,
                        "round_trips": each.round_trips,
                    })
                });
                json!({ "endpoint": traffic.endpoint, "prompt": traffic.prompt, "per_token": per_token })
            })
            .collect();
        let row = json!({
            "policy": self.policy,
            "device_bytes": self.device_bytes,
            "expert_bytes": self.expert_bytes,
            "as_planned": self.holds,
            "prefill_tokens_per_second": self.prefill,
            "decode_tokens_per_second": self.decode,
            "servers": servers,
            "text": self.text,
        });
        format!("{row}\n")
    }
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
