//! Where a rule puts what it matches.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, PolicyFault};

/// Bytes of a device's name.
const MAX_NAME_BYTES: usize = 255;

/// The memory that a rule names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum Target {
    /// CPU memory, written `cpu`.
    Cpu,
    /// The file: experts are read when they are needed. Written `disk`.
    Disk,
    /// The device of the tensor's own layer, written `gpu`.
    Gpu,
    /// The device of this name, such as `CUDA1` or `RPC0`.
    Device(DeviceName),
}

/// A device's name as the engine reports it.
///
/// Names are compared without regard to case, and without the `[host:port]` that the engine
/// appends to the buffer names of RPC devices.
#[derive(Clone, Debug)]
pub struct DeviceName(String);

impl DeviceName {
    /// Checks that the name can stand in a policy.
    ///
    /// # Errors
    /// [`Error::InvalidPolicy`] if it is empty or over 255 bytes, `cpu`, `gpu` or `disk`, begins or ends with white space, or
    /// holds `;`, `=` or `,`.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        match Target::from_str(&name)? {
            Target::Device(name) => Ok(name),
            _ => Err(bad_device(&name)),
        }
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn key(&self) -> String {
        device_key(&self.0)
    }

    /// Whether a device of this name is meant.
    pub fn matches(&self, device: &str) -> bool {
        self.key() == device_key(device)
    }
}

fn device_key(name: &str) -> String {
    // An address may begin with one: `[::1]:50052`.
    let end = name.char_indices().skip(1).find(|&(_, c)| c == '[').map_or(name.len(), |(i, _)| i);
    name[..end].to_ascii_lowercase()
}

impl PartialEq for DeviceName {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for DeviceName {}

impl std::hash::Hash for DeviceName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |c: char| c.is_control() || matches!(c, ';' | '=' | ',');
        if text.len() > MAX_NAME_BYTES
            || text.is_empty()
            || text.contains(bad)
            || text.trim() != text
        {
            return Err(bad_device(text));
        }
        Ok(match text.to_ascii_lowercase().as_str() {
            "cpu" => Self::Cpu,
            "disk" => Self::Disk,
            "gpu" => Self::Gpu,
            _ => Self::Device(DeviceName(text.to_owned())),
        })
    }
}

fn bad_device(text: &str) -> Error {
    Error::InvalidPolicy { text: text.to_owned(), fault: PolicyFault::BadDevice }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Disk => f.write_str("disk"),
            Self::Gpu => f.write_str("gpu"),
            Self::Device(name) => f.write_str(&name.0),
        }
    }
}

impl From<Target> for String {
    fn from(target: Target) -> Self {
        target.to_string()
    }
}

impl TryFrom<String> for Target {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}
