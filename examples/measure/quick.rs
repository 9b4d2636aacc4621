//! `--quick`: the table of docs/gpu.md.

use std::fmt::Write as _;

use moe_offload::{OffloadPolicy, devices};
use serde_json::Value;

use super::runs::{self, Failure, Setting, figure, mib, on_devices};
use super::{Arguments, between, builder, gpu_memory, print};

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
    for setting in settings(arguments)? {
        let row = runs::measure(arguments, &setting);
        rows.push(row.as_ref().ok().cloned().unwrap_or_default());
        print(&line(&setting, &row, &rows));
    }
    Ok(())
}

/// All on the device, all experts in CPU memory in five ways, and two steps in between.
fn settings(arguments: &Arguments) -> moe_offload::Result<Vec<Setting>> {
    let with = |policy: &OffloadPolicy, load_mode, micro_batch| Setting {
        policy: policy.clone(),
        load_mode,
        micro_batch,
        context: CONTEXT,
        prompt_tokens: PROMPT_TOKENS,
        ..Setting::default()
    };
    let (none, all) = (OffloadPolicy::None, OffloadPolicy::AllExperts);
    let mut settings = vec![
        with(&none, None, None),
        with(&all, Some("mapped"), Some(512)),
        with(&all, Some("mapped"), Some(2048)),
        with(&all, Some("read"), Some(512)),
        with(&all, Some("read"), Some(2048)),
        with(&all, None, None),
    ];
    let plan = |policy| builder(arguments, policy).context_tokens(CONTEXT).forecast();
    if !devices()?.is_empty() {
        let steps = between(&plan(&all)?, &plan(&none)?, 3)?;
        settings.extend(steps.iter().map(|policy| with(policy, None, None)));
    }
    Ok(settings)
}

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
    for device in devices()? {
        let _ = writeln!(
            text,
            "- device: {} ({}), {} of {} MiB free",
            device.name,
            device.description,
            mib(device.free_bytes),
            mib(device.total_bytes)
        );
    }
    let plan =
        builder(arguments, &OffloadPolicy::AllExperts).context_tokens(CONTEXT).make_plan()?;
    let all: u64 = plan.devices().iter().map(|device| device.weights_bytes).sum();
    let experts = plan.model().expert_bytes;
    let _ = writeln!(
        text,
        "- model: {}, {} MiB of weights, {} MiB of them experts",
        arguments.model.file_name().unwrap_or_default().to_string_lossy(),
        mib(Some(all)),
        mib(Some(experts))
    );
    let threads = arguments.threads.map_or("the default".to_owned(), |n| n.to_string());
    let _ = writeln!(
        text,
        "- context {CONTEXT}, prompt about {PROMPT_TOKENS} tokens, answer {}, CPU threads {threads}; crate {}\n",
        arguments.tokens,
        env!("CARGO_PKG_VERSION")
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
