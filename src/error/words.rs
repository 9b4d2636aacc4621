//! The parts of messages that depend on what is told.

use std::fmt;
use std::path::PathBuf;

use super::PolicyFault;
use crate::units::human_bytes;

pub(super) fn did_you_mean(near: &[&str]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    format!(" (it knows {})", near.join(", "))
}

/// What to do where no setting could be measured.
pub(super) fn free_memory(lacks_memory: bool) -> &'static str {
    if lacks_memory { ". Free memory of the device, or raise the budget" } else { "" }
}

/// The reason without the drawing that comes with it, and what to write in place of look-around.
pub(super) fn in_one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let reason = text.lines().rev().find_map(|line| line.trim().strip_prefix("error: "));
    let reason = reason.unwrap_or(&text).replace('\n', " ");
    if reason.contains("look-around") {
        return format!(
            "{reason}; put what it should leave out into a rule before it, as the first rule that matches wins"
        );
    }
    reason
}

pub(super) fn near_misses(rule: &str, near: &[String], layers: Option<&String>) -> String {
    if let Some(layers) = layers {
        return format!("; the same names are in layers {layers}");
    }
    if near.is_empty() {
        "; list its tensors with the `plan` example".to_owned()
    } else {
        let case = if differs_in_case(rule, near) {
            " Upper and lower case are different letters in a pattern; `(?i)` before it makes them the same"
        } else {
            ""
        };
        format!("; did you mean {}?{case}", escaped(&near.join(", ")))
    }
}

/// Why no device computes what is in CPU memory.
pub(super) fn none_computes(devices: &[String]) -> String {
    match devices {
        [] => "there is no device but the CPU".to_owned(),
        _ => format!("none of the devices ({}) computes what is there", devices.join(", ")),
    }
}

/// Text that comes from a file: control characters, which could steer a terminal, as `\u{1b}`.
pub(crate) fn escaped(text: &impl fmt::Display) -> String {
    let text = text.to_string();
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_bidirectional(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether it changes the direction of what follows.
fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether the pattern of a rule would match if case did not count.
fn differs_in_case(rule: &str, near: &[String]) -> bool {
    let pattern = rule.strip_prefix("regex:").and_then(|rule| Some(rule.rsplit_once('=')?.0));
    let regex =
        pattern.map(|pattern| regex::RegexBuilder::new(pattern).case_insensitive(true).build());
    regex.is_some_and(|regex| {
        regex.is_ok_and(|regex| near.iter().any(|name| regex.is_match(name.trim_matches('`'))))
    })
}

pub(super) fn not_a_policy(text: &str, fault: &PolicyFault) -> String {
    match fault {
        _ if text.is_empty() => String::new(),
        PolicyFault::BadDevice => format!("`{}` is no device's name: ", escaped(&text)),
        _ => format!("`{text}` is not a policy: "),
    }
}

pub(super) fn same_name(name: &str) -> String {
    let reserved = [crate::device::CPU, crate::device::DISK];
    if reserved.iter().any(|word| name.eq_ignore_ascii_case(word)) {
        return format!(
            "no device can be called `{name}`, which has a meaning of its own; give it another name"
        );
    }
    format!("two devices are called `{name}`; give each its own name")
}

pub(super) fn not_enough(device: &str) -> String {
    if device == crate::device::CPU {
        "not enough CPU memory".to_owned()
    } else {
        format!("`{device}` has not enough memory")
    }
}

/// What is the cause where buffers are most of what does not fit, and the rest does.
pub(super) fn smaller_micro_batch(needed: u64, free: u64, compute: u64) -> String {
    let rest = needed.saturating_sub(compute);
    if compute <= rest || rest > free {
        return String::new();
    }
    format!(
        "{} of it are buffers for the tokens computed at once: use a smaller micro-batch (`micro_batch_tokens`); or ",
        human_bytes(compute)
    )
}

/// What to do where a device has too little memory, of which the policy has not done some already.
pub(super) fn make_room(device: &str, needed_bytes: u64, policy: &str) -> String {
    let fit = policy.rsplit(';').next().filter(|rule| rule.starts_with("fit"));
    let has = |part: &str| fit.is_some_and(|fit| fit.contains(part));
    if device == crate::device::CPU {
        let more = "use a smaller context or micro-batch, map the file without repacking (`repack`), or move more to a device or to `disk`";
        if has("ram:") {
            return format!(
                "{more}; or allow at least `ram:{}MiB`",
                needed_bytes.div_ceil(1 << 20)
            );
        }
        return more.to_owned();
    }
    let fallbacks: Vec<&str> =
        [("cache-to-host", "`cache-to-host`"), ("fewer-layers", "`fewer-layers`")]
            .into_iter()
            .filter(|(name, _)| !has(name))
            .map(|(_, shown)| shown)
            .collect();
    let rest = "use a smaller context, or free memory";
    match (fit, &fallbacks[..]) {
        (None, _) => format!("let `fit` move as much to the CPU as it must, {rest}"),
        (_, []) => rest.to_owned(),
        (_, fallbacks) => format!("let `fit` give up {} too, {rest}", fallbacks.join(" and ")),
    }
}

/// What ran out of memory needs more than is known.
pub(super) fn at_least(reason: &str) -> &'static str {
    if reason.is_empty() { "" } else { "at least " }
}

/// How to leave a device the memory that computing takes.
pub(super) fn hold_back(device: &str, overhead_bytes: u64, policy: &str) -> String {
    let mib = overhead_bytes.div_ceil(1 << 20);
    let rest = "use a smaller micro-batch or context, or free memory";
    match policy.rsplit(';').next().filter(|rule| rule.starts_with("fit")) {
        Some(_) => {
            format!("hold {mib} MiB of `{device}` back (`device_overhead`, `--overhead`), {rest}")
        }
        None => format!(
            "let `fit` move more to the CPU, with {mib} MiB of `{device}` held back (`device_overhead`, `--overhead`), {rest}"
        ),
    }
}

pub(super) fn list_devices(known: &[String]) -> String {
    match known {
        [] => "is only the CPU".to_owned(),
        [only] => format!("is {only}, and the cpu"),
        several => format!("are {}, and the cpu", several.join(", ")),
    }
}

pub(super) fn of_server(address: Option<&String>) -> String {
    address.map_or_else(String::new, |address| format!(" of the RPC server at `{address}`"))
}

pub(super) fn list_folders(folders: &[PathBuf]) -> String {
    let folders: Vec<String> =
        folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
    folders.join(" or ")
}

/// The engine itself only ever falls back to the CPU.
pub(super) fn broken(tensor: &str, actual: &str) -> String {
    if actual == crate::device::CPU {
        format!(
            ": the device cannot compute with it; put the rule `regex:^{}$=cpu` before the others",
            escaped(&regex::escape(tensor))
        )
    } else {
        String::new()
    }
}

/// What makes a form one that can be followed.
pub(super) fn one_reading(form: &str) -> &'static str {
    if form == "grammar" {
        "write it so that one reading is enough"
    } else {
        "write each `pattern` so that a text has one reading: where one repetition ends, the next must not begin with the same characters"
    }
}

pub(super) fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
