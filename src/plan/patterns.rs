//! Turns placements into the few patterns that the engine is given.
//!
//! The engine compiles every pattern as a `std::regex` once per tensor and takes the first that is
//! found, so the patterns are few, plain, anchored at both ends and made of exact names.

use std::collections::{BTreeMap, BTreeSet};

use super::Override;
use crate::experts::ClassifiedTensor;
use crate::policy::{LayerSet, number_pattern};

/// Patterns that send exactly these tensors to these devices.
pub(super) fn overrides<'a>(
    moved: impl Iterator<Item = (&'a ClassifiedTensor, &'a str)>,
) -> Vec<Override> {
    // device → rest of the name → layers
    let mut by_device: BTreeMap<&str, BTreeMap<String, BTreeSet<u32>>> = BTreeMap::new();
    let mut outside: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (tensor, device) in moved {
        match tensor.layer.and_then(|layer| in_layer(&tensor.name, layer).map(|rest| (layer, rest)))
        {
            Some((layer, rest)) => {
                let by_rest = by_device.entry(device).or_default();
                by_rest.entry(escape(rest)).or_default().insert(layer);
            }
            None => outside.entry(device).or_default().push(escape(&tensor.name)),
        }
    }
    let mut overrides = Vec::new();
    for (device, by_rest) in by_device {
        let mut by_layers: BTreeMap<BTreeSet<u32>, Vec<String>> = BTreeMap::new();
        for (rest, layers) in by_rest {
            by_layers.entry(layers).or_default().push(rest);
        }
        for (layers, rests) in by_layers {
            let ranges: LayerSet = layers.into_iter().collect();
            let numbers = number_pattern::alternatives(ranges.ranges());
            let pattern = format!(r"^blk\.({numbers})\.({})$", rests.join("|"));
            overrides.push(Override { pattern, device: device.to_owned() });
        }
    }
    for (device, names) in outside {
        let pattern = format!("^({})$", names.join("|"));
        overrides.push(Override { pattern, device: device.to_owned() });
    }
    overrides
}

/// The name after `blk.N.`, unless the number is written in another way than plainly.
fn in_layer(name: &str, layer: u32) -> Option<&str> {
    name.strip_prefix(&format!("blk.{layer}."))
}

/// The name as a pattern that both `std::regex` (ECMAScript) and Rust read alike. Other characters
/// than visible ASCII, which no tensor of the engine has, match as any.
fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        match c {
            '\\' | '^' | '$' | '.' | '|' | '?' | '*' | '+' | '(' | ')' | '[' | ']' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '!'..='~' => escaped.push(c),
            _ => escaped.push_str(&".".repeat(c.len_utf8())),
        }
    }
    escaped
}
