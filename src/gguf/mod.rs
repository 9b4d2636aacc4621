//! The header of a GGUF model file as validated values.
//!
//! Only the header is read: metadata and the table of tensors. Everything in it is treated as
//! hostile: each length is checked against the file's size and a named cap before memory is taken,
//! arithmetic is checked, and tensors must lie aligned, inside the file and apart from each other.
//! Every byte is read once, and never more than four times the file's bytes are taken as memory, nor
//! of a header more than [`MAX_HEADER_BYTES`] kept.
//!
//! ```
//! use moe_offload::GgufFile;
//! # use moe_offload_synth::{self as synth, SynthOptions};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("gpt-oss-20b.gguf");
//! # synth::family("gpt-oss-20b")?.build(&SynthOptions::tiny())?.save(&path, 1, |_| {})?;
//!
//! let gguf = GgufFile::open(path)?;
//! println!("{} with {} tensors", gguf.architecture()?, gguf.tensors().len());
//! # assert_eq!(gguf.architecture()?, "gpt-oss");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cursor;
mod foreign;
mod fork_types;
mod gaps;
mod header;
#[cfg(all(feature = "llama", target_os = "linux"))]
mod joined;
mod remote;
mod scalar_types;
mod shards;
#[cfg(all(test, feature = "llama"))]
pub(crate) mod testing;
mod value;
mod zeros;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use self::cursor::Cursor;
use self::header::Header;
pub use self::header::{
    MAX_DIMENSIONS, MAX_HEADER_BYTES, MAX_KEY_BYTES, MAX_METADATA_PAIRS, MAX_NAME_BYTES,
    MAX_TENSORS,
};
#[cfg(all(feature = "llama", target_os = "linux"))]
pub(crate) use self::joined::JoinedFile;
pub(crate) use self::scalar_types::{NUMBERS, NUMBERS_BY_LAYER};
use self::scalar_types::{ScalarTypes, TYPED_IN_PARTS};
use self::shards::ShardName;
pub use self::value::{Array, Value};
use crate::error::{Error, GgufFault, Result};
pub use crate::units::GgmlType;

/// What the tensors of all files of a model may have together: more than a process has addresses for.
pub const MAX_MODEL_BYTES: u64 = 1 << 47;

/// A tensor as the file's table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// The name, for example `blk.3.ffn_up_exps.weight`.
    pub name: String,
    /// Elements per dimension, the fastest first (ggml's order), one to four of them.
    pub shape: Vec<u64>,
    /// The element type.
    pub ggml_type: GgmlType,
    /// Bytes in the file.
    pub bytes: u64,
    /// Which of [`GgufFile::shards`] holds the data.
    pub shard: usize,
    /// Where the data starts in that shard, in bytes from the start of the file.
    pub file_offset: u64,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shard {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub file_bytes: u64,
    /// Bytes of its header, before the tensor data.
    pub header_bytes: u64,
    /// To whose multiples its tensors are aligned.
    alignment: u64,
    /// When it was last written, where it is a file and the system tells.
    modified: Option<SystemTime>,
}

impl Shard {
    pub(crate) fn alignment(&self) -> u64 {
        self.alignment
    }

    /// Where the data of its first tensor begins.
    pub(crate) fn data_start(&self) -> u64 {
        self.header_bytes.checked_next_multiple_of(self.alignment).unwrap_or(u64::MAX)
    }
}

/// The header of a model, over all its files.
#[derive(Clone, Debug)]
pub struct GgufFile {
    version: u32,
    alignment: u64,
    metadata: BTreeMap<String, Value>,
    scalar_types: ScalarTypes,
    tensors: Vec<TensorInfo>,
    shards: Vec<Shard>,
}

