//! How weights in CPU memory come from the file and are held.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ffi;
use crate::error::{Error, HostMemoryFault, Result};
use crate::gguf::{GgufFile, TensorInfo};

/// The engine maps a buffer from its first tensor on, and asserts that this lies at a multiple of so many bytes
/// (`TENSOR_ALIGNMENT`). Files are aligned so by default, but may have less.
const MAPPED_ALIGNMENT: u64 = 32;

/// How the weights in CPU memory come from the file, and how that memory is held. What each is good for,
/// measured, is in `docs/host-memory.md`.
///
/// Where a device computes prompts with experts in CPU memory and can pin memory that is not its own (CUDA on Linux), all
/// modes that read are pinned, and weights stay in the file's layout.
///
/// What a mode needs is looked at before anything is loaded, and what is missing is
/// [`Error::HostMemory`]. Experts that the plan leaves on disk are held by the pager: with them only the
/// first three modes are possible, and all three read.
///
/// ```
/// use moe_offload::LoadMode;
/// assert_eq!("read".parse::<LoadMode>()?, LoadMode::Read);
/// assert_eq!("anonymous".parse::<LoadMode>()?, LoadMode::Read);
/// assert_eq!(LoadMode::Huge.to_string(), "huge");
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoadMode {
    /// As [`Read`](Self::Read), that is pinned, where experts stay in CPU memory, a GPU of this machine computes
    /// prompts with them and reads pinned memory, and CPU memory certainly holds them with a tenth of it to spare.
    /// Else mapped where every device allows it, and the file aligns its tensors to 32 bytes, as nearly all do:
    /// loads fast, and the system may drop and re-read pages. [`Plan::decisions`](crate::Plan::decisions) tells which,
    /// and [`MoeModel::load_mode`](crate::MoeModel::load_mode).
    #[default]
    Auto,
    /// Always mapped.
    Mapped,
    /// Read into anonymous memory: loads slower, allows repacked and pinned weights, which read prompts
    /// faster. Pinned where a device offers it. As text also `anonymous`.
    #[serde(alias = "anonymous")]
    Read,
    /// Read into huge pages (Linux): fewer address translations.
    Huge,
    /// Read into memory that is never swapped out (Linux), with huge pages where there are any.
    Locked,
    /// Read into memory spread evenly over the machine's NUMA nodes (Linux), so that threads on all of
    /// them share the bandwidth; with huge pages where there are any.
    Interleaved,
    /// Read into memory that a device reads directly; an error where no device does.
    Pinned,
}

impl LoadMode {
    pub(crate) const ALL: [Self; 7] = [
        Self::Auto,
        Self::Mapped,
        Self::Read,
        Self::Huge,
        Self::Locked,
        Self::Interleaved,
        Self::Pinned,
    ];

    pub(super) fn for_engine(self) -> ffi::llama_load_mode {
        match self {
            Self::Auto => ffi::LLAMA_LOAD_MODE_AUTO,
            Self::Mapped => ffi::LLAMA_LOAD_MODE_MMAP,
            _ => ffi::LLAMA_LOAD_MODE_NONE,
        }
    }

    /// The mode in which this file is loaded: one that the engine cannot map is read, unless it has to be mapped.
    pub(crate) fn for_file(self, gguf: &GgufFile) -> Result<Self> {
        let is_aligned = |tensor: &TensorInfo| tensor.file_offset.is_multiple_of(MAPPED_ALIGNMENT);
        if self.reads() || gguf.tensors().iter().all(is_aligned) {
            return Ok(self);
        }
        if self == Self::Auto {
            return Ok(Self::Read);
        }
        let fault =
            HostMemoryFault::Alignment { bytes: gguf.alignment(), needed: MAPPED_ALIGNMENT };
        Err(Error::HostMemory { mode: self.name(), fault })
    }

    /// Whether the file is read, never mapped.
    pub(crate) fn reads(self) -> bool {
        !matches!(self, Self::Auto | Self::Mapped)
    }

    /// Whether the memory is ours, not the engine's.
    pub(super) fn is_held(self) -> bool {
        matches!(self, Self::Huge | Self::Locked | Self::Interleaved)
    }

    /// As text.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Mapped => "mapped",
            Self::Read => "read",
            Self::Huge => "huge",
            Self::Locked => "locked",
            Self::Interleaved => "interleaved",
            Self::Pinned => "pinned",
        }
    }
}

impl fmt::Display for LoadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LoadMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = Self::ALL.into_iter().find(|mode| mode.name() == text);
        named.or((text == "anonymous").then_some(Self::Read)).ok_or_else(|| Error::InvalidOption {
            option: "load_mode",
            value: text.to_owned(),
            expected: "auto, mapped, read (or anonymous), huge, locked, interleaved or pinned",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_survives_as_text_and_as_data() {
        for mode in LoadMode::ALL {
            assert_eq!(mode.to_string().parse::<LoadMode>().unwrap(), mode);
            let json = serde_json::to_string(&mode).unwrap();
            assert_eq!(json, format!("\"{mode}\""));
            assert_eq!(serde_json::from_str::<LoadMode>(&json).unwrap(), mode);
        }
        let also: LoadMode = serde_json::from_str("\"anonymous\"").unwrap();
        assert_eq!(also, "anonymous".parse().unwrap());
        let error = "hugh".parse::<LoadMode>().unwrap_err().to_string();
        assert!(error.contains("hugh") && error.contains("huge"), "{error}");
    }
}
