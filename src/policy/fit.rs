//! How much of each device's memory `fit` may use, and what it may give up.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, PolicyFault};
use crate::plan::parse_bytes;

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
        let bad = || Error::InvalidPolicy { text: text.to_owned(), fault: PolicyFault::BadFit };
        let mut fit = Self::default();
        for (i, part) in text.split(',').map(str::trim).enumerate() {
            if let Some(ram) = part.strip_prefix("ram:") {
                let fault = PolicyFault::BadRam;
                let bad = || Error::InvalidPolicy { text: part.to_owned(), fault };
                let bytes = parse_bytes(ram.trim()).ok().filter(|_| fit.ram_bytes.is_none());
                fit.ram_bytes = Some(bytes.ok_or_else(bad)?);
                continue;
            }
            match part.parse() {
                Ok(fallback) if !fit.fallbacks.iter().any(|f| same_kind(*f, fallback)) => {
                    fit.fallbacks.push(fallback);
                }
                Err(_) if i == 0 => fit.limit = part.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
        }
        Ok(fit)
    }
}

fn same_kind(a: Fallback, b: Fallback) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = (self.limit != FitLimit::Free).then(|| self.limit.to_string());
        let fallbacks = self.fallbacks.iter().map(ToString::to_string);
        let ram = self.ram_bytes.map(|bytes| format!("ram:{}", FitLimit::Budget(bytes)));
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