impl GgufFile {
    /// Reads the header of the model at `path`; of a split model, give the first file, and the
    /// headers of all files beside it are read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotDownloaded`], [`Error::IsDirectory`], [`Error::NotAFile`], [`Error::NotGguf`], [`Error::TruncatedGguf`],
    /// [`Error::InvalidGguf`], [`Error::MetadataType`] or [`Error::TensorOutsideFile`] for a file that is missing or
    /// broken; [`Error::ForkTensorType`] for one that only a fork of llama.cpp reads; [`Error::JoinedFiles`],
    /// [`Error::NotFirstShard`], [`Error::MissingShard`] or [`Error::ShardMismatch`] for a split
    /// model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (header, shard) = open_one(path)?;
        let mut gguf = Self::of(header, shard);
        gguf.open_siblings(path)?;
        Ok(gguf)
    }

    /// Reads one header from any source of `file_bytes` bytes; errors name `path`. Split models
    /// are not followed. For tests, fuzzing, and files inside other files.
    ///
    /// # Errors
    /// As [`GgufFile::open`], without those about files and shards.
    pub fn read(source: impl Read, file_bytes: u64, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let header = Header::read(&mut Cursor::new(source, path, file_bytes, MAX_HEADER_BYTES))?;
        let Header { bytes: header_bytes, alignment, .. } = header;
        let path = path.to_owned();
        let shard = Shard { path, file_bytes, header_bytes, alignment, modified: None };
        Ok(Self::of(header, shard))
    }

    /// Sees whether the files are still those whose headers were read, by size and time.
    ///
    /// # Errors
    /// [`Error::FileChanged`], or [`Error::Io`] for one that is gone.
    pub fn check_unchanged(&self) -> Result<()> {
        for shard in self.shards.iter().filter(|shard| shard.modified.is_some()) {
            let path = || shard.path.clone();
            let attributes = std::fs::metadata(&shard.path).map_err(|source| Error::Io {
                action: "inspect",
                path: path(),
                source,
            })?;
            let now = (attributes.len(), attributes.modified().ok());
            if now != (shard.file_bytes, shard.modified) {
                return Err(Error::FileChanged { path: path() });
            }
        }
        Ok(())
    }

    /// The first file of the model, the one to load.
    pub fn path(&self) -> &Path {
        &self.shards[0].path
    }

    /// All files of the model, in order.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Version of the GGUF format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// Bytes of all tensors together.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// The metadata of the first file, by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The model's architecture (`general.architecture`), for example `gpt-oss`.
    ///
    /// # Errors
    /// [`Error::MissingMetadata`] if the file does not say.
    pub fn architecture(&self) -> Result<&str> {
        self.metadata
            .get("general.architecture")
            .and_then(Value::as_str)
            .ok_or_else(|| self.missing("general.architecture"))
    }

    /// A value under the architecture's own prefix, for example `block_count` for
    /// `gpt-oss.block_count`.
    pub fn hyper_parameter(&self, key: &str) -> Option<&Value> {
        let architecture = self.architecture().ok()?;
        self.metadata.get(&format!("{architecture}.{key}"))
    }

    /// The name of a hyper-parameter's type in the file, for those that the engine takes in one type only.
    pub(crate) fn scalar_type(&self, key: &str) -> Option<&'static str> {
        let architecture = self.architecture().ok()?;
        self.scalar_types.name(&format!("{architecture}.{key}"))
    }

    pub(crate) fn missing(&self, key: &str) -> Error {
        Error::MissingMetadata { path: self.path().to_owned(), key: key.to_owned() }
    }

    fn of(header: Header, shard: Shard) -> Self {
        let mut gguf = Self {
            version: header.version,
            alignment: header.alignment,
            metadata: header.metadata,
            scalar_types: header.scalar_types,
            tensors: Vec::new(),
            shards: Vec::new(),
        };
        gguf.add(shard, header.tensors);
        gguf
    }

    fn add(&mut self, shard: Shard, entries: Vec<header::TensorEntry>) {
        let index = self.shards.len();
        self.shards.push(shard);
        self.tensors.extend(entries.into_iter().map(|entry| TensorInfo {
            name: entry.name,
            shape: entry.shape,
            ggml_type: entry.ggml_type,
            bytes: entry.bytes,
            shard: index,
            file_offset: entry.file_offset,
        }));
    }

    fn open_siblings(&mut self, path: &Path) -> Result<()> {
        let count = self.metadata.get("split.count").and_then(Value::as_u64).unwrap_or(0);
        if count <= 1 {
            return Ok(());
        }
        check_part_types(path, &self.scalar_types)?;
        let number = self.metadata.get("split.no").and_then(Value::as_u64).unwrap_or(0);
        let name = ShardName::parse(path)
            .filter(|name| {
                u64::from(name.count) == count && number.checked_add(1) == Some(name.number.into())
            })
            .ok_or_else(|| Error::ShardMismatch {
                path: path.to_owned(),
                what: "the end of its file name",
                expected: format!("-{:05}-of-{count:05}.gguf", number.saturating_add(1)),
            })?;
        if number != 0 {
            return Err(Error::NotFirstShard { path: path.to_owned(), first: name.path(path, 1) });
        }
        for number in 2..=name.count {
            self.add_sibling(path, &name, number)?;
        }
        self.check_split(path)
    }

    fn add_sibling(&mut self, first: &Path, name: &ShardName, number: u32) -> Result<()> {
        let path = name.path(first, number);
        if !path.exists() {
            return Err(Error::MissingShard { path, number, count: name.count });
        }
        let (header, shard) = open_one(&path)?;
        check_part_types(&path, &header.scalar_types)?;
        for (key, expected) in [("split.no", number - 1), ("split.count", name.count)] {
            let found = header.metadata.get(key).and_then(Value::as_u64);
            if found != Some(u64::from(expected)) {
                let expected = expected.to_string();
                return Err(Error::ShardMismatch { path, what: key, expected });
            }
        }
        self.add(shard, header.tensors);
        Ok(())
    }

    /// No single file is so large, but files of holes are together, and sums must not overflow.
    fn check_size(&self, path: &Path) -> Result<()> {
        let mut bytes = self.tensors.iter().map(|tensor| tensor.bytes);
        let fits =
            bytes.try_fold(0_u64, u64::checked_add).is_some_and(|bytes| bytes <= MAX_MODEL_BYTES);
        let fault = GgufFault::ModelTooLarge { max: MAX_MODEL_BYTES };
        if fits {
            return Ok(());
        }
        Err(Error::InvalidGguf { path: path.to_owned(), offset: 0, fault })
    }

    fn check_split(&self, path: &Path) -> Result<()> {
        self.check_size(path)?;
        let mut names = HashSet::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            if !names.insert(&tensor.name) {
                let fault = GgufFault::DuplicateTensor { tensor: tensor.name.clone() };
                let path = self.shards[tensor.shard].path.clone();
                return Err(Error::InvalidGguf { path, offset: 0, fault });
            }
        }
        let expected = self.metadata.get("split.tensors.count").and_then(Value::as_u64);
        match expected {
            Some(count) if count != self.tensors.len() as u64 => Err(Error::ShardMismatch {
                path: path.to_owned(),
                what: "split.tensors.count",
                expected: self.tensors.len().to_string(),
            }),
            _ => Ok(()),
        }
    }
}

