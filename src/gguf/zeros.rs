//! Files in which weights are missing though they are as long as they should be: room was made for a
//! download that did not end.
//!
//! Of a tensor three pages are looked at. What is missing at the end of a file is an error. A matrix of zeros before
//! others is a matter of doubt.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

#[cfg(feature = "llama")]
use super::GgmlType;
use super::{GgufFile, Shard, TensorInfo};
#[cfg(feature = "llama")]
use crate::error::ModelFault;
use crate::error::{Error, Result};

/// Bytes that are looked at together.
const LOOK: usize = 4096;
/// Tensors looked at in one file, so that no more than some MB are read. One that has weights is read until
/// the last tensor alone.
const MOST_TENSORS: usize = 1024;

/// Published norms have some 30 KB.
#[cfg(feature = "llama")]
const MOST_NORM_BYTES: u64 = 4 << 20;

/// What the data of one file ends with.
#[derive(Debug, PartialEq)]
pub(super) enum End<'a> {
    /// Weights, as far as can be told.
    Weights,
    /// Zeros from this tensor on, a whole matrix among them, but not in all of the file.
    Zeros(&'a TensorInfo),
    /// There is nothing else in the file.
    OnlyZeros,
}

impl GgufFile {
    /// Refuses a file whose last tensors are missing while others are there.
    pub(crate) fn check_end(&self) -> Result<()> {
        self.ends()?.into_iter().try_for_each(|(path, end)| match end {
            End::Zeros(from) => Err(Error::UnfinishedFile {
                path: path.to_owned(),
                at: from.file_offset,
                tensor: from.name.clone(),
            }),
            _ => Ok(()),
        })
    }

    /// Refuses a file that has no weights at all, or a norm with a weight that is no number.
    #[cfg(feature = "llama")]
    pub(crate) fn check_weights(&self) -> Result<()> {
        if let Some((tensor, value)) = self.damaged_norm()? {
            let fault =
                ModelFault::BadWeight { tensor: tensor.name.clone(), value: value.to_string() };
            return Err(Error::UnsafeModel { path: self.path().to_owned(), fault });
        }
        let ends = self.ends()?;
        if ends.is_empty() || ends.iter().any(|(_, end)| *end != End::OnlyZeros) {
            return Ok(());
        }
        Err(Error::EmptyWeights { path: self.path().to_owned() })
    }

    /// The first norm that holds what is no finite number, and what that is. No other tensors are read for it.
    #[cfg(feature = "llama")]
    fn damaged_norm(&self) -> Result<Option<(&TensorInfo, f32)>> {
        for (index, shard) in self.opened() {
            let failed = |source| Error::Io { action: "read", path: shard.path.clone(), source };
            let mut file = File::open(&shard.path).map_err(failed)?;
            for tensor in
                self.tensors.iter().filter(|tensor| tensor.shard == index && is_norm(tensor))
            {
                if let Some(value) = first_not_finite(&mut file, tensor).map_err(failed)? {
                    return Ok(Some((tensor, value)));
                }
            }
        }
        Ok(None)
    }

    /// The matrices and norms that look as if they held only zeros, in the order of the table.
    #[cfg(feature = "llama")]
    pub(crate) fn zero_tensors(&self) -> Result<Vec<&TensorInfo>> {
        let mut empty = Vec::new();
        for (index, shard) in self.opened() {
            let failed = |source| Error::Io { action: "read", path: shard.path.clone(), source };
            let mut file = File::open(&shard.path).map_err(failed)?;
            let has_use = |tensor: &TensorInfo| is_matrix(tensor) || is_norm(tensor);
            let here = |tensor: &&TensorInfo| tensor.shard == index && has_use(tensor);
            for tensor in self.tensors.iter().filter(here) {
                if looks_empty(&mut file, tensor).map_err(failed)? {
                    empty.push(tensor);
                }
            }
        }
        Ok(empty)
    }

