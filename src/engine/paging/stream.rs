//! A model as the engine reads it when experts stay on disk: one file, in which they have room but no bytes.
//!
//! The engine reads through a buffer of the C library, which copies each byte. So at a paged tensor the stream
//! does not hand out nothing, but says that it stands at its end, and the engine, which never reads
//! beyond the end of a file, reads no bytes at all. Should an engine of another version read them all the same,
//! it is an error.

use std::collections::HashSet;
use std::ffi::{c_char, c_void};
use std::fs::File;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Mutex;

use rustix::io::Errno;

use super::super::ffi;
use super::lock;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, JoinedFile, Shard};

/// Where each tensor starts: at a multiple of the stream's buffer, as the C library only goes to such places
/// when it seeks. They exist in the header only.
const ALIGNMENT: u32 = ffi::MOE_STREAM_BUFFER;

/// All files of a model as one, without the bytes of paged tensors.
pub(in super::super) struct ModelStream<'a> {
    shards: &'a [Shard],
    files: Vec<File>,
    joined: JoinedFile,
    /// What is behind the header, in order.
    parts: Vec<Part>,
    /// What went wrong first, of which the engine only says that something did.
    failure: Mutex<Option<Error>>,
}

/// A tensor.
#[derive(Debug)]
struct Part {
    at: Range<u64>,
    /// File and offset; `None` for what is not to be read.
    from: Option<(usize, u64)>,
}

impl<'a> ModelStream<'a> {
    pub(in super::super) fn open(gguf: &'a GgufFile, paged: &HashSet<&str>) -> Result<Self> {
        let joined = gguf.joined(ALIGNMENT)?;
        let open = |path: &std::path::Path| {
            let failed = |source| Error::Io { action: "open", path: path.to_owned(), source };
            File::open(path).map_err(failed)
        };
        let shards = gguf.shards();
        let files = shards.iter().map(|shard| open(&shard.path)).collect::<Result<_>>()?;
        let parts = gguf.tensors().iter().zip(&joined.tensors).map(|(tensor, at)| {
            let is_read = !paged.contains(tensor.name.as_str());
            Part { at: at.clone(), from: is_read.then_some((tensor.shard, tensor.file_offset)) }
        });
        // One without bytes is nowhere.
        let parts = parts.filter(|part| !part.at.is_empty()).collect();
        Ok(Self { shards, files, joined, parts, failure: Mutex::new(None) })
    }

    /// For the engine; `self` must outlive its use.
    pub(in super::super) fn for_engine(&self) -> ffi::moe_stream {
        ffi::moe_stream {
            bytes: self.joined.bytes,
            read: Some(read),
            has_bytes: Some(has_bytes),
            user: std::ptr::from_ref(self).cast_mut().cast(),
        }
    }

    /// What went wrong with reading.
    pub(in super::super) fn failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }

    /// The first tensor that ends after `offset`.
    fn next(&self, offset: u64) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.at.end <= offset))
    }

    /// Whether there is anything to read here.
    fn has_bytes(&self, offset: u64) -> bool {
        self.next(offset).is_none_or(|part| part.at.start > offset || part.from.is_some())
    }

    /// Reads the next bytes: how many, at least one unless the file ends. These are then written, the rest of
    /// `into` may not be.
    fn read_at(&self, offset: u64, into: &mut [MaybeUninit<u8>]) -> Result<usize> {
        let header = usize::try_from(offset).ok().and_then(|at| self.joined.header.get(at..));
        if let Some(rest) = header.filter(|rest| !rest.is_empty()) {
            let count = rest.len().min(into.len());
            into.iter_mut().zip(rest).for_each(|(to, &byte)| _ = to.write(byte));
            return Ok(count);
        }
        let up_to = |end: u64| usize::try_from(end - offset).unwrap_or(usize::MAX).min(into.len());
        match self.next(offset) {
            Some(part) if part.at.start <= offset => {
                let count = up_to(part.at.end);
                let Some((shard, start)) = part.from else {
                    let reason = "this engine reads them while it loads; please report it";
                    return Err(Error::Paging { reason: reason.to_owned() });
                };
                let start = start + (offset - part.at.start);
                self.read_shard(shard, start, &mut into[..count])
            }
            next => {
                let count = up_to(next.map_or(self.joined.bytes, |part| part.at.start));
                into[..count].fill(MaybeUninit::new(0));
                Ok(count)
            }
        }
    }

    fn read_shard(&self, shard: usize, offset: u64, into: &mut [MaybeUninit<u8>]) -> Result<usize> {
        let path = || self.shards[shard].path.clone();
        loop {
            match rustix::io::pread(&self.files[shard], &mut *into, offset) {
                // Its header said that there is more.
                Ok(([], _)) => {
                    return Err(Error::FileChanged { path: path() });
                }
                Ok((read, _)) => return Ok(read.len()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(Error::Io { action: "read", path: path(), source: error.into() });
                }
            }
        }
    }
}