fn check_part_types(path: &Path, types: &ScalarTypes) -> Result<()> {
    TYPED_IN_PARTS.iter().try_for_each(|&(key, expected)| types.expect(path, key, expected))
}

/// Where another GGUF file begins after the end of this one's data, as when parts were joined by `cat`.
fn second_file(mut file: &File, header: &Header) -> Option<u64> {
    let end = header.end();
    let padded = end.checked_next_multiple_of(header.alignment)?;
    let begins = |at: u64| {
        let mut start = [0; 8];
        file.seek(SeekFrom::Start(at)).ok()?;
        file.read_exact(&mut start).ok()?;
        matches!(&start, [b'G', b'G', b'U', b'F', 2 | 3, 0, 0, 0]).then_some(at)
    };
    [end, padded].into_iter().find_map(begins)
}

fn open_one(path: &Path) -> Result<(Header, Shard)> {
    let io = |action| move |source| Error::Io { action, path: path.to_owned(), source };
    // Before opening: that of a pipe would wait for a writer.
    let attributes = std::fs::metadata(path).map_err(|source| match remote::how_to_get(path) {
        Some(how) => Error::NotDownloaded { path: path.to_owned(), how },
        None => io("open")(source),
    })?;
    if attributes.is_dir() {
        return Err(Error::IsDirectory { path: path.to_owned() });
    }
    if !attributes.is_file() {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    let file = File::open(path).map_err(io("open"))?;
    let attributes = file.metadata().map_err(io("inspect"))?;
    let (file_bytes, modified) = (attributes.len(), attributes.modified().ok());
    let source = BufReader::with_capacity(1 << 18, &file);
    let mut cursor = Cursor::new(source, path, file_bytes, MAX_HEADER_BYTES);
    let header = Header::read(&mut cursor)?;
    if let Some(at) = second_file(&file, &header) {
        return Err(Error::JoinedFiles { path: path.to_owned(), at });
    }
    let Header { bytes: header_bytes, alignment, .. } = header;
    Ok((header, Shard { path: path.to_owned(), file_bytes, header_bytes, alignment, modified }))
}