    /// The files that were opened as such, with their index.
    pub(super) fn opened(&self) -> impl Iterator<Item = (usize, &Shard)> {
        self.shards.iter().enumerate().filter(|(_, shard)| shard.modified.is_some())
    }

    /// For each file that was opened as one and has tensors.
    pub(super) fn ends(&self) -> Result<Vec<(&Path, End<'_>)>> {
        let mut ends = Vec::new();
        for (index, shard) in self.opened() {
            let here =
                self.tensors.iter().filter(|tensor| tensor.shard == index && tensor.bytes > 0);
            let mut tensors: Vec<&TensorInfo> = here.collect();
            if tensors.is_empty() {
                continue;
            }
            tensors.sort_unstable_by_key(|tensor| tensor.file_offset);
            let end = File::open(&shard.path).and_then(|mut file| end_of(&mut file, &tensors));
            let failed = |source| Error::Io { action: "read", path: shard.path.clone(), source };
            ends.push((&*shard.path, end.map_err(failed)?));
        }
        // A part that was not begun, beside others that are there.
        if ends.iter().any(|(_, end)| *end == End::Weights) {
            for (path, end) in &mut ends {
                let of_file = |tensor: &&TensorInfo| self.shards[tensor.shard].path == *path;
                if let (End::OnlyZeros, Some(first)) = (&end, self.tensors.iter().find(of_file)) {
                    *end = End::Zeros(first);
                }
            }
        }
        Ok(ends)
    }
}

/// `tensors` are in the order of the file.
fn end_of<'a>(file: &mut File, tensors: &[&'a TensorInfo]) -> io::Result<End<'a>> {
    let mut from = None;
    for &tensor in tensors.iter().rev().take(MOST_TENSORS) {
        if !looks_empty(file, tensor)? {
            break;
        }
        from = Some(tensor);
    }
    let Some(from) = from else { return Ok(End::Weights) };
    let zeros = || tensors.iter().filter(|tensor| tensor.file_offset >= from.file_offset);
    // Of some thousand tensors the first say whether there are any weights.
    if zeros().count() == tensors.len()
        || (zeros().count() == MOST_TENSORS && begins_empty(file, tensors)?)
    {
        return Ok(End::OnlyZeros);
    }
    // A bias may be zero; a matrix that is has no use.
    Ok(if zeros().any(|tensor| is_matrix(tensor)) { End::Zeros(from) } else { End::Weights })
}

