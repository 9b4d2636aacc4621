//! The files that paged tensors lie in.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::checksums::Checksums;
use crate::error::{Error, Result};

/// A file that is read directly, past the system's cache, and must not change.
#[derive(Debug)]
pub(super) struct PagedFile {
    file: File,
    path: PathBuf,
    is_direct: bool,
    state: State,
    /// What was read, if later reads are to be compared with it.
    checksums: Option<Checksums>,
}

/// What is compared to see whether a file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
}

impl PagedFile {
    pub(super) fn open(path: &Path, verify: bool) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
        // Some file systems have no direct reads; of these some tell only when one is tried.
        let (file, is_direct) = match open(libc::O_DIRECT) {
            Ok(file) if reads_directly(&file) => (file, true),
            _ => (open(0).map_err(io("open"))?, false),
        };
        let state = State::of(&file.metadata().map_err(io("inspect"))?);
        let checksums = verify.then(Checksums::default);
        Ok(Self { file, path: path.to_owned(), is_direct, state, checksums })
    }

    pub(super) fn is_direct(&self) -> bool {
        self.is_direct
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// Bytes from `offset` to the end of the file.
    pub(super) fn bytes_from(&self, offset: u64) -> u64 {
        self.state.bytes.saturating_sub(offset)
    }

    /// Reads whole pages; the last page of the file may be shorter.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<()> {
        let wanted = self.wanted(offset, into.len());
        let mut done = 0;
        while done < wanted {
            match self.file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => return Err(self.changed()),
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(source)),
            }
        }
        self.check(offset, into)
    }

    /// Whether what was read into these pages can be trusted.
    pub(super) fn check(&self, offset: u64, pages: &[u8]) -> Result<()> {
        self.check_unchanged()?;
        let bytes = &pages[..self.wanted(offset, pages.len())];
        match &self.checksums {
            Some(checksums) if !checksums.agree(offset, bytes) => Err(Error::WrongBytes {
                path: self.path.clone(),
                offset,
                bytes: bytes.len() as u64,
            }),
            _ => Ok(()),
        }
    }

    /// How much of `bytes` from `offset` on the file has.
    pub(super) fn wanted(&self, offset: u64, bytes: usize) -> usize {
        usize::try_from(self.bytes_from(offset)).unwrap_or(usize::MAX).min(bytes)
    }

    /// Whether the file still is what it was when it was opened.
    fn check_unchanged(&self) -> Result<()> {
        let now = State::of(&self.file.metadata().map_err(|source| self.failed(source))?);
        if now == self.state { Ok(()) } else { Err(self.changed()) }
    }

    pub(super) fn changed(&self) -> Error {
        Error::FileChanged { path: self.path.clone() }
    }

    pub(super) fn failed(&self, source: std::io::Error) -> Error {
        Error::Io { action: "read", path: self.path.clone(), source }
    }
}

/// Whether a file that was opened for it can be read directly.
fn reads_directly(file: &File) -> bool {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Page([0; 4096]);
    let read = file.read_at(&mut page.0, 0);
    // Any other fault is told by the reads that follow.
    !matches!(read, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}
