//! A model file as the engine reads it when experts stay on disk: their bytes are passed over.

use std::ffi::{c_char, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use super::super::ffi;
use super::lock;
use super::places::Places;
use crate::error::{Error, Result};

/// One file, without the bytes of paged tensors.
pub(in super::super) struct ModelStream<'a> {
    file: File,
    bytes: u64,
    /// What is not read, in order.
    skipped: Vec<Range<u64>>,
    places: &'a Mutex<Places>,
}

impl<'a> ModelStream<'a> {
    pub(super) fn open(
        path: &Path,
        mut skipped: Vec<Range<u64>>,
        places: &'a Mutex<Places>,
    ) -> Result<Self> {
        let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let bytes = file.metadata().map_err(io("inspect"))?.len();
        skipped.sort_by_key(|range| range.start);
        Ok(Self { file, bytes, skipped, places })
    }

    /// For the engine; `self` must outlive its use.
    pub(in super::super) fn for_engine(&self) -> ffi::moe_stream {
        let user = std::ptr::from_ref(self).cast_mut().cast();
        ffi::moe_stream { bytes: self.bytes, read: Some(read), user }
    }

    /// Takes care of the next bytes: how many, at least one unless the file ends.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let next = self.skipped.partition_point(|range| range.end <= offset);
        let most = match self.skipped.get(next) {
            Some(range) if range.start <= offset => {
                if range.start == offset {
                    lock(self.places).forget();
                }
                let left = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
                return Ok(left.min(into.len()));
            }
            Some(range) => usize::try_from(range.start - offset).unwrap_or(usize::MAX),
            None => usize::MAX,
        };
        let most = most.min(into.len());
        self.file.read_at(&mut into[..most], offset)
    }
}

unsafe extern "C" fn read(
    offset: u64,
    buffer: *mut c_char,
    count: usize,
    user: *mut c_void,
) -> i64 {
    // SAFETY: `user` is the stream, which the loading thread keeps and nobody changes; the buffer is
    // the engine's, of this size, and only written here.
    let (stream, into) = unsafe {
        (
            &*user.cast::<ModelStream<'_>>(),
            std::slice::from_raw_parts_mut(buffer.cast::<u8>(), count),
        )
    };
    loop {
        match stream.read_at(offset, into) {
            Ok(count) => return i64::try_from(count).unwrap_or(-1),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return -1,
        }
    }
}
