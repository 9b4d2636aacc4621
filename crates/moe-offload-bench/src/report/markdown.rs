//! The report as Markdown.

use std::fmt::Write as _;

use moe_offload::DeviceMemory;
use moe_offload::plan::CPU;
use moe_offload::plan::human_bytes;
use moe_offload::tune::Summary;

use super::tables::Table;
use super::{OfAnswer, Report};
use crate::protocol::Setting;
use crate::record::SpeedRecord;

pub(super) fn write(report: &Report) -> String {
    let mut text = String::new();
    faults(report, &mut text);
    environment(report, &mut text);
    for group in report.groups() {
        let Setting { model, context_tokens, threads, micro_batch_tokens, .. } = &group;
        let _ = writeln!(
            text,
            "## {model}: context {context_tokens}, threads {threads}, micro-batch \
             {micro_batch_tokens}\n"
        );
        memory(report, &group, &mut text);
        speed(report, &group, &mut text);
        energy(report, &group, &mut text);
        quality(report, &group, &mut text);
        experts(report, &group, &mut text);
    }
    text
}

fn faults(report: &Report, text: &mut String) {
    if report.faults().is_empty() {
        return;
    }
    text.push_str("## Not to be believed\n\n");
    for fault in report.faults() {
        let _ = writeln!(text, "- {}", fault.to_string().replace('\n', " "));
    }
    text.push('\n');
}

fn environment(report: &Report, text: &mut String) {
    text.push_str("## Where\n\n");
    let Some(environment) = report.environment() else {
        text.push_str("Not recorded.\n\n");
        return;
    };
    let engine = &environment.engine;
    let lines = [
        ("crate", format!("{} ({})", environment.crate_version, environment.crate_build)),
        (
            "engine",
            format!("{}, ggml {} {}", engine.package, engine.ggml_version, engine.ggml_commit),
        ),
        ("engine's build", environment.engine_build.clone()),
        ("instructions", engine.system_info.trim().to_owned()),
        ("system", environment.system.clone()),
        ("processor", format!("{}, {} threads", environment.cpu, environment.cpu_threads)),
        ("memory", environment.memory_bytes.map_or("not known".into(), human_bytes)),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "- {name}: {value}");
    }
    for device in &environment.devices {
        let free = device.free_bytes.map_or("not known".into(), human_bytes);
        let (name, backend) = (&device.name, &device.backend);
        let _ = writeln!(text, "- device: {name} ({backend}), {free} free at the start");
    }
    if environment.devices.is_empty() {
        text.push_str("- device: none; policies that leave nothing on disk differ by chance\n");
    }
    text.push('\n');
    let mut table =
        Table::new(&["model", "architecture", "layers", "file", "experts", "fingerprint"]);
    for model in &environment.models {
        let summary = &model.summary;
        table.row([
            model.name.clone(),
            summary.architecture.clone(),
            summary.layers.to_string(),
            human_bytes(model.file_bytes),
            human_bytes(summary.expert_bytes),
            summary.fingerprint.clone(),
        ]);
    }
    table.write(text);
}

/// Memory by device, of the repetition that took most.
fn memory(report: &Report, group: &Setting, text: &mut String) {
    let mut table = Table::new(&[
        "memory",
        "device",
        "weights",
        "context",
        "compute",
        "together",
        "device's own account",
        "saved on devices",
    ]);
    let mut host = Table::new(&[
        "host memory",
        "mapped",
        "anonymous",
        "pinned",
        "peak of loading",
        "peak of answering",
    ]);
    for policy in &report.protocol.policies {
        let setting = group.under(policy);
        let speeds = report.of(&setting);
        let Some(most) = speeds.iter().max_by_key(|speed| speed.device_bytes()) else {
            let absence = report.absence(&setting);
            table.row([policy.to_string(), absence]);
            continue;
        };
        for memory in &most.memory {
            let is_last = memory.name == CPU;
            table.row(memory_row(policy.as_str(), memory).into_iter().chain([if is_last {
                report.saving(&setting).to_string()
            } else {
                String::new()
            }]));
        }
        host.row(host_row(policy.as_str(), &speeds));
    }
    table.write(text);
    if !host.is_empty() {
        host.write(text);
    }
}

fn memory_row(policy: &str, memory: &DeviceMemory) -> [String; 7] {
    [
        policy.to_owned(),
        memory.name.clone(),
        human_bytes(memory.weights_bytes),
        human_bytes(memory.context_bytes),
        human_bytes(memory.compute_bytes),
        human_bytes(memory.total_bytes()),
        memory.free_fell_bytes.map_or("-".into(), human_bytes),
    ]
}

fn host_row(policy: &str, speeds: &[&SpeedRecord]) -> [String; 6] {
    let hosts = speeds.iter().flat_map(|speed| &speed.memory).filter_map(|memory| memory.host);
    let hosts: Vec<_> = hosts.collect();
    let most = |figure: fn(&moe_offload::memory::HostMemory) -> u64| {
        hosts.iter().map(figure).max().map_or("-".to_owned(), human_bytes)
    };
    let peak = |figure: fn(&SpeedRecord) -> Option<u64>| {
        speeds.iter().filter_map(|speed| figure(speed)).max().map_or("-".to_owned(), human_bytes)
    };
    [
        policy.to_owned(),
        most(|host| host.mapped_bytes),
        most(|host| host.anonymous_bytes),
        most(|host| host.pinned_bytes),
        peak(|speed| speed.process.load_peak_bytes),
        peak(|speed| speed.process.answer_peak_bytes),
    ]
}

