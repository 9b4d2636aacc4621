//! Files that are named on the command line, perhaps by mistake.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use moe_offload::{Error, Result};
use serde::de::DeserializeOwned;

/// No plan, schema, grammar or conversation is larger; a device may never end.
const MAX_BYTES: u64 = 64 << 20;

/// What a file holds.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_BYTES {
            let reason = format!("it has more than {} MiB", MAX_BYTES >> 20);
            return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
        }
        Ok(bytes)
    };
    read().map_err(|source| failed(path, source))
}

/// What a file says.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    let text = std::str::from_utf8(plain(path, &bytes)?);
    text.map(str::to_owned)
        .map_err(|error| failed(path, io::Error::new(ErrorKind::InvalidData, error)))
}

/// Without the mark that some editors put before text.
fn plain<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    if let [0xff, 0xfe, ..] | [0xfe, 0xff, ..] = bytes {
        let reason = "it is in UTF-16; save it as UTF-8";
        return Err(failed(path, io::Error::new(ErrorKind::InvalidData, reason)));
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// What a JSON file holds.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    json(path, &read(path)?)
}

/// The same of bytes that were read from there.
pub(crate) fn json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    let bytes = plain(path, bytes)?;
    serde_json::from_slice(bytes).map_err(|error| failed(path, error.into()))
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Io { action: "read", path: path.to_owned(), source }
}
