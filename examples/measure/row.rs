//! One load under one policy, measured.

use std::fmt::Write as _;

use moe_offload::{
    GenerateOptions, MoeModel, OffloadPolicy, Result, RpcTraffic, Sampling, devices, rpc_traffic,
};
use serde_json::{Value, json};

use super::{Arguments, builder, gpu_memory};

/// What was measured under one policy.
pub(super) struct Row {
    policy: String,
    device_bytes: u64,
    expert_bytes: u64,
    holds: bool,
    prefill: Option<f64>,
    decode: Option<f64>,
    /// By server.
    traffic: Vec<Traffic>,
    /// What only the line of JSON has.
    more: Value,
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

pub(super) fn measure(arguments: &Arguments, policy: &OffloadPolicy) -> Result<Row> {
    let mut model = builder(arguments, policy).load()?;
    let prompt = prompt(arguments, &model)?;
    let now = || -> Vec<RpcTraffic> {
        arguments.rpc.iter().map(|endpoint| rpc_traffic(endpoint).unwrap_or_default()).collect()
    };
    // In between another text, so that the prompt is computed each time.
    let mut generate = |tokens: Option<u64>| {
        let mut options = GenerateOptions::default().sampling(Sampling::greedy());
        model.generate("x", &options.clone().max_tokens(1))?.text()?;
        options.max_tokens = tokens;
        let before = now();
        let text = model.generate(&prompt, &options)?.text()?;
        let used: Vec<RpcTraffic> = std::iter::zip(before, now())
            .map(|(before, after)| difference(before, after))
            .collect();
        Ok::<_, moe_offload::Error>((text, used, model.stats()))
    };
    generate(Some(2))?; // the first computation also reads mapped pages and builds graphs
    // The same prompt with one token and with many: the difference is decoding.
    let short = if arguments.rpc.is_empty() { Vec::new() } else { generate(Some(1))?.1 };
    let (text, long, stats) = generate((!arguments.to_the_end).then_some(arguments.tokens))?;
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
    let plan = model.plan();
    let more = json!({
        "text": text,
        "load_mode": arguments.load_mode.map(|mode| mode.to_string()),
        "micro_batch_tokens": plan.context().micro_batch_tokens,
        "load_seconds": stats.load_seconds,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "planned": plan.devices(),
        "devices_after": devices()?,
        "process_gpu_bytes": gpu_memory::of_this_process(),
    });
    Ok(Row {
        policy: policy.to_string(),
        device_bytes: plan.devices().iter().rev().skip(1).map(|device| device.total_bytes).sum(),
        expert_bytes: plan.expert_bytes_on_devices(),
        holds: model.verify().holds(),
        prefill: stats.prefill_tokens_per_second,
        decode: stats.decode_tokens_per_second,
        traffic,
        more,
    })
}

/// A text of about as many tokens as are asked for.
fn prompt(arguments: &Arguments, model: &MoeModel) -> Result<String> {
    let text = |words| "word ".repeat(words);
    let Some(tokens) = arguments.prompt_tokens else { return Ok(text(arguments.words)) };
    let some = 200;
    let words = tokens * some / model.count_tokens(&text(some))?.max(1);
    // What is added at the beginning counts too.
    let surplus = model.count_tokens(&text(words))?.saturating_sub(tokens);
    Ok(text(words.saturating_sub(surplus).max(1)))
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
    pub(super) fn head(&self) -> String {
        let mut head = format!(
            "{:24} {:>12} {:>12} {:>8} {:>11} {:>11}",
            "policy", "devices MiB", "experts MiB", "as plan", "prefill t/s", "decode t/s"
        );
        if !self.traffic.is_empty() {
            let _ = write!(head, "  per token: sent B, received B, round trips of each server");
        }
        head + "\n"
    }

    pub(super) fn line(&self) -> String {
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

    pub(super) fn json(&self) -> String {
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
        let mut row = json!({
            "policy": self.policy,
            "device_bytes": self.device_bytes,
            "expert_bytes": self.expert_bytes,
            "as_planned": self.holds,
            "prefill_tokens_per_second": self.prefill,
            "decode_tokens_per_second": self.decode,
            "servers": servers,
        });
        if let (Value::Object(row), Value::Object(more)) = (&mut row, &self.more) {
            row.extend(more.clone());
        }
        format!("{row}\n")
    }
}
