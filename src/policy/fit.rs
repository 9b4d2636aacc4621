//! How much of each device's memory `fit` may use.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, PolicyFault};
use crate::plan::parse_bytes;

/// The limit that `fit` keeps on each device, for everything: weights, cache and compute buffers.
///
/// ```
/// use moe_offload::policy::FitLimit;
/// assert_eq!("10GiB".parse::<FitLimit>()?, FitLimit::Budget(10 << 30));
/// assert_eq!("-512MiB".parse::<FitLimit>()?, FitLimit::Margin(512 << 20));
/// assert_eq!(FitLimit::Budget(10 << 30).to_string(), "10GiB");
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FitLimit {
    /// All free memory: `fit`.
    #[default]
    Free,
    /// At most so many bytes, and no more than are free: `fit:10GiB`.
    Budget(u64),
    /// All free memory but so many bytes: `fit:-1GiB`.
    Margin(u64),
}

impl FitLimit {
    /// The bytes that may be used where `free_bytes` are free; `None` if that is not known and
    /// needed.
    pub(crate) fn bytes(self, free_bytes: Option<u64>) -> Option<u64> {
        match self {
            Self::Free => free_bytes,
            Self::Budget(budget) => Some(free_bytes.map_or(budget, |free| free.min(budget))),
            Self::Margin(margin) => free_bytes.map(|free| free.saturating_sub(margin)),
        }
    }
}

impl FromStr for FitLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::InvalidPolicy { text: text.to_owned(), fault: PolicyFault::BadFit };
        let text = text.trim();
        match text.strip_prefix('-') {
            Some(margin) => parse_bytes(margin).map(Self::Margin),
            None => parse_bytes(text).map(Self::Budget),
        }
        .map_err(|_| bad())
    }
}

impl fmt::Display for FitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, bytes) = match *self {
            Self::Free => return Ok(()),
            Self::Budget(bytes) => ("", bytes),
            Self::Margin(bytes) => ("-", bytes),
        };
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let exact = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
        match exact {
            Some((unit, shift)) => write!(f, "{sign}{}{unit}", bytes >> shift),
            None => write!(f, "{sign}{bytes}"),
        }
    }
}
