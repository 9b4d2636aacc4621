//! A set of layer numbers, such as `0-3,7`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, PolicyFault};

/// Layer numbers as ascending ranges; numbers are those of the file (`blk.N`), counted from 0.
///
/// ```
/// use moe_offload::policy::LayerSet;
///
/// let layers: LayerSet = "7,0-2,3".parse()?;
/// assert_eq!(layers.to_string(), "0-3,7");
/// assert!(layers.contains(2) && !layers.contains(4));
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LayerSet {
    /// Inclusive, ascending, neither overlapping nor touching.
    ranges: Vec<(u32, u32)>,
}

impl LayerSet {
    /// The ranges, first and last layer of each, ascending and apart.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.ranges.iter().copied()
    }

    /// Whether `layer` is among them.
    pub fn contains(&self, layer: u32) -> bool {
        self.ranges.iter().any(|&(first, last)| (first..=last).contains(&layer))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn from_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => {
                    previous.1 = previous.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }
}

impl FromIterator<u32> for LayerSet {
    fn from_iter<I: IntoIterator<Item = u32>>(layers: I) -> Self {
        Self::from_ranges(layers.into_iter().map(|layer| (layer, layer)).collect())
    }
}

impl FromStr for LayerSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad =
            || Error::InvalidPolicy { text: text.to_owned(), fault: PolicyFault::BadLayerSet };
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse::<u32>().ok()).flatten().ok_or_else(bad)
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first.trim())?, number(last.trim())?);
            if first > last {
                return Err(bad());
            }
            ranges.push((first, last));
        }
        Ok(Self::from_ranges(ranges))
    }
}

impl fmt::Display for LayerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, &(first, last)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}
