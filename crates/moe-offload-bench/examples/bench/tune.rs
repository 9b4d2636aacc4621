//! `bench tune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use moe_offload::tune::{Outcome, Purpose, TuneProgress, Tuner};
use moe_offload::{CancelHandle, MoeModel, OffloadPolicy, Result};

use crate::common::say;

/// Each trial loads the model and answers a few times. What is fastest is then measured against the
/// defaults in turn, and recommended only if it wins every time. Leave the machine alone meanwhile.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The model, a GGUF file. Default: the demo model
    #[arg(long, default_value_os_t = super::demo(), hide_default_value = true)]
    model: PathBuf,
    /// Tokens of the prompt to be fast with
    #[arg(long, default_value_t = 512, value_name = "TOKENS", allow_negative_numbers = true, value_parser = crate::common::whole::<u32>)]
    prompt_tokens: u32,
    /// Tokens of the answer to be fast with
    #[arg(long, default_value_t = 64, value_name = "TOKENS", allow_negative_numbers = true, value_parser = crate::common::whole::<u32>)]
    answer_tokens: u32,
    /// Tokens of the context
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = crate::common::whole::<u32>)]
    context: Option<u32>,
    /// Memory that may be used of each device, such as 10GiB. Default: all that is free
    #[arg(long, value_parser = moe_offload::plan::parse_bytes, allow_hyphen_values = true)]
    budget: Option<u64>,
    /// A policy to try; may be repeated. Default: fit, none, all-experts, and half of the layers
    #[arg(long = "policy")]
    policies: Vec<OffloadPolicy>,
    /// Use the devices of this RPC server; may be repeated
    #[arg(long = "rpc", value_name = "HOST:PORT")]
    rpc_servers: Vec<String>,
    /// Longest time of it all
    #[arg(long, default_value_t = 10.0, value_parser = minutes, allow_negative_numbers = true)]
    minutes: f64,
    /// Keep the answer in this file, and take it from there the next time
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Measure even if the file holds the answer
    #[arg(long, requires = "cache")]
    again: bool,
    /// Print all that was found as JSON
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, &'static str> {
    let number: Option<f64> = text.parse().ok();
    let is_time = |number: &f64| number.is_finite() && *number >= 0.0;
    number.filter(is_time).ok_or("a number of minutes, at least 0, is needed")
}

/// What to print.
pub(crate) fn run(arguments: &Arguments) -> Result<String> {
    let cancel = CancelHandle::new();
    let by_hand = cancel.clone();
    // Without a handler Ctrl-C just ends the program.
    let _ = ctrlc::set_handler(move || by_hand.cancel());
    let knows_devices = arguments.rpc_servers.is_empty();
    if arguments.budget.is_some() && knows_devices && moe_offload::devices()?.is_empty() {
        say(&"--budget changes nothing: there is no device but the CPU (--rpc HOST:PORT adds one)");
    }
    let minutes = arguments.minutes.min(1e6);
    let mut tuner = MoeModel::tune(&arguments.model)
        .answers(arguments.prompt_tokens, arguments.answer_tokens)
        .time_limit(Duration::from_secs_f64(minutes * 60.0))
        .measure_again(arguments.again)
        .cancel(&cancel);
    if let Some(context) = arguments.context {
        tuner = tuner.context_tokens(context);
    }
    if let Some(budget) = arguments.budget {
        tuner = tuner.budget_bytes(budget);
    }
    if let Some(cache) = &arguments.cache {
        tuner = tuner.cache(cache);
    }
    tuner = arguments.policies.iter().cloned().fold(tuner, Tuner::policy);
    tuner = arguments.rpc_servers.iter().fold(tuner, Tuner::rpc_server);
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("is valid");
    bar.set_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    let shown = bar.clone();
    let tuning = tuner.on_progress(move |progress| show(&shown, progress, minutes)).run();
    bar.finish_and_clear();
    let tuning = tuning?;
    if arguments.json {
        return Ok(serde_json::to_string_pretty(&tuning).expect("plain data"));
    }
    Ok(tuning.to_string())
}

fn show(bar: &ProgressBar, progress: &TuneProgress<'_>, minutes: f64) {
    let candidate = &progress.attempt.candidate;
    let of = match progress.attempt.purpose {
        Purpose::Search => format!("trial {}", progress.number),
        Purpose::Check(pair) => format!("check {pair}"),
    };
    match progress.measured.map(|measured| &measured.outcome) {
        None => bar.set_message(format!("of at most {minutes} min; {of}: {candidate}")),
        Some(Outcome::Measured(figures)) => {
            bar.println(format!("{of:8} {:9.3} s  {candidate}", figures.answer_seconds));
        }
        Some(Outcome::Failed { reason, .. }) => {
            bar.println(format!("{of:8}  {candidate}: {}", reason.replace('\n', " ")));
        }
    }
}
