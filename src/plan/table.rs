//! A plan as a table for people.

use std::fmt;

use super::{DevicePlan, NOT_LOADED, Plan, Source};
use crate::units::human_bytes;

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
            "context  {} tokens, {} at once, cache in {}{}{}",
            self.context_tokens(),
            context.computed_at_once(),
            context.kv_type,
            if context.cache_on_host { ", in CPU memory" } else { "" },
            if context.operation_offload { "" } else { ", operation offload off" }
        )?;
        for decision in &self.decisions {
            writeln!(f, "         {decision}")?;
        }
        writeln!(f)?;
        self.fmt_devices(f)?;
        self.fmt_rules(f)
    }
}

impl Plan {
    fn fmt_devices(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.devices.iter().map(|d| d.name.chars().count()).max().unwrap_or(0).clamp(6, 60);
        // Columns that would be empty are left out.
        let columns = Columns {
            overhead: self.devices.iter().any(|device| device.overhead_bytes > 0),
            disk: self.disk.is_some(),
            free: self.devices.iter().any(|device| device.free_bytes.is_some()),
        };
        for (i, device) in self.devices.iter().enumerate() {
            if i == 0 {
                write!(f, "{:width$}  layers", "device")?;
                for (column, _) in cells(device, columns) {
                    write!(f, "  {column:>width$}", width = column_width(column))?;
                }
                writeln!(f)?;
            }
            write!(f, "{:width$}  {:>6}", device.name, device.layers)?;
            for (column, cell) in cells(device, columns) {
                write!(f, "  {cell:>width$}", width = column_width(column))?;
            }
            writeln!(f)?;
        }
        self.fmt_shortage(f)?;
        let not_loaded = self.tensors.iter().filter(|placement| placement.device == NOT_LOADED);
        let unused = not_loaded.fold(0, |sum: u64, p| sum.saturating_add(p.tensor.bytes));
        if unused > 0 {
            writeln!(f, "(next-token layers are not loaded: {})", human_bytes(unused))?;
        }
        self.fmt_disk(f)?;
        self.fmt_host(f)?;
        if self.devices.len() == 1 {
            let what = if self.disk.is_some() { "what is not on disk" } else { "everything" };
            writeln!(f, "(no GPU or other device: {what} stays in CPU memory)")?;
        }
        Ok(())
    }

    /// What is missing, and what totals do not count.
    fn fmt_shortage(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for device in self.devices.iter().filter(|device| device.short_by_bytes > 0) {
            let short = human_bytes(device.short_by_bytes);
            let least = if device.total_is_at_least { "at least " } else { "" };
            writeln!(f, "DOES NOT FIT: {} is short by {least}{short}", device.name)?;
        }
        let open: Vec<&DevicePlan> = self.devices.iter().filter(|d| d.total_is_at_least).collect();
        let causes = [
            ("KV cache", open.iter().any(|device| device.context_bytes.is_none())),
            ("compute buffers", open.iter().any(|device| !device.knows_compute())),
            ("disk cache", open.iter().any(|device| device.disk_cache_bytes.is_none())),
        ];
        let causes: Vec<&str> =
            causes.iter().filter(|(_, is)| *is).map(|(what, _)| *what).collect();
        if !causes.is_empty() {
            let knows_free = self.devices.iter().any(|device| device.free_bytes.is_some());
            let signs = if knows_free { "≥ at least, ≤ at most" } else { "≥ at least" };
            let causes = causes.join(" and ");
            writeln!(f, "({signs}: without {causes}, which are not known yet)")?;
        }
        Ok(())
    }

    fn fmt_disk(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(disk) = &self.disk else { return Ok(()) };
        write!(f, "disk: {} of experts, ", human_bytes(disk.weights_bytes))?;
        match disk.cache_bytes {
            Some(bytes) => {
                let bytes = human_bytes(bytes.min(disk.weights_bytes));
                write!(f, "{bytes} of them in CPU memory at a time")?;
            }
            None => write!(f, "as many of them in CPU memory as fit when it is loaded")?,
        }
        write!(f, "; a token uses {}", human_bytes(disk.token_bytes))?;
        if disk.embedding_bytes > 0 {
            let bytes = human_bytes(disk.embedding_bytes);
            write!(f, "; {bytes} of token embedding, read row by row")?;
        }
        writeln!(f)
    }

