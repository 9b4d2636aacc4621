//! How much of each device's memory `fit` may use, and what it may give up.

use std::fmt;
use std::str::FromStr;

use super::bytes::{exact_bytes, parse_bytes};
use crate::error::{Error, PolicyFault};

/// What the rule `fit` is to keep, and what it may give up if not even the parts of the model that
/// are used for every token fit.
///
/// As text the limit and the fallbacks are joined by commas.
///
/// ```
/// use moe_offload::policy::{Fallback, Fit, FitLimit};
/// let fit: Fit = "10GiB,cache-to-host,smaller-context:2048".parse()?;
/// assert_eq!(fit.limit, FitLimit::Budget(10 << 30));
/// let smaller = Fallback::SmallerContext { at_least_tokens: 2048 };
/// assert_eq!(fit.fallbacks, [Fallback::CacheToHost, smaller]);
/// assert_eq!(fit.to_string(), "10GiB,cache-to-host,smaller-context:2048");
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Fit {
    /// The limit on each device.
    pub limit: FitLimit,
    /// What may be given up, in this order and no more of it than is needed. None: it is an error
    /// if everything but the experts does not fit.
    pub fallbacks: Vec<Fallback>,
    /// Most bytes of CPU memory, for everything that is there. If the experts that are left for it do
    /// not fit, they stay on disk, and those that are used most are held in what is left: `ram:5GiB`.
    pub ram_bytes: Option<u64>,
}

/// Something that `fit` may give up; see [`Fit::fallbacks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fallback {
    /// `fewer-layers`: the first layers are computed on the CPU, with their part of the KV cache.
    FewerLayers,
    /// `cache-to-host`: the whole KV cache is in CPU memory, and attention is computed there.
    CacheToHost,
    /// `smaller-context:N`: fewer context tokens than were asked for.
    SmallerContext {
        /// The fewest that are of use.
        at_least_tokens: u32,
    },
}

impl From<FitLimit> for Fit {
    fn from(limit: FitLimit) -> Self {
        Self { limit, ..Self::default() }
    }
}

impl Fit {
    /// The same with this as the last resort.
    ///
    /// ```
    /// use moe_offload::policy::{Fallback, Fit};
    /// assert_eq!(Fit::default().or(Fallback::FewerLayers).to_string(), "fewer-layers");
    /// ```
    #[must_use]
    pub fn or(mut self, fallback: Fallback) -> Self {
        self.fallbacks.push(fallback);
        self
    }

    /// The same with so many bytes of CPU memory at most.
    ///
    /// ```
    /// use moe_offload::policy::Fit;
    /// assert_eq!(Fit::default().ram(5 << 30).to_string(), "ram:5GiB");
    /// ```
    #[must_use]
    pub fn ram(self, bytes: u64) -> Self {
        Self { ram_bytes: Some(bytes), ..self }
    }

    /// Each fallback at most once, and no empty context.
    pub(super) fn is_valid(&self) -> bool {
        let no_tokens = Fallback::SmallerContext { at_least_tokens: 0 };
        self.fallbacks.iter().enumerate().all(|(i, &fallback)| {
            let earlier = &self.fallbacks[..i];
            fallback != no_tokens && !earlier.iter().any(|&other| same_kind(other, fallback))
        })
    }
}

impl FromStr for Fit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut fit = Self::default();
        for (i, part) in text.split(',').map(str::trim).enumerate() {
            if let Some(ram) = part.strip_prefix("ram:") {
                let bytes = size(part, ram.trim(), PolicyFault::BadRam)?;
                if fit.ram_bytes.replace(bytes).is_some() {
                    return Err(invalid(part, PolicyFault::BadRam));
                }
                continue;
            }
            match part.parse() {
                Ok(fallback) if !fit.fallbacks.iter().any(|f| same_kind(*f, fallback)) => {
                    fit.fallbacks.push(fallback);
                }
                Err(_) if i == 0 => fit.limit = limit(text, part)?,
                _ => return Err(invalid(text, PolicyFault::BadFit)),
            }
        }
        Ok(fit)
    }
}