fn speed(report: &Report, group: &Setting, text: &mut String) {
    let mut table = Table::new(&[
        "speed",
        "prompt",
        "tokens",
        "n",
        "load s",
        "first token s",
        "prefill tokens/s",
        "to baseline",
        "decode tokens/s",
        "to baseline",
    ]);
    for policy in &report.protocol.policies {
        let setting = group.under(policy);
        let speeds = report.of(&setting);
        let Some(first) = speeds.first() else {
            table.row([policy.to_string(), report.absence(&setting)]);
            continue;
        };
        let loads: Vec<f64> = speeds.iter().map(|speed| speed.load_seconds).collect();
        for answer in &first.answers {
            let of =
                |figure: OfAnswer| shown(report.summary(&setting, &answer.prompt, figure).as_ref());
            let ratio = |figure: OfAnswer| {
                if *policy == report.protocol.baseline {
                    return "1".to_owned();
                }
                ratio(report.ratio(&setting, &answer.prompt, figure).as_ref())
            };
            table.row([
                policy.to_string(),
                answer.prompt.clone(),
                format!("{} + {}", answer.prompt_tokens, answer.answer_tokens),
                speeds.len().to_string(),
                shown(Summary::of(&loads).as_ref()),
                of(|answer| answer.first_token_seconds),
                of(|answer| answer.prefill_tokens_per_second),
                ratio(|answer| answer.prefill_tokens_per_second),
                of(|answer| answer.decode_tokens_per_second),
                ratio(|answer| answer.decode_tokens_per_second),
            ]);
        }
    }
    text.push_str(
        "Median (mean ± standard deviation); ratios: median of the pairs (least to greatest).\n\n",
    );
    table.write(text);
}

/// `12.3 (12.5 ± 0.4)`.
fn shown(summary: Option<&Summary>) -> String {
    let Some(summary) = summary else { return "-".to_owned() };
    let &Summary { median, mean, standard_deviation, .. } = summary;
    match standard_deviation {
        Some(deviation) => {
            format!("{} ({} ± {})", digits(median), digits(mean), digits(deviation))
        }
        None => digits(median),
    }
}

fn ratio(summary: Option<&Summary>) -> String {
    let Some(Summary { median, least, greatest, .. }) = summary else { return "-".to_owned() };
    format!("{median:.3} ({least:.3} to {greatest:.3})")
}

/// Three digits that count.
fn digits(value: f64) -> String {
    match value.abs() {
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        x if x >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn energy(report: &Report, group: &Setting, text: &mut String) {
    let mut table = Table::new(&["energy", "packages J", "GPUs J", "seconds"]);
    for policy in &report.protocol.policies {
        let speeds = report.of(&group.under(policy));
        let energies: Vec<_> = speeds.iter().filter_map(|speed| speed.energy.as_ref()).collect();
        if energies.is_empty() {
            continue;
        }
        let of = |figure: fn(&crate::Energy) -> Option<f64>| {
            let values: Vec<f64> = energies.iter().filter_map(|energy| figure(energy)).collect();
            shown(Summary::of(&values).as_ref())
        };
        table.row([
            policy.to_string(),
            of(|energy| energy.package_joules),
            of(|energy| energy.gpu_joules),
            of(|energy| Some(energy.seconds)),
        ]);
    }
    if table.is_empty() {
        text.push_str("Energy: the machine does not tell.\n\n");
    } else {
        table.write(text);
    }
}

fn quality(report: &Report, group: &Setting, text: &mut String) {
    let mut table = Table::new(&[
        "quality",
        "perplexity",
        "mean KL nats",
        "greatest KL nats",
        "bound",
        "top-1 agreement",
        "greedy agreement",
        "first difference",
    ]);
    for found in report.qualities() {
        if found.setting.under(&group.policy) != *group {
            continue;
        }
        let quality = &found.quality;
        let bound = found.kl_bound_nats.map_or("none known".into(), |bound| format!("{bound:.0e}"));
        let mut row = vec![found.setting.policy.to_string(), format!("{:.4}", quality.perplexity)];
        match &quality.against {
            None => row.push("baseline".to_owned()),
            Some(against) => row.extend([
                format!("{:.2e}", against.mean_kl_nats),
                format!("{:.2e}", against.greatest_kl_nats),
                bound,
                format!("{:.2} %", against.top_1_agreement * 100.0),
                format!("{:.2} %", against.greedy_agreement * 100.0),
                against.greedy_first_difference.map_or_else(
                    || format!("none in {}", quality.greedy_tokens),
                    |place| format!("token {place} of {}", quality.greedy_tokens),
                ),
            ]),
        }
        table.row(row);
    }
    if !table.is_empty() {
        table.write(text);
    }
}

fn experts(report: &Report, group: &Setting, text: &mut String) {
    for (_, counted) in report.expert_uses().filter(|(setting, _)| *setting == group) {
        if let Some((with, without)) = report.counting_seconds(group) {
            let _ = writeln!(
                text,
                "Counting experts: the same answers took {} s with it and {} s without, {} times as \
                 long. One load each.\n",
                digits(with),
                digits(without),
                digits(with / without)
            );
        }
        let mut table = Table::new(&["layer", "tokens", "entropy bits", "most chosen expert"]);
        for layer in counted.layers() {
            let chosen = counted.layer(layer).unwrap_or_default();
            let most = chosen.iter().enumerate().max_by_key(|(_, count)| **count);
            table.row([
                layer.to_string(),
                counted.tokens(layer).to_string(),
                counted.entropy_bits(layer).map_or("-".into(), |bits| format!("{bits:.3}")),
                most.map_or("-".into(), |(expert, count)| format!("{expert} ({count} times)")),
            ]);
        }
        table.write(text);
    }
}
