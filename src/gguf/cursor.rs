//! A bounded little-endian reader that knows where it is.

use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, GgufFault, Result};

/// Reads values from `source` and never past `file_bytes`.
pub(super) struct Cursor<'a, R> {
    source: R,
    path: &'a Path,
    offset: u64,
    file_bytes: u64,
    /// No more is read or allocated, however large the file is.
    max_bytes: u64,
}

impl<'a, R: Read> Cursor<'a, R> {
    pub(super) fn new(source: R, path: &'a Path, file_bytes: u64, max_bytes: u64) -> Self {
        Self { source, path, offset: 0, file_bytes, max_bytes }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    pub(super) fn fault(&self, fault: GgufFault) -> Error {
        Error::InvalidGguf { path: self.path.to_owned(), offset: self.offset, fault }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads exactly `count` bytes onto the end of `into`. The file is known to hold them before
    /// anything is allocated, so a lying length costs nothing.
    pub(super) fn append(
        &mut self,
        count: u64,
        into: &mut Vec<u8>,
        what: &'static str,
    ) -> Result<()> {
        self.check(count, what)?;
        let count = usize::try_from(count).map_err(|_| self.truncated(count, what))?;
        let start = into.len();
        into.resize(start + count, 0);
        self.fill(&mut into[start..], what)
    }

    /// What follows, at most so much of it, and without an error where there is less.
    pub(super) fn peek(&mut self, most: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let left = self.file_bytes.saturating_sub(self.offset).min(most);
        // Only to say what a file is: what cannot be read is not shown.
        let _ = self.source.by_ref().take(left).read_to_end(&mut bytes);
        bytes
    }

    fn fill(&mut self, bytes: &mut [u8], what: &'static str) -> Result<()> {
        let wanted = bytes.len() as u64;
        self.check(wanted, what)?;
        self.source.read_exact(bytes).map_err(|source| match source.kind() {
            // The file shrank while it was read.
            ErrorKind::UnexpectedEof => self.truncated(wanted, what),
            _ => Error::Io { action: "read", path: self.path.to_owned(), source },
        })?;
        self.offset += wanted;
        Ok(())
    }

    fn check(&self, wanted: u64, what: &'static str) -> Result<()> {
        match self.offset.checked_add(wanted) {
            Some(end) if end <= self.file_bytes.min(self.max_bytes) => Ok(()),
            Some(end) if end <= self.file_bytes => {
                Err(self.fault(GgufFault::HeaderTooLarge { max: self.max_bytes }))
            }
            _ => Err(self.truncated(wanted, what)),
        }
    }

    fn truncated(&self, wanted: u64, what: &'static str) -> Error {
        Error::TruncatedGguf {
            path: self.path.to_owned(),
            what,
            offset: self.offset,
            needed_bytes: wanted,
            file_bytes: self.file_bytes,
        }
    }
}
