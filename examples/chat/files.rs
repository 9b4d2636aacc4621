//! Files that are named on the command line, perhaps by mistake.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;
use std::string::FromUtf8Error;

use moe_offload::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// No plan or conversation is larger; a device may never end.
const MAX_BYTES: u64 = 64 << 20;
/// No schema or grammar that can be used is larger.
const MAX_FORM_BYTES: u64 = 4 << 20;
/// As serde_json says it; the library's own limit is lower.
const TOO_DEEP: &str = "recursion limit exceeded";

/// What a file holds.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    read_most(path, MAX_BYTES)
}

fn read_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let reason = format!("it has more than {} MiB", most >> 20);
            return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
        }
        Ok(bytes)
    };
    read().map_err(|source| failed(path, source))
}

/// The text of a grammar or schema, without the byte order mark that some editors write.
pub(crate) fn read_form(path: &Path) -> Result<String> {
    let mut bytes = read_most(path, MAX_FORM_BYTES)?;
    if bytes.starts_with(b"\xEF\xBB\xBF") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|error| failed(path, not_text(&error)))
}

/// A JSON schema.
pub(crate) fn read_schema(path: &Path) -> Result<Value> {
    let text = read_form(path)?;
    serde_json::from_str(&text).map_err(|error| {
        let reason = error.to_string();
        let source = if reason.contains(TOO_DEEP) {
            let reason =
                "it nests more than 64 levels deep; put parts into `$defs` and refer to them";
            io::Error::new(ErrorKind::InvalidData, reason)
        } else {
            io::Error::new(ErrorKind::InvalidData, format!("it is not JSON: {reason}"))
        };
        failed(path, source)
    })
}

/// Why bytes are no text in UTF-8.
fn not_text(error: &FromUtf8Error) -> io::Error {
    let bytes = error.as_bytes();
    let is_wide = bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF");
    let reason = if is_wide {
        "it is text in UTF-16; save it in UTF-8".to_owned()
    } else {
        format!("it is no text in UTF-8: {error}")
    };
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// What a JSON file holds.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    json(path, &read(path)?)
}

/// The same of bytes that were read from there.
pub(crate) fn json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| failed(path, error.into()))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io { action: "read", path: path.to_owned(), source }
}
