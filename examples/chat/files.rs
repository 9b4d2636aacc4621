//! Files that are named on the command line, perhaps by mistake.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use moe_offload::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;

use crate::common::of_json;

/// No plan or conversation is larger; a device may never end.
const MAX_BYTES: u64 = 64 << 20;
/// No schema or grammar that can be used is larger.
const MAX_FORM_BYTES: u64 = 4 << 20;
/// As `serde_json` says it; the library's own limit is lower.
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

/// The text of a grammar or schema.
pub(crate) fn read_form(path: &Path) -> Result<String> {
    let bytes = read_most(path, MAX_FORM_BYTES)?;
    let text = std::str::from_utf8(plain(path, &bytes)?);
    text.map(str::to_owned).map_err(|error| {
        let reason = format!("it is no text in UTF-8: {error}");
        failed(path, io::Error::new(ErrorKind::InvalidData, reason))
    })
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

/// Without the mark that some editors put before text.
pub(crate) fn plain<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
        let reason = "it is in UTF-16; save it as UTF-8";
        return Err(failed(path, io::Error::new(ErrorKind::InvalidData, reason)));
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// What a file should hold.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    Plan,
    Conversation,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Plan => "a stored plan",
            Self::Conversation => "a conversation",
        }
    }

    /// What is wrong with a file already at a glance.
    fn fault(self, bytes: &[u8]) -> Option<&'static str> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        match self {
            Self::Plan => (!value.is_object()).then_some("that is an object"),
            Self::Conversation => {
                let is_list = value.as_array().is_some_and(|all| all.iter().all(Value::is_object));
                (!is_list).then_some("that is a list of objects with `role` and `content`")
            }
        }
    }
}

/// What a file holds, as JSON of this shape; `remedy` is what to do if it does not.
pub(crate) fn json<T: DeserializeOwned>(
    path: &Path,
    bytes: &[u8],
    shape: Shape,
    remedy: &str,
) -> Result<T> {
    let bytes = plain(path, bytes)?;
    let what = shape.name();
    serde_json::from_slice(bytes).map_err(|error| {
        let fault = shape.fault(bytes).map_or_else(|| of_json(&error), str::to_owned);
        let reason = match error.classify() {
            _ if bytes.starts_with(b"GGUF") => format!("it is a model, not {what}"),
            _ if bytes.trim_ascii().is_empty() => format!("it is empty, not {what}"),
            Category::Eof => format!("it is cut off ({error})"),
            Category::Data => format!("it is JSON, but not {what} ({fault})"),
            Category::Syntax | Category::Io => format!("it is not JSON, so not {what} ({error})"),
        };
        failed(path, io::Error::new(ErrorKind::InvalidData, format!("{reason}; {remedy}")))
    })
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io { action: "read", path: path.to_owned(), source }
}
