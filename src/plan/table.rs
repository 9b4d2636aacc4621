//! A plan as a table for people.

use std::fmt;

use super::bytes::human_bytes;
use super::{NOT_LOADED, Plan};

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        writeln!(f, "policy   {}", self.policy)?;
        write!(f, "model    {}, {}", model.architecture, plural(u64::from(model.layers), "layer"))?;
        if model.expert_layers > 0 {
            write!(f, " ({} with experts)", model.expert_layers)?;
        }
        if let (Some(experts), Some(active)) = (model.experts, model.active_experts) {
            write!(f, ", {experts} experts, {active} used per token")?;
        }
        writeln!(f, ", {}", human_bytes(model.tensor_bytes))?;
        let context = &self.context;
        writeln!(
            f,
            "context  {} tokens, {} at once, cache in {}",
            self.context_tokens(),
            context.computed_at_once(),
            context.kv_type
        )?;
        writeln!(f)?;
        self.fmt_devices(f)?;
        self.fmt_rules(f)
    }
}

impl Plan {
    fn fmt_devices(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.devices.iter().map(|d| d.name.chars().count()).max().unwrap_or(0).clamp(6, 60);
        writeln!(
            f,
            "{:width$}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>6}",
            "device",
            "weights",
            "of experts",
            "KV cache",
            "compute",
            "total",
            "free",
            "left over",
            "layers"
        )?;
        let or = |bytes: Option<u64>, unknown: &str| {
            bytes.map_or_else(|| unknown.to_owned(), human_bytes)
        };
        for device in &self.devices {
            // A reserve is a guess, and marked as one.
            let compute = match device.reserved_bytes {
                0 => or(device.compute_bytes, "not yet"),
                reserved => format!("~{}", human_bytes(reserved)),
            };
            writeln!(
                f,
                "{:width$}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>11}  {:>6}",
                device.name,
                human_bytes(device.weights_bytes),
                human_bytes(device.expert_bytes),
                or(device.context_bytes, "unknown"),
                compute,
                human_bytes(device.total_bytes),
                or(device.free_bytes, "-"),
                or(device.left_over_bytes(), "-"),
                device.layers,
            )?;
        }
        let unused: u64 = self
            .tensors
            .iter()
            .filter(|placement| placement.device == NOT_LOADED)
            .map(|placement| placement.tensor.bytes)
            .sum();
        if unused > 0 {
            writeln!(f, "(next-token layers are not loaded: {})", human_bytes(unused))?;
        }
        if self.devices.len() == 1 {
            writeln!(f, "(no GPU or other device: everything stays in CPU memory)")?;
        }
        Ok(())
    }

    fn fmt_rules(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return Ok(());
        }
        let longest = self.rules.iter().map(|rule| rule.text.chars().count()).max().unwrap_or(0);
        let width = longest.clamp(4, 60);
        writeln!(f)?;
        writeln!(f, "{:width$}  {:>7}  {:>11}", "rule", "tensors", "bytes")?;
        for rule in &self.rules {
            writeln!(
                f,
                "{:width$}  {:>7}  {:>11}",
                rule.text,
                rule.matched_tensors,
                human_bytes(rule.matched_bytes)
            )?;
        }
        Ok(())
    }
}

fn plural(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
