//! `--contract`: `fit` in little memory, with prompts to the context's end.

use moe_offload::OffloadPolicy;
use serde_json::Value;

use super::runs::{self, Failure, Setting, figure, mib, on_devices};
use super::{Arguments, common, print};

const CONTEXT: u32 = 4096;
/// So many tokens of the context are generated, the others are the prompt.
const ANSWER_TOKENS: u32 = 32;
const FREE_GIB: [u64; 4] = [1, 2, 4, 8];
/// Micro-batches, and types of the cache: one that is not f16 is turned into it for attention.
const SIZES: [(u32, &str); 3] = [(512, "f16"), (2048, "f16"), (2048, "q8_0")];

pub(super) fn run(arguments: &Arguments) -> moe_offload::Result<()> {
    let held = arguments.holder.is_some();
    let what = if held { "free, the rest held by another process" } else { "budget" };
    print(&format!(
        "| GiB ({what}) | micro-batch | cache | outcome | planned MiB | of it overhead | left by the plan | free \
         at the end | process's GPU MiB | tokens | prefill tokens/s | decode tokens/s |\n\
         | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    ));
    let (mut all, mut broken, mut unfit, mut most_left) = (0, 0, 0, 0);
    let mut has_device = false;
    for gib in FREE_GIB {
        for (micro_batch, kv_type) in SIZES {
            let bytes = gib << 30;
            let policy =
                if held { OffloadPolicy::default() } else { format!("fit:{bytes}B").parse()? };
            let setting = Setting {
                policy,
                micro_batch: Some(micro_batch),
                kv_type: Some(kv_type),
                context: CONTEXT,
                prompt_tokens: CONTEXT - ANSWER_TOKENS,
                to_the_end: true,
                leave_free: Some(bytes),
                ..Setting::default()
            };
            let row = runs::measure(arguments, &setting);
            all += 1;
            has_device |= row.as_ref().map_or(true, is_on_device);
            match &row {
                Ok(row) if has_experts_outside(row) => {
                    most_left = most_left.max(left_by_plan(row, bytes).unwrap_or(0));
                }
                Ok(_) => {}
                Err(failure) if failure.does_not_fit => unfit += 1,
                Err(_) => broken += 1,
            }
            print(&line(gib, micro_batch, kv_type, &row, bytes));
        }
    }
    print(&format!(
        "\n{all} loads: {broken} failed while loading or computing, {unfit} were refused before (they do not fit). \
         At most {} MiB were left by a plan that put experts on the CPU.\n",
        mib(Some(most_left))
    ));
    if !has_device {
        common::fail(&"nothing was checked: there is no device but the CPU");
    }
    if broken > 0 {
        common::fail(&format!("{broken} of {all} loads did not keep the contract"));
    }
    Ok(())
}

/// Whether its plan had a device.
fn is_on_device(row: &Value) -> bool {
    row["planned"].as_array().is_some_and(|devices| devices.len() > 1)
}

/// Otherwise there was nothing to fill the memory with.
fn has_experts_outside(row: &Value) -> bool {
    let cpu = row["planned"].as_array().and_then(|devices| devices.last());
    cpu.is_some_and(|cpu| cpu["expert_bytes"].as_u64() > Some(0))
}

/// Bytes of the limit that nothing was planned for.
fn left_by_plan(row: &Value, limit: u64) -> Option<u64> {
    let free = on_devices(row, "free_bytes").unwrap_or(limit).min(limit);
    Some(free.saturating_sub(on_devices(row, "total_bytes")?))
}

/// What the plan holds back for what the device takes beside weights, cache and compute buffers.
fn overhead(row: &Value) -> Option<u64> {
    row["planned"].as_array()?.first()?["overhead_bytes"].as_u64()
}

fn line(
    gib: u64,
    micro_batch: u32,
    kv_type: &str,
    row: &Result<Value, Failure>,
    limit: u64,
) -> String {
    let start = format!("| {gib} | {micro_batch} | {kv_type} ");
    let row = match row {
        Ok(row) => row,
        Err(failure) => return format!("{start}| {} {}\n", failure.reason, "| ".repeat(9)),
    };
    let after = row["devices_after"].as_array().and_then(|devices| devices.first());
    let tokens = [&row["prompt_tokens"], &row["generated_tokens"]].map(|n| n.as_u64().unwrap_or(0));
    format!(
        "{start}| computed | {} | {} | {} | {} | {} | {} + {} | {} | {} |\n",
        mib(on_devices(row, "total_bytes")),
        mib(overhead(row)),
        mib(left_by_plan(row, limit)),
        mib(after.and_then(|device| device["free_bytes"].as_u64())),
        mib(row["process_gpu_bytes"].as_u64()),
        tokens[0],
        tokens[1],
        figure(row, "prefill_tokens_per_second", 0),
        figure(row, "decode_tokens_per_second", 1),
    )
}