/// A size in `text`; what is wrong with it is `fault`, unless it only lacks its unit.
fn size(text: &str, size: &str, fault: PolicyFault) -> Result<u64, Error> {
    parse_bytes(size).map_err(|error| match error {
        Error::NoUnit { text: number } if number.parse() == Ok(0.0) => {
            bad_size(text, size, "leaves nothing; write a number with its unit, as in `10GiB`")
        }
        Error::NoUnit { text: number } => invalid(text, PolicyFault::NoUnit { number }),
        _ => why_no_size(size)
            .map_or_else(|| invalid(text, fault), |reason| bad_size(text, size, reason)),
    })
}

/// Units that `parse_bytes` reads.
const UNITS: [&str; 13] =
    ["b", "k", "kib", "kb", "m", "mib", "mb", "g", "gib", "gb", "t", "tib", "tb"];

/// What is wrong with what was meant as a size; `None` if it rather is a word.
fn why_no_size(size: &str) -> Option<&'static str> {
    let number = &*size.trim().to_ascii_lowercase();
    let rest = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if ["nan", "inf"].iter().any(|word| number.starts_with(word)) {
        Some("is not a number; write one with its unit, as in `10GiB`")
    } else if rest.len() == number.len() {
        None
    } else if rest.contains('%') {
        Some("is a percentage; write bytes with their unit, as in `10GiB`")
    } else if UNITS.contains(&rest.trim()) {
        let digits = &number[..number.len() - rest.len()];
        Some(match digits.parse::<f64>() {
            Ok(_) => "is too large; the most is less than 8388608TiB",
            Err(_) => "does not begin with a number; write one as in `10GiB`",
        })
    } else {
        Some("has no unit that is known; write it as in `10GiB`, `500MB` or `1048576B`")
    }
}

fn bad_size(text: &str, size: &str, reason: &'static str) -> Error {
    invalid(text, PolicyFault::BadSize { size: size.trim().to_owned(), reason })
}

fn limit(text: &str, limit: &str) -> Result<FitLimit, Error> {
    match limit.trim().strip_prefix('-') {
        Some(margin) => size(text, margin, PolicyFault::BadFit).map(FitLimit::Margin),
        None => size(text, limit, PolicyFault::BadFit).map(FitLimit::Budget),
    }
}

fn invalid(text: &str, fault: PolicyFault) -> Error {
    Error::InvalidPolicy { text: text.to_owned(), fault }
}

fn same_kind(a: Fallback, b: Fallback) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = (self.limit != FitLimit::Free).then(|| self.limit.to_string());
        let fallbacks = self.fallbacks.iter().map(ToString::to_string);
        let ram = self.ram_bytes.map(|bytes| format!("ram:{}", exact_bytes(bytes)));
        f.write_str(&limit.into_iter().chain(fallbacks).chain(ram).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Fallback {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let tokens = |digits: &str| {
            let number = digits.parse().ok().filter(|&tokens: &u32| tokens > 0)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then_some(number)
        };
        match text.split_once(':') {
            None if text == "fewer-layers" => Some(Self::FewerLayers),
            None if text == "cache-to-host" => Some(Self::CacheToHost),
            Some(("smaller-context", digits)) => tokens(digits.trim())
                .map(|at_least_tokens| Self::SmallerContext { at_least_tokens }),
            _ => None,
        }
        .ok_or_else(|| Error::InvalidPolicy { text: text.to_owned(), fault: PolicyFault::BadFit })
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewerLayers => f.write_str("fewer-layers"),
            Self::CacheToHost => f.write_str("cache-to-host"),
            Self::SmallerContext { at_least_tokens } => {
                write!(f, "smaller-context:{at_least_tokens}")
            }
        }
    }
}

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
        limit(text, text)
    }
}

impl fmt::Display for FitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Free => Ok(()),
            Self::Budget(bytes) => f.write_str(&exact_bytes(bytes)),
            Self::Margin(bytes) => write!(f, "-{}", exact_bytes(bytes)),
        }
    }
}