unsafe extern "C" fn has_bytes(offset: u64, user: *mut c_void) -> bool {
    // SAFETY: `user` is the stream, which the loading thread keeps and nobody changes.
    unsafe { &*user.cast::<ModelStream<'_>>() }.has_bytes(offset)
}

unsafe extern "C" fn read(
    offset: u64,
    buffer: *mut c_char,
    count: usize,
    user: *mut c_void,
) -> i64 {
    // SAFETY: `user` is the stream, which the loading thread keeps and nobody changes; the buffer is
    // the engine's, of this size and for us alone during the call. Nobody may have written it before.
    let (stream, into) = unsafe {
        (
            &*user.cast::<ModelStream<'_>>(),
            std::slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), count),
        )
    };
    match stream.read_at(offset, into) {
        Ok(count) => i64::try_from(count).unwrap_or(-1),
        Err(error) => {
            lock(&stream.failure).get_or_insert(error);
            -1
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use moe_offload_synth::{self as synth, GgmlType, GgufWriter, SynthOptions, WriteTensor};
    use proptest::prelude::*;

    use super::*;

    fn model(folder: &std::path::Path) -> GgufFile {
        let path = folder.join("model.gguf");
        let made = synth::family("mixtral-8x7b").unwrap().build(&SynthOptions::tiny()).unwrap();
        made.save(&path, 1, |_| {}).unwrap();
        GgufFile::open(&path).unwrap()
    }

    fn read_all(stream: &ModelStream<'_>) -> Result<u64> {
        let (mut offset, mut block) = (0, vec![MaybeUninit::uninit(); ALIGNMENT as usize]);
        loop {
            match stream.read_at(offset, &mut block)? {
                0 => return Ok(offset),
                count => offset += count as u64,
            }
        }
    }

    /// What the test's files have for a tensor: other bytes at each place and in each tensor.
    fn contents(name: &str, bytes: u64) -> Vec<u8> {
        let first = name.bytes().fold(7_u64, |sum, byte| sum * 31 + u64::from(byte));
        let byte = |at: u64| (first + at * 0x9e37_79b9).to_le_bytes()[3];
        (0..bytes).map(byte).collect()
    }

    fn split_model(folder: &std::path::Path, sizes: &[u64], parts: u16) -> GgufFile {
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "llama");
        for (i, values) in sizes.iter().enumerate() {
            writer.tensor(format!("t{i}"), &[*values], GgmlType::F32);
        }
        let path = |part: u16| folder.join(format!("m-{part:05}-of-{parts:05}.gguf"));
        for (number, part) in (1..).zip(writer.split(parts)) {
            let data = |tensor: &WriteTensor, out: &mut dyn Write| {
                out.write_all(&contents(&tensor.name, tensor.bytes))
            };
            part.write(File::create(path(number)).unwrap(), data).unwrap();
        }
        GgufFile::open(path(1)).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Wherever and however much the engine reads, it gets that tensor's bytes of the file that has it, and
        /// nothing of a paged one.
        #[test]
        fn each_tensor_is_read_from_where_it_lies(
            tensors in prop::collection::vec(((1_u64..3000, 0_u64..3), any::<bool>()), 1..16),
            parts in 1_u16..5, block in 1_usize..9000,
        ) {
            // Some end just where the next begins.
            let whole = u64::from(ALIGNMENT) / 4;
            let sizes = tensors.iter().map(|&((values, kind), _)| if kind == 0 { whole } else { values });
            let folder = tempfile::tempdir().unwrap();
            let gguf = split_model(folder.path(), &sizes.collect::<Vec<_>>(), parts);
            // In the order of the files.
            let names = gguf.tensors().iter().map(|tensor| tensor.name.as_str());
            let paged = names.zip(&tensors).filter(|(_, (_, is_paged))| *is_paged);
            let paged: HashSet<&str> = paged.map(|(name, _)| name).collect();
            let stream = ModelStream::open(&gguf, &paged).unwrap();
            let mut into = vec![MaybeUninit::uninit(); block.max(ALIGNMENT as usize / 40)];
            for (tensor, at) in gguf.tensors().iter().zip(&stream.joined.tensors) {
                let name = tensor.name.as_str();
                let (mut read, mut offset) = (Vec::new(), at.start);
                prop_assert_eq!(stream.has_bytes(at.start), !paged.contains(name));
                prop_assert_eq!(stream.has_bytes(at.end - 1), !paged.contains(name));
                if paged.contains(name) {
                    prop_assert!(stream.read_at(at.start + tensor.bytes / 2, &mut into).is_err());
                    continue;
                }
                while offset < at.end {
                    let count = stream.read_at(offset, &mut into).unwrap();
                    prop_assert!(count > 0);
                    // SAFETY: what it says that it read.
                    read.extend(into[..count].iter().map(|byte| unsafe { byte.assume_init() }));
                    offset += count as u64;
                }
                prop_assert_eq!(offset, at.end, "it stops where the tensor does");
                prop_assert!(read == contents(name, tensor.bytes), "{}", name);
            }
        }
    }

    #[test]
    fn failures_say_what_happened() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = model(folder.path());
        let stream = ModelStream::open(&gguf, &HashSet::new()).unwrap();
        assert_eq!(read_all(&stream).unwrap(), stream.joined.bytes);

        let name = "blk.0.ffn_up_exps.weight";
        let paged = ModelStream::open(&gguf, &HashSet::from([name])).unwrap();
        let number = gguf.tensors().iter().position(|tensor| tensor.name == name).unwrap();
        let at = paged.joined.tensors[number].clone();
        assert!(paged.has_bytes(at.start - 1) && paged.has_bytes(at.end));
        assert!(!paged.has_bytes(at.start) && !paged.has_bytes(at.end - 1));
        assert!(matches!(read_all(&paged), Err(Error::Paging { .. })), "it has no such bytes");

        let file = File::options().write(true).open(gguf.path()).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        let error = read_all(&stream).unwrap_err();
        assert!(matches!(&error, Error::FileChanged { path } if path == gguf.path()), "{error}");
        // What can be opened but not read.
        let stream = ModelStream { files: vec![File::open(folder.path()).unwrap()], ..stream };
        let error = read_all(&stream).unwrap_err();
        assert!(matches!(error, Error::Io { action: "read", .. }), "{error}");
    }
}
