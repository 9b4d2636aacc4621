//! `--quick`: the table of docs/gpu.md.

use std::fmt::Write as _;

use moe_offload::{ExpertMap, GgufFile, OffloadPolicy};
use serde_json::Value;

use super::runs::{self, Failure, Setting, figure, mib, on_devices};
use super::{Arguments, between, gpu_memory, print};

const CONTEXT: u32 = 4096;
const PROMPT_TOKENS: u32 = 2000;
/// What this crate did before it knew better, which shows what the defaults gain: experts mapped, and the
/// engine's own micro-batch.
const PLAIN: usize = 1;

pub(super) fn run(arguments: &Arguments) -> moe_offload::Result<()> {
    print(&heading(arguments)?);
    print(
        "| policy | load mode | micro-batch | prefill tokens/s | of `none` | of mapped, 512 | decode tokens/s \
         | of `none` | of mapped, 512 | load s | planned MiB | process's GPU MiB | of `none` |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let mut rows = Vec::new();
    let mut measure = |setting: &Setting| {
        let row = runs::measure(arguments, setting);
        rows.push(row.as_ref().ok().cloned().unwrap_or_default());
        print(&line(setting, &row, &rows));
        rows.last().and_then(|row| on_devices(row, "total_bytes"))
    };
    let settings = extremes();
    let planned: Vec<Option<u64>> = settings.iter().map(&mut measure).collect();
    let policies = match (planned[planned.len() - 1], planned[0]) {
        (Some(0), _) => Vec::new(), // there is no device
        (Some(low), Some(high)) => between(low, high, 3)?,
        _ => vec![OffloadPolicy::default()],
    };
    for policy in policies {
        measure(&setting(policy, None, None));
    }
    Ok(())
}

fn setting(
    policy: OffloadPolicy,
    load_mode: Option<&'static str>,
    micro_batch: Option<u32>,
) -> Setting {
    let (context, prompt_tokens) = (CONTEXT, PROMPT_TOKENS);
    Setting { policy, load_mode, micro_batch, context, prompt_tokens, ..Setting::default() }
}

/// All on the device, and all experts in CPU memory in five ways.
fn extremes() -> [Setting; 6] {
    let all = |mode, micro_batch| setting(OffloadPolicy::AllExperts, mode, micro_batch);
    [
        setting(OffloadPolicy::None, None, None),
        all(Some("mapped"), Some(512)),
        all(Some("mapped"), Some(2048)),
        all(Some("read"), Some(512)),
        all(Some("read"), Some(2048)),
        all(None, None),
    ]
}

/// The machine and the model, without the engine.
fn heading(arguments: &Arguments) -> moe_offload::Result<String> {
    let mut text = String::new();
    let said = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = said.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpu = cpu.map_or(std::env::consts::ARCH, |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let _ = writeln!(text, "- CPU: {cpu}, {cores} threads");
    for card in gpu_memory::cards() {
        let _ = writeln!(text, "- GPU: {card}");
    }
    let gguf = GgufFile::open(&arguments.model)?;
    let all: u64 = gguf.tensors().iter().map(|tensor| tensor.bytes).sum();
    let name = arguments.model.file_name().unwrap_or_default().to_string_lossy();
    let experts = ExpertMap::new(&gguf)?;
    let experts = experts.tensors().iter().filter(|tensor| tensor.kind.is_expert());
    let experts: u64 = experts.map(|tensor| tensor.bytes).sum();
    let (all, experts) = (mib(Some(all)), mib(Some(experts)));
    let _ = writeln!(text, "- model: {name}, {all} MiB of weights, {experts} MiB of them experts");
    let threads = arguments.threads.map_or("the default".to_owned(), |n| n.to_string());
    let (answer, version) = (arguments.tokens, env!("CARGO_PKG_VERSION"));
    let _ = writeln!(
        text,
        "- context {CONTEXT}, prompt about {PROMPT_TOKENS} tokens, answer {answer}, CPU threads {threads}; \
         crate {version}\n"
    );
    Ok(text)
}

fn line(setting: &Setting, row: &Result<Value, Failure>, rows: &[Value]) -> String {
    let mode = setting.load_mode.unwrap_or("default");
    let policy = &setting.policy;
    let row = match row {
        Ok(row) => row,
        Err(Failure { reason, .. }) => {
            let asked = setting.micro_batch.map_or("default".to_owned(), |n| n.to_string());
            return format!("| `{policy}` | {mode} | {asked} | {reason} {}\n", "| ".repeat(10));
        }
    };
    let micro_batch = match setting.micro_batch {
        Some(tokens) => tokens.to_string(),
        None => format!("default: {}", figure(row, "micro_batch_tokens", 0)),
    };
    let (prefill, decode, memory) =
        ("prefill_tokens_per_second", "decode_tokens_per_second", "process_gpu_bytes");
    let of = |key: &str, other: usize| match (row[key].as_f64(), rows.get(other)) {
        (Some(own), Some(other)) => {
            other[key].as_f64().map_or("–".to_owned(), |other| format!("{:.2}", own / other))
        }
        _ => "–".to_owned(),
    };
    format!(
        "| `{policy}` | {mode} | {micro_batch} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        figure(row, prefill, 0),
        of(prefill, 0),
        of(prefill, PLAIN),
        figure(row, decode, 1),
        of(decode, 0),
        of(decode, PLAIN),
        figure(row, "load_seconds", 1),
        mib(on_devices(row, "total_bytes")),
        mib(row[memory].as_u64()),
        of(memory, 0),
    )
}
