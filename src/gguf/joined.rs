//! All files of a model as one: a header made in memory, and where the data behind it lies.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use super::cursor::Cursor;
use super::header::{self, MAX_HEADER_BYTES};
use super::{GgufFile, TensorInfo};
use crate::error::{Error, Result};

/// One file that has everything of a model, of which only the header exists.
#[derive(Debug)]
pub(crate) struct JoinedFile {
    /// All before the data, padded.
    pub(crate) header: Vec<u8>,
    /// Where each tensor would be, in order; zeros between them.
    pub(crate) tensors: Vec<Range<u64>>,
    /// Of the whole.
    pub(crate) bytes: u64,
}

impl GgufFile {
    /// The model in one file, with each tensor at a multiple of `alignment`, a power of two.
    ///
    /// # Errors
    /// As for [`GgufFile::open`], if the first file is not what it was.
    pub(crate) fn joined(&self, alignment: u32) -> Result<JoinedFile> {
        let shard = &self.shards[0];
        let io = |action| {
            let path = shard.path.clone();
            move |source| Error::Io { action, path, source }
        };
        let mut raw = Vec::new();
        let file = File::open(&shard.path).map_err(io("open"))?;
        file.take(shard.header_bytes).read_to_end(&mut raw).map_err(io("read"))?;
        self.check_unchanged()?;
        let bytes = raw.len() as u64;
        let mut cursor = Cursor::new(&raw[..], &shard.path, bytes, MAX_HEADER_BYTES);
        let pairs = header::pair_ranges(&mut cursor)?;
        // As they are: the engine wants each value in its own type. Ours says how it is aligned.
        let kept = |key: &str| !key.starts_with("split.") && key != "general.alignment";
        let kept = pairs.into_iter().filter(|(key, _)| kept(key));
        let pairs: Vec<&[u8]> = kept.filter_map(|(_, range)| raw.get(range)).collect();
        Ok(join(self.version, &pairs, &self.tensors, alignment))
    }
}

fn join(version: u32, pairs: &[&[u8]], tensors: &[TensorInfo], alignment: u32) -> JoinedFile {
    let mut header = b"GGUF".to_vec();
    header.extend(version.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((pairs.len() as u64 + 1).to_le_bytes());
    for pair in pairs {
        header.extend_from_slice(pair);
    }
    text(&mut header, "general.alignment");
    header.extend(4_u32.to_le_bytes()); // an unsigned 32-bit number
    header.extend(alignment.to_le_bytes());
    let alignment = u64::from(alignment);
    let mut places = Vec::with_capacity(tensors.len());
    let mut end = 0_u64; // far from overflowing, by `MAX_MODEL_BYTES` and `MAX_TENSORS`
    for tensor in tensors {
        text(&mut header, &tensor.name);
        let dimensions = u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX);
        header.extend(dimensions.to_le_bytes());
        for dimension in &tensor.shape {
            header.extend(dimension.to_le_bytes());
        }
        header.extend(tensor.ggml_type.id().to_le_bytes());
        header.extend(end.to_le_bytes());
        places.push(end..end + tensor.bytes);
        end = (end + tensor.bytes).next_multiple_of(alignment);
    }
    let start = (header.len() as u64).next_multiple_of(alignment);
    header.resize(usize::try_from(start).unwrap_or(header.len()), 0);
    let tensors = places.into_iter().map(|at| at.start + start..at.end + start).collect();
    JoinedFile { header, tensors, bytes: start + end }
}

fn text(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use moe_offload_synth::{GgmlType, GgufWriter, WriteTensor};
    use proptest::prelude::*;

    use super::*;
    use crate::gguf::Value;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_joined_header_says_what_the_parts_say(
            sizes in prop::collection::vec((1_u64..400, 1_u64..5), 1..20),
            parts in 1_u16..5,
            alignment in 5_u32..17,
        ) {
            let mut writer = GgufWriter::new();
            writer.set("general.architecture", "llama").set("a", 3_u16).set("b", 1.5_f32);
            writer.set("words", vec!["one".to_owned(), String::new()]).set("flag", true);
            for (i, (columns, rows)) in sizes.iter().enumerate() {
                writer.tensor(format!("t{i}"), &[*columns, *rows], GgmlType::F32);
            }
            let folder = tempfile::tempdir().unwrap();
            let path = |part: u16| folder.path().join(format!("m-{part:05}-of-{parts:05}.gguf"));
            for (number, part) in (1..).zip(writer.split(parts)) {
                let file = File::create(path(number)).unwrap();
                let data = |tensor: &WriteTensor, out: &mut dyn std::io::Write| {
                    out.write_all(&vec![1; usize::try_from(tensor.bytes).unwrap()])
                };
                part.write(file, data).unwrap();
            }
            let gguf = GgufFile::open(path(1)).unwrap();
            let joined = gguf.joined(1 << alignment).unwrap();
            let read = GgufFile::read(&joined.header[..], joined.bytes, "joined").unwrap();
            prop_assert_eq!(read.alignment(), 1 << alignment);
            for (key, value) in gguf.metadata() {
                let expected = (!key.starts_with("split.")).then_some(value);
                prop_assert_eq!(read.metadata().get(key), expected);
            }
            prop_assert_eq!(read.metadata().get("a"), Some(&Value::Unsigned(3)));
            prop_assert_eq!(read.tensors().len(), gguf.tensors().len());
            for ((one, other), at) in gguf.tensors().iter().zip(read.tensors()).zip(&joined.tensors) {
                prop_assert_eq!((&one.name, &one.shape), (&other.name, &other.shape));
                prop_assert_eq!((one.ggml_type, one.bytes), (other.ggml_type, other.bytes));
                prop_assert_eq!(at.clone(), other.file_offset..other.file_offset + other.bytes);
            }
        }
    }
}
