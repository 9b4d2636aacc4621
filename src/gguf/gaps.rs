//! Parts of a file that were never written, as where several connections write one and one of them does not end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::zeros::End;
use super::{GgufFile, TensorInfo};
use crate::error::{Error, Result};

/// Bytes of a file that nobody wrote.
#[derive(Debug, PartialEq)]
pub(crate) struct Gap<'a> {
    pub(crate) path: &'a Path,
    /// From the file's beginning.
    pub(crate) bytes: Range<u64>,
    /// The first tensor that it takes something from.
    pub(crate) tensor: &'a str,
}

impl GgufFile {
    /// The first gap of each file in which nothing was written, and the tensor it begins in. Where the file system
    /// does not tell, and in a file without weights, there are none.
    pub(crate) fn gaps(&self) -> Result<Vec<Gap<'_>>> {
        let mut gaps = Vec::new();
        let is_empty = |path: &Path, ends: &[(&Path, End<'_>)]| {
            ends.iter().any(|(of, end)| *of == path && *end == End::OnlyZeros)
        };
        let ends = self.ends()?;
        for (index, shard) in self.opened().filter(|(_, shard)| !is_empty(&shard.path, &ends)) {
            let failed = |source| Error::Io { action: "read", path: shard.path.clone(), source };
            let file = File::open(&shard.path).map_err(failed)?;
            for hole in holes(&file, shard.file_bytes).map_err(failed)? {
                let inside = |tensor: &&TensorInfo| {
                    let end = tensor.file_offset + tensor.bytes;
                    tensor.shard == index && hole.start < end && tensor.file_offset < hole.end
                };
                if let Some(tensor) =
                    self.tensors.iter().filter(inside).min_by_key(|t| t.file_offset)
                {
                    gaps.push(Gap { path: &shard.path, bytes: hole, tensor: &tensor.name });
                    break;
                }
            }
        }
        Ok(gaps)
    }
}

/// What is shorter may be zeros that were left out when the file was copied.
#[cfg(target_os = "linux")]
const LEAST_HOLE_BYTES: u64 = 256 << 10;
/// Looked at in one file.
#[cfg(target_os = "linux")]
const MOST_HOLES: usize = 1024;

/// Where nothing was written, if something was after its beginning.
#[cfg(target_os = "linux")]
fn holes(file: &File, file_bytes: u64) -> io::Result<Vec<Range<u64>>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;

    let mut holes = Vec::new();
    let mut at = 0;
    for _ in 0..MOST_HOLES {
        let start = match seek(file, SeekFrom::Hole(at)) {
            Ok(start) if start < file_bytes => start,
            // The end counts as a hole, and some file systems know of none.
            Ok(_) | Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => break,
            Err(error) => return Err(error.into()),
        };
        at = match seek(file, SeekFrom::Data(start)) {
            Ok(next) => next,
            Err(Errno::NXIO) => file_bytes,
            Err(error) => return Err(error.into()),
        };
        if at - start >= LEAST_HOLE_BYTES {
            holes.push(start..at);
        }
        if at >= file_bytes {
            break;
        }
    }
    Ok(holes)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps)] // it can fail where it can be asked
fn holes(_file: &File, _file_bytes: u64) -> io::Result<Vec<Range<u64>>> {
    Ok(Vec::new())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use moe_offload_synth::{GgmlType, GgufWriter, WriteTensor};

    use super::*;

    /// As several connections write a file, of which one did not end.
    #[test]
    fn what_was_never_written_is_found() {
        use std::os::unix::fs::FileExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "dbrx");
        for name in ["a.weight", "b.weight", "c.weight"] {
            writer.tensor(name, &[512, 512], GgmlType::F32);
        }
        let mut bytes = Vec::new();
        let ones = |_: &WriteTensor, out: &mut dyn io::Write| out.write_all(&vec![1; 1 << 20]);
        writer.write(&mut bytes, |tensor, out| ones(tensor, out)).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(GgufFile::open(&path).unwrap().gaps().unwrap(), []);

        let file = File::create(&path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let hole = (1 << 20) + 65536..(2 << 20) - 65536;
        file.write_all_at(&bytes[..hole.start], 0).unwrap();
        file.write_all_at(&bytes[hole.end..], hole.end as u64).unwrap();
        file.sync_all().unwrap();
        let gguf = GgufFile::open(&path).unwrap();
        match &gguf.gaps().unwrap()[..] {
            [gap] => {
                assert_eq!((gap.path, gap.tensor), (&*path, "b.weight"));
                assert_eq!(gap.bytes, hole.start as u64..hole.end as u64);
            }
            other => panic!("{other:?}"),
        }
        // The end and most of the middle are there.
        gguf.check_end().unwrap();
    }
}
