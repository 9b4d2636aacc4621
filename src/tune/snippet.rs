//! What was found, as lines of a program and of a shell.

use super::candidate::Candidate;
use super::tuning::Tuning;
use crate::OffloadPolicy;
use crate::policy::{Fit, FitLimit};

impl Tuning {
    /// What to use as lines of a program and as arguments of the example `chat`: the chosen setting with
    /// the context, servers and budget that it was found for.
    pub fn snippet(&self) -> String {
        format!("{}\n{}", self.program(), self.command())
    }

    fn program(&self) -> String {
        let Candidate { policy, threads, micro_batch_tokens, load_mode, operation_offload } =
            self.chosen();
        let (policy, load_mode) = (policy.to_string(), load_mode.to_string());
        let mut calls = vec![
            format!("policy({policy:?}.parse()?)"),
            format!("threads({threads})"),
            format!("micro_batch_tokens({micro_batch_tokens})"),
            format!("load_mode({load_mode:?}.parse()?)"),
            format!("operation_offload({operation_offload})"),
            format!("context_tokens({})", self.key.context_tokens),
        ];
        calls.extend(self.key.rpc_servers.iter().map(|server| format!("rpc_server({server:?})")));
        if let Some(bytes) = self.key.budget_bytes {
            let devices = self.key.environment.devices.iter();
            calls
                .extend(devices.map(|device| format!("device_budget({:?}, {bytes})", device.name)));
        }
        calls.push("load()?;".to_owned());
        format!("let model = MoeModel::builder(path)\n    .{}\n", calls.join("\n    ."))
    }

    fn command(&self) -> String {
        let Candidate { policy, threads, micro_batch_tokens, load_mode, operation_offload } =
            self.chosen();
        let policy = match self.key.budget_bytes {
            Some(bytes) => within(policy, bytes),
            None => policy.clone(),
        };
        let mut arguments = vec![
            format!("--policy '{policy}' --threads {threads} --micro-batch {micro_batch_tokens}"),
            format!("--load-mode {load_mode} --context {}", self.key.context_tokens),
        ];
        if !operation_offload {
            arguments.push("--no-operation-offload".to_owned());
        }
        arguments.extend(self.key.rpc_servers.iter().map(|server| format!("--rpc {server}")));
        format!("cargo run --release --example chat -- --model FILE {}\n", arguments.join(" "))
    }
}

/// The policy with the budget as its own, where it has a use for one.
fn within(policy: &OffloadPolicy, bytes: u64) -> OffloadPolicy {
    let rules = policy.rules().iter().cloned().map(|rule| match rule {
        OffloadPolicy::Fit(fit) => {
            let limit = match fit.limit {
                FitLimit::Free => FitLimit::Budget(bytes),
                FitLimit::Budget(own) => FitLimit::Budget(own.min(bytes)),
                margin @ FitLimit::Margin(_) => margin,
            };
            OffloadPolicy::Fit(Fit { limit, ..fit })
        }
        other => other,
    });
    rules.fold(OffloadPolicy::None, OffloadPolicy::then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_the_policy_s_own() {
        let text = |policy: &str| within(&policy.parse().unwrap(), 1 << 30).to_string();
        assert_eq!(text("fit"), "fit:1GiB");
        assert_eq!(text("fit:2GiB,cache-to-host"), "fit:1GiB,cache-to-host");
        assert_eq!(text("layers:0;fit:512MiB"), "layers:0;fit:512MiB");
        assert_eq!(text("none"), "none");
        assert_eq!(text("all-experts"), "all-experts");
    }
}
