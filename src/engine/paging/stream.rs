//! A model as the engine reads it when experts stay on disk: one file, whose paged bytes are passed over.

use std::collections::HashSet;
use std::ffi::{c_char, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::super::ffi;
use super::lock;
use super::places::Places;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, JoinedFile};

/// Where each tensor starts: at a multiple of the stream's buffer, so that what is copied is not more than the
/// tensor. The places exist in the header only.
const ALIGNMENT: u32 = ffi::MOE_STREAM_BUFFER;

/// All files of a model as one, without the bytes of paged tensors.
pub(in super::super) struct ModelStream<'a> {
    files: Vec<File>,
    joined: JoinedFile,
    /// What is behind the header, in order.
    parts: Vec<Part>,
    places: &'a Mutex<Places>,
}

/// A tensor.
#[derive(Debug)]
struct Part {
    at: Range<u64>,
    /// File and offset; `None` for what is passed over.
    from: Option<(usize, u64)>,
}

impl<'a> ModelStream<'a> {
    pub(super) fn open(
        gguf: &GgufFile,
        paged: &HashSet<&str>,
        places: &'a Mutex<Places>,
    ) -> Result<Self> {
        let joined = gguf.joined(ALIGNMENT)?;
        let open = |path: &std::path::Path| {
            let failed = |source| Error::Io { action: "open", path: path.to_owned(), source };
            File::open(path).map_err(failed)
        };
        let files = gguf.shards().iter().map(|shard| open(&shard.path)).collect::<Result<_>>()?;
        let parts = gguf.tensors().iter().zip(&joined.tensors).map(|(tensor, at)| {
            let is_read = !paged.contains(tensor.name.as_str());
            Part { at: at.clone(), from: is_read.then_some((tensor.shard, tensor.file_offset)) }
        });
        // One without bytes is nowhere.
        let parts = parts.filter(|part| !part.at.is_empty()).collect();
        Ok(Self { files, joined, parts, places })
    }

    /// For the engine; `self` must outlive its use.
    pub(in super::super) fn for_engine(&self) -> ffi::moe_stream {
        let user = std::ptr::from_ref(self).cast_mut().cast();
        ffi::moe_stream { bytes: self.joined.bytes, read: Some(read), user }
    }

    /// The first tensor that ends after `offset`.
    fn next(&self, offset: u64) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.at.end <= offset))
    }

    /// Takes care of the next bytes: how many, at least one unless the file ends.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> std::io::Result<usize> {
        let header = usize::try_from(offset).ok().and_then(|at| self.joined.header.get(at..));
        if let Some(rest) = header.filter(|rest| !rest.is_empty()) {
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            return Ok(count);
        }
        let up_to = |end: u64| usize::try_from(end - offset).unwrap_or(usize::MAX).min(into.len());
        match self.next(offset) {
            Some(part) if part.at.start <= offset => {
                let count = up_to(part.at.end);
                let Some((file, start)) = part.from else {
                    if part.at.start == offset {
                        lock(self.places).forget();
                    }
                    return Ok(count);
                };
                let start = start + (offset - part.at.start);
                self.files[file].read_at(&mut into[..count], start)
            }
            next => {
                let count = up_to(next.map_or(self.joined.bytes, |part| part.at.start));
                into[..count].fill(0);
                Ok(count)
            }
        }
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
