//! A plan's layers as text bars.

use std::collections::BTreeMap;
use std::fmt;

use super::{CPU, DISK, NOT_LOADED, Plan};
use crate::units::human_bytes;

/// Characters of the longest bar.
const WIDTH: u64 = 40;

/// The layers of a plan as bars, made by [`Plan::picture`]: `█` is what is no expert, `▓` experts
/// on a device, `░` experts on the CPU, `·` experts on disk. Layers that are alike share a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    first: u32,
    last: u32,
    layer: Layer,
}

/// Bytes of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layer {
    /// The device of what is no expert; the first in the file decides.
    device: String,
    dense: u64,
    experts_on_device: u64,
    experts_on_cpu: u64,
    experts_on_disk: u64,
}

impl Layer {
    fn total(&self) -> u64 {
        let experts = [self.experts_on_device, self.experts_on_cpu, self.experts_on_disk];
        experts.into_iter().fold(self.dense, u64::saturating_add)
    }
}

impl Plan {
    /// The layers as bars for people.
    pub fn picture(&self) -> Picture {
        let mut layers: BTreeMap<u32, Layer> = BTreeMap::new();
        for placement in self.tensors().iter().filter(|p| p.device != NOT_LOADED) {
            let Some(number) = placement.tensor.layer else { continue };
            let layer = layers.entry(number).or_default();
            let bytes = placement.tensor.bytes;
            if placement.tensor.kind.is_expert() {
                let here = match placement.device.as_str() {
                    CPU => &mut layer.experts_on_cpu,
                    DISK => &mut layer.experts_on_disk,
                    _ => &mut layer.experts_on_device,
                };
                *here = here.saturating_add(bytes);
                continue;
            }
            layer.dense = layer.dense.saturating_add(bytes);
            if layer.device.is_empty() {
                layer.device.clone_from(&placement.device);
            }
        }
        let mut lines: Vec<Line> = Vec::new();
        for (number, layer) in layers {
            match lines.last_mut() {
                Some(line) if line.layer == layer && line.last + 1 == number => line.last = number,
                _ => lines.push(Line { first: number, last: number, layer }),
            }
        }
        Picture { lines }
    }
}

impl fmt::Display for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = self.lines.iter().map(|line| line.layer.total()).max().unwrap_or(0).max(1);
        let any_on_disk = self.lines.iter().any(|line| line.layer.experts_on_disk > 0);
        let width = self.lines.iter().map(|line| line.layer.device.chars().count()).max();
        let width = width.unwrap_or(0).clamp(6, 60);
        write!(f, "█ not experts  ▓ experts on a device  ░ experts on the cpu")?;
        writeln!(f, "{}", if any_on_disk { "  · experts on disk" } else { "" })?;
        writeln!(f, "{:>7}  {:width$}  weights of a layer", "layers", "device")?;
        for Line { first, last, layer } in &self.lines {
            let numbers = if first == last { first.to_string() } else { format!("{first}-{last}") };
            // A part that is there is seen.
            let bar = |bytes: u64, c: &str| {
                let length = u128::from(bytes) * u128::from(WIDTH) / u128::from(largest);
                let length = usize::try_from(length).unwrap_or(0);
                c.repeat(length.max(usize::from(bytes > 0)))
            };
            writeln!(
                f,
                "{numbers:>7}  {:width$}  {}{}{}{} {}",
                layer.device,
                bar(layer.dense, "█"),
                bar(layer.experts_on_device, "▓"),
                bar(layer.experts_on_cpu, "░"),
                bar(layer.experts_on_disk, "·"),
                human_bytes(layer.total()),
            )?;
        }
        Ok(())
    }
}
