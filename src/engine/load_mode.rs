//! How weights in CPU memory come from the file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ffi;
use crate::error::{Error, Result};

/// How the weights in CPU memory come from the file.
///
/// ```
/// use moe_offload::LoadMode;
/// assert_eq!("read".parse::<LoadMode>()?, LoadMode::Read);
/// assert_eq!(LoadMode::Auto.to_string(), "auto");
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadMode {
    /// Mapped where every device allows it: loads fast, and the system may drop and re-read pages.
    #[default]
    Auto,
    /// Always mapped.
    Mapped,
    /// Read into memory: loads slower, allows repacked and pinned weights, which read prompts
    /// faster.
    Read,
}

impl LoadMode {
    pub(super) fn for_engine(self) -> ffi::llama_load_mode {
        match self {
            Self::Auto => ffi::LLAMA_LOAD_MODE_AUTO,
            Self::Mapped => ffi::LLAMA_LOAD_MODE_MMAP,
            Self::Read => ffi::LLAMA_LOAD_MODE_NONE,
        }
    }
}

impl fmt::Display for LoadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Mapped => "mapped",
            Self::Read => "read",
        })
    }
}

impl FromStr for LoadMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let modes = [Self::Auto, Self::Mapped, Self::Read];
        modes.into_iter().find(|mode| mode.to_string() == text).ok_or_else(|| {
            Error::InvalidOption {
                option: "load_mode",
                value: text.to_owned(),
                expected: "auto, mapped or read",
            }
        })
    }
}