fn begins_empty(file: &mut File, tensors: &[&TensorInfo]) -> io::Result<bool> {
    for tensor in tensors.iter().take(16) {
        if !looks_empty(file, tensor)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_matrix(tensor: &TensorInfo) -> bool {
    tensor.shape.iter().filter(|&&side| side > 1).count() > 1
}

#[cfg(feature = "llama")]
fn is_norm(tensor: &TensorInfo) -> bool {
    tensor.name.ends_with("norm.weight")
        && tensor.ggml_type == GgmlType::F32
        && tensor.bytes <= MOST_NORM_BYTES
}

#[cfg(feature = "llama")]
fn first_not_finite(file: &mut File, tensor: &TensorInfo) -> io::Result<Option<f32>> {
    file.seek(SeekFrom::Start(tensor.file_offset))?;
    let mut bytes = Vec::new();
    file.take(tensor.bytes).read_to_end(&mut bytes)?;
    let mut weights =
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    Ok(weights.find(|weight| !weight.is_finite()))
}

/// Whether its beginning, its middle and its end are zeros.
fn looks_empty(file: &mut File, tensor: &TensorInfo) -> io::Result<bool> {
    let length = usize::try_from(tensor.bytes).map_or(LOOK, |bytes| bytes.min(LOOK));
    let last = tensor.bytes - length as u64;
    let mut places = vec![last, last / 2, 0];
    places.dedup();
    for place in places {
        let mut bytes = [0; LOOK];
        file.seek(SeekFrom::Start(tensor.file_offset + place))?;
        file.read_exact(&mut bytes[..length])?;
        if bytes[..length].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use moe_offload_synth::{
        self as synth, GgmlType, GgufWriter, SynthModel, SynthOptions, WriteTensor,
    };

    use super::*;

    fn model() -> SynthModel {
        synth::family("dbrx").unwrap().build(&SynthOptions::tiny()).unwrap()
    }

    /// The files of a model in so many parts, with zeros from these bytes of each on.
    fn saved(
        folder: &Path,
        shards: u16,
        zeros: impl Fn(usize, &GgufFile) -> Option<u64>,
    ) -> GgufFile {
        let paths = model().save(folder.join("model.gguf"), shards, |_| {}).unwrap();
        let gguf = GgufFile::open(&paths[0]).unwrap();
        for (i, path) in paths.iter().enumerate() {
            let Some(at) = zeros(i, &gguf) else { continue };
            let mut bytes = std::fs::read(path).unwrap();
            bytes[usize::try_from(at).unwrap()..].fill(0);
            std::fs::write(path, bytes).unwrap();
        }
        GgufFile::open(&paths[0]).unwrap()
    }

    #[test]
    fn a_whole_file_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        for shards in [1, 3] {
            saved(folder.path(), shards, |_, _| None).check_end().unwrap();
        }
    }

    #[test]
    fn zeros_in_place_of_the_last_tensors_are_an_unfinished_download() {
        let folder = tempfile::tempdir().unwrap();
        for from in [3, 10] {
            let place = |_, gguf: &GgufFile| {
                let tensors = gguf.tensors();
                // Inside a tensor, as a download ends.
                Some(tensors[tensors.len() - from].file_offset + 16)
            };
            let gguf = saved(folder.path(), 1, place);
            let expected = &gguf.tensors()[gguf.tensors().len() - from + 1];
            match gguf.check_end() {
                Err(Error::UnfinishedFile { at, tensor, .. }) => {
                    assert_eq!((at, &tensor), (expected.file_offset, &expected.name));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_part_without_weights_beside_others_is_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let gguf =
            saved(folder.path(), 3, |i, gguf| (i == 1).then(|| gguf.shards()[1].header_bytes));
        let second = gguf.shards()[1].path.clone();
        assert!(
            matches!(gguf.check_end(), Err(Error::UnfinishedFile { path, .. }) if path == second)
        );
    }

    #[test]
    fn a_bias_of_zeros_is_a_bias() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let mut writer = GgufWriter::new();
        writer.set("general.architecture", "dbrx");
        writer.tensor("blk.0.attn_q.weight", &[32, 32], GgmlType::F32);
        writer.tensor("blk.0.attn_q.bias", &[32], GgmlType::F32);
        let mut bytes = Vec::new();
        let matrix = |tensor: &WriteTensor, out: &mut dyn io::Write| {
            let byte = u8::from(tensor.name.ends_with("weight"));
            out.write_all(&vec![byte; 32 * 4 * if byte > 0 { 32 } else { 1 }])
        };
        writer.write(&mut bytes, |tensor, out| matrix(tensor, out)).unwrap();
        std::fs::write(&path, bytes).unwrap();
        GgufFile::open(&path).unwrap().check_end().unwrap();
    }

    #[test]
    fn a_file_to_plan_with_has_no_weights_and_says_so_only_where_they_are_needed() {
        let folder = tempfile::tempdir().unwrap();
        for shards in [1, 3] {
            let paths =
                model().save_without_weights(folder.path().join("hole.gguf"), shards).unwrap();
            let gguf = GgufFile::open(&paths[0]).unwrap();
            gguf.check_end().unwrap();
            #[cfg(feature = "llama")]
            assert!(matches!(gguf.check_weights(), Err(Error::EmptyWeights { .. })));
        }
    }
}
