//! Reading into memory of ours by several threads: one copies no faster than it finds new pages.

use std::fs::File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{PoisonError, mpsc};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::gguf::Shard;

/// What a thread takes at a time.
const BLOCK_BYTES: usize = 8 << 20;
/// On an H100's machine with 16 cores more than 8 were no faster.
const MOST_THREADS: usize = 8;
/// How often whoever waits is told.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// Bytes of a file, and the memory that they go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) shard: usize,
    pub(super) offset: u64,
    /// The address: initialised memory for so many bytes, that nobody else uses.
    pub(super) to: usize,
    pub(super) bytes: usize,
}

/// Reads all parts. `go_on` is told on this thread how much is done, from 0 to 1, and ends it by `false`.
///
/// # Safety
/// What is said of [`Part::to`] must hold during the call, and parts must not overlap.
///
/// # Errors
/// [`Error::Io`]; [`Error::FileChanged`] where a file has fewer bytes.
pub(super) unsafe fn read(
    shards: &[Shard],
    parts: &[Part],
    mut go_on: impl FnMut(f32) -> bool,
) -> Result<()> {
    let open = |shard: &Shard| {
        let failed = |source| Error::Io { action: "open", path: shard.path.clone(), source };
        File::open(&shard.path).map_err(failed)
    };
    let files = shards.iter().map(open).collect::<Result<Vec<File>>>()?;
    let blocks: Vec<Part> = parts.iter().flat_map(Part::blocks).collect();
    let all: u64 = blocks.iter().map(|block| block.bytes as u64).sum();
    let (next, done, stop) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            // SAFETY: by the caller's promise; each block is one thread's.
            match unsafe { block.read(&files[block.shard], &shards[block.shard]) } {
                Ok(()) => _ = done.fetch_add(block.bytes as u64, Ordering::Relaxed),
                Err(error) => {
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        // Each holds a sender: when the last has ended, there is nothing to wait for.
        let (running, ended) = mpsc::channel::<()>();
        for _ in 0..cores.min(MOST_THREADS).min(blocks.len()) {
            let running = running.clone();
            scope.spawn(move || {
                let _running = running;
                work();
            });
        }
        drop(running);
        while ended.recv_timeout(TELL_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
            #[allow(clippy::cast_precision_loss)] // a share
            let share = done.load(Ordering::Relaxed) as f32 / all.max(1) as f32;
            if !go_on(share) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

impl Part {
    fn blocks(&self) -> impl Iterator<Item = Self> {
        let Self { shard, offset, to, bytes } = *self;
        (0..bytes).step_by(BLOCK_BYTES).map(move |at| Self {
            shard,
            offset: offset + at as u64,
            to: to + at,
            bytes: BLOCK_BYTES.min(bytes - at),
        })
    }

    /// # Safety
    /// As [`read`].
    unsafe fn read(&self, file: &File, shard: &Shard) -> Result<()> {
        use std::os::unix::fs::FileExt;
        // SAFETY: by the caller's promise initialised memory of this length, for us alone.
        let into = unsafe { std::slice::from_raw_parts_mut(self.to as *mut u8, self.bytes) };
        let path = || shard.path.clone();
        file.read_exact_at(into, self.offset).map_err(|source| match source.kind() {
            // Its header said that there is more.
            std::io::ErrorKind::UnexpectedEof => Error::FileChanged { path: path() },
            _ => Error::Io { action: "read", path: path(), source },
        })
    }
}

#[cfg(test)]
mod tests {
    use moe_offload_synth::{self as synth, SynthOptions};

    use super::*;
    use crate::gguf::GgufFile;

    /// A file of some blocks, with other bytes everywhere.
    fn model(folder: &std::path::Path) -> GgufFile {
        let path = folder.join("model.gguf");
        let made = synth::family("mixtral-8x7b").unwrap().build(&SynthOptions::tiny()).unwrap();
        made.save(&path, 1, |_| {}).unwrap();
        let gguf = GgufFile::open(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.len();
        bytes
            .extend((at..3 * BLOCK_BYTES + 12_345).map(|i| u8::try_from(i * 7 / 5 % 251).unwrap()));
        std::fs::write(&path, bytes).unwrap();
        gguf
    }

    #[test]
    fn every_byte_goes_to_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = model(folder.path());
        let expected = std::fs::read(gguf.path()).unwrap();
        let mut into = vec![0_u8; expected.len() + 2];
        let to = into.as_mut_ptr() as usize + 1;
        let middle = BLOCK_BYTES + 77;
        let parts = [
            Part { shard: 0, offset: 0, to, bytes: middle },
            Part {
                shard: 0,
                offset: middle as u64,
                to: to + middle,
                bytes: expected.len() - middle,
            },
        ];
        // SAFETY: both parts lie in `into`, apart, which is initialised and used by nobody else.
        unsafe { read(gguf.shards(), &parts, |_| true) }.unwrap();
        assert!(into[1..=expected.len()] == expected[..]);
        assert_eq!((into[0], into[expected.len() + 1]), (0, 0));
    }

    #[test]
    fn a_file_that_ends_too_early_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let gguf = model(folder.path());
        let bytes = usize::try_from(std::fs::metadata(gguf.path()).unwrap().len()).unwrap() + 1;
        let mut into = vec![0_u8; bytes];
        let part = Part { shard: 0, offset: 0, to: into.as_mut_ptr() as usize, bytes };
        // SAFETY: the part is all of `into`, which is initialised and used by nobody else.
        let error = unsafe { read(gguf.shards(), &[part], |_| true) }.unwrap_err();
        assert!(matches!(error, Error::FileChanged { .. }), "{error}");
        std::fs::remove_file(gguf.path()).unwrap();
        // SAFETY: as above.
        let error = unsafe { read(gguf.shards(), &[part], |_| true) }.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
    }
}
