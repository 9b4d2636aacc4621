//! This program again, one load in a process of its own: what one leaves behind is not counted to the next,
//! and the end of one is not that of all.

use std::process::Command;

use moe_offload::OffloadPolicy;
use serde_json::Value;

use super::{Arguments, DOES_NOT_FIT};

/// One load to measure; what is `None` is left to the library.
#[derive(Clone, Debug, Default)]
pub(super) struct Setting {
    pub(super) policy: OffloadPolicy,
    pub(super) load_mode: Option<&'static str>,
    pub(super) micro_batch: Option<u32>,
    pub(super) kv_type: Option<&'static str>,
    pub(super) context: u32,
    pub(super) prompt_tokens: u32,
    pub(super) to_the_end: bool,
    pub(super) leave_free: Option<u64>,
}

/// Why there is no row.
#[derive(Debug)]
pub(super) struct Failure {
    /// It was said before anything was loaded.
    pub(super) does_not_fit: bool,
    /// What the program said, in one line, fit for a table.
    pub(super) reason: String,
}

impl Failure {
    fn new(does_not_fit: bool, reason: &str) -> Self {
        Self { does_not_fit, reason: reason.replace('|', "/") }
    }
}

/// Measures it; the row of JSON.
pub(super) fn measure(arguments: &Arguments, setting: &Setting) -> Result<Value, Failure> {
    let unstarted = |error: std::io::Error| Failure::new(false, &error.to_string());
    let program = std::env::current_exe().map_err(unstarted)?;
    let mut command = Command::new(program);
    command.arg("--json").arg("--model").arg(&arguments.model);
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command.arg(format!("--{name}={value}"));
        }
    };
    option("policy", Some(setting.policy.to_string()));
    option("context", Some(setting.context.to_string()));
    option("prompt-tokens", Some(setting.prompt_tokens.to_string()));
    option("tokens", (!setting.to_the_end).then(|| arguments.tokens.to_string()));
    option("threads", arguments.threads.map(|threads| threads.to_string()));
    option("load-mode", setting.load_mode.map(str::to_owned));
    option("micro-batch", setting.micro_batch.map(|tokens| tokens.to_string()));
    option("kv-type", setting.kv_type.map(str::to_owned));
    for server in &arguments.rpc {
        option("rpc", Some(server.clone()));
    }
    if let Some((holder, bytes)) = arguments.holder.as_ref().zip(setting.leave_free) {
        option("holder", Some(holder.display().to_string()));
        option("leave-free", Some(format!("{bytes}B")));
    }
    if setting.to_the_end {
        command.arg("--to-the-end");
    }
    let output = command.output().map_err(unstarted)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    if let (true, Ok(row)) = (output.status.success(), serde_json::from_slice(&output.stdout)) {
        return Ok(row);
    }
    let reason = format!("{}: {}", output.status, last.trim_start_matches("error: "));
    Err(Failure::new(output.status.code() == Some(DOES_NOT_FIT), &reason))
}

/// A figure of a row with so many digits, or a dash.
pub(super) fn figure(row: &Value, key: &str, digits: usize) -> String {
    row[key].as_f64().map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

/// Bytes as MiB.
pub(super) fn mib(bytes: Option<u64>) -> String {
    bytes.map_or("–".to_owned(), |bytes| (bytes >> 20).to_string())
}

/// The sum of a field over a plan's devices, without the CPU, which comes last.
pub(super) fn on_devices(row: &Value, key: &str) -> Option<u64> {
    let (_cpu, devices) = row["planned"].as_array()?.split_last()?;
    devices.iter().map(|device| device[key].as_u64()).sum()
}