    fn fmt_host(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpu = self.devices.last();
        if let Some(host) = cpu.and_then(|cpu| cpu.host) {
            let parts = [
                ("mapped from the file", host.mapped_bytes),
                ("allocated", host.anonymous_bytes),
                ("pinned", host.pinned_bytes),
            ];
            let parts: Vec<String> = parts
                .into_iter()
                .filter(|&(_, bytes)| bytes > 0)
                .map(|(what, bytes)| format!("{} {what}", human_bytes(bytes)))
                .collect();
            if !parts.is_empty() {
                let of_free = cpu.is_some_and(|cpu| cpu.free_bytes.is_some());
                let is_exact = cpu.is_some_and(|cpu| cpu.compute_from == Source::DryRun);
                let note = match (of_free && host.mapped_bytes > 0, is_exact) {
                    (false, _) => "",
                    (true, true) => "; what is mapped takes nothing of the free memory",
                    (true, false) => {
                        "; what is mapped takes nothing of the free memory, unless the CPU's kernels rearrange it"
                    }
                };
                writeln!(f, "(cpu: {}{note})", parts.join(", "))?;
            }
            let left = cpu.and_then(DevicePlan::left_over_bytes).unwrap_or(u64::MAX);
            if host.mapped_bytes > left {
                let over = human_bytes(host.mapped_bytes - left);
                writeln!(
                    f,
                    "(cpu: {over} of what is mapped find no room, and are read again as needed)"
                )?;
            }
        }
        let compute = self.devices.iter().map(|device| device.compute_from);
        let context = self.devices.iter().map(|device| device.context_from);
        if compute.chain(context).any(|source| source == Source::DryRun) {
            writeln!(f, "(KV cache and compute by a dry run of the engine)")?;
        } else if self.devices.iter().any(|device| device.reserved_bytes > 0) {
            writeln!(f, "(~ is held back by a cautious formula; the engine's dry run is exact)")?;
        }
        if self.devices.iter().any(|device| device.overhead_bytes > 0) {
            writeln!(f, "(overhead: held back for kernels, workspaces and pools)")?;
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
            let (text, bytes) = (&rule.text, human_bytes(rule.matched_bytes));
            write!(f, "{text:width$}  {:>7}  {bytes:>11}", rule.matched_tensors)?;
            if rule.unpaged_bytes > 0 {
                let bytes = human_bytes(rule.unpaged_bytes);
                write!(f, "  ({bytes} of it cannot be read in parts and stays in memory)")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Which columns there are beside those of every table.
#[derive(Clone, Copy)]
struct Columns {
    overhead: bool,
    disk: bool,
    free: bool,
}

/// Characters of a column: two have room for a sign.
fn column_width(column: &str) -> usize {
    if matches!(column, "total" | "left over") { 13 } else { 11 }
}

/// The figures of a device's row, each with its column.
fn cells(device: &DevicePlan, columns: Columns) -> Vec<(&'static str, String)> {
    let or =
        |bytes: Option<u64>, unknown: &str| bytes.map_or_else(|| unknown.to_owned(), human_bytes);
    // A reserve is a guess, and marked as one.
    let compute = match device.reserved_bytes {
        0 => or(device.compute_bytes, "not yet"),
        reserved => format!("~{}", human_bytes(reserved)),
    };
    let bound = |sign: &str, text: String| {
        if device.total_is_at_least { format!("{sign} {text}") } else { text }
    };
    let mut cells = vec![
        ("weights", human_bytes(device.weights_bytes)),
        ("of experts", human_bytes(device.expert_bytes)),
        ("KV cache", or(device.context_bytes, "unknown")),
        ("compute", compute),
    ];
    if columns.overhead {
        cells.push(("overhead", human_bytes(device.overhead_bytes)));
    }
    if columns.disk {
        cells.push(("disk cache", or(device.disk_cache_bytes, "when loaded")));
    }
    cells.push(("total", bound("≥", human_bytes(device.total_bytes))));
    if columns.free {
        let left = match device.left_over_bytes() {
            None => "-".to_owned(),
            Some(_) if device.short_by_bytes > 0 => {
                bound("≤", format!("-{}", human_bytes(device.short_by_bytes)))
            }
            Some(left) => bound("≤", human_bytes(left)),
        };
        cells.push(("free", or(device.free_bytes, "-")));
        cells.push(("left over", left));
    }
    cells
}

fn plural(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
