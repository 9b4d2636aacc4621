//! One file's header: magic, metadata, tensor table.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use super::cursor::Cursor;
use super::scalar_types::{ALWAYS_TYPED, ScalarTypes};
use super::value::{Array, ElementType, Value};
use super::{GgmlType, foreign, fork_types};
use crate::error::{Error, GgufFault, Result};

/// Metadata pairs in one file. Published models have fewer than a hundred.
pub const MAX_METADATA_PAIRS: u64 = 65_536;
/// Tensors in one file. The largest published models have a few thousand.
pub const MAX_TENSORS: u64 = 131_072;
/// Bytes of a metadata key (the limit of the format's specification).
pub const MAX_KEY_BYTES: u64 = 65_535;
/// Bytes of a tensor's name; the engine keeps 64 with the terminator.
pub const MAX_NAME_BYTES: u64 = 63;
/// Bytes of all metadata and the tensor table of one file. Vocabularies take a few dozen MiB.
pub const MAX_HEADER_BYTES: u64 = 1 << 30;
/// Dimensions of a tensor (`GGML_MAX_DIMS`).
pub const MAX_DIMENSIONS: u32 = 4;
/// The type code of an array.
const ARRAY: u32 = 9;
const DEFAULT_ALIGNMENT: u64 = 32;
/// The format's own limit is any power of two; nobody aligns by more than a huge page.
const MAX_ALIGNMENT: u64 = 1 << 30;

/// A tensor as the table describes it; its offset counts from the start of the file.
pub(super) struct TensorEntry {
    pub(super) name: String,
    pub(super) shape: Vec<u64>,
    pub(super) ggml_type: GgmlType,
    pub(super) bytes: u64,
    pub(super) file_offset: u64,
}

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) metadata: BTreeMap<String, Value>,
    /// The types of those values that the engine takes in one type only.
    pub(super) scalar_types: ScalarTypes,
    pub(super) tensors: Vec<TensorEntry>,
    /// Bytes before the tensor data, without padding.
    pub(super) bytes: u64,
}

impl Header {
    /// Where the last of the data ends, without padding.
    pub(super) fn end(&self) -> u64 {
        let ends = self.tensors.iter().map(|tensor| tensor.file_offset + tensor.bytes);
        ends.max().unwrap_or(self.bytes)
    }

    pub(super) fn read<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<Self> {
        let (version, tensor_count, pair_count) = read_counts(cursor)?;
        let mut metadata = BTreeMap::new();
        let mut scalar_types = ScalarTypes::default();
        for _ in 0..pair_count {
            let (key, type_id, value) = read_pair(cursor)?;
            if metadata.contains_key(&key) {
                return Err(cursor.fault(GgufFault::DuplicateKey { key }));
            }
            scalar_types.note(&key, type_id);
            metadata.insert(key, value);
        }
        for (key, expected) in ALWAYS_TYPED {
            scalar_types.expect(cursor.path(), key, expected)?;
        }
        let alignment = alignment(cursor, &metadata)?;
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(read_tensor(cursor)?);
        }
        let bytes = cursor.offset();
        let data_start = bytes.next_multiple_of(alignment);
        place_tensors(cursor, &mut tensors, data_start, alignment)?;
        Ok(Self { version, alignment, metadata, scalar_types, tensors, bytes })
    }
}

/// Version, tensors and metadata pairs.
fn read_counts<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<(u32, u64, u64)> {
    let version = read_version(cursor)?;
    let tensors = counted(cursor, "the tensor count", MAX_TENSORS, |count, max| {
        GgufFault::TooManyTensors { count, max }
    })?;
    let pairs = counted(cursor, "the metadata count", MAX_METADATA_PAIRS, |count, max| {
        GgufFault::TooMuchMetadata { count, max }
    })?;
    Ok((version, tensors, pairs))
}

/// Where in a header each metadata pair lies.
#[cfg(all(feature = "llama", target_os = "linux"))]
pub(super) fn pair_ranges<R: Read>(
    cursor: &mut Cursor<'_, R>,
) -> Result<Vec<(String, std::ops::Range<usize>)>> {
    let (_, _, count) = read_counts(cursor)?;
    let offset = |cursor: &Cursor<'_, R>| usize::try_from(cursor.offset()).unwrap_or(usize::MAX);
    let pair = |_| {
        let start = offset(cursor);
        let (key, ..) = read_pair(cursor)?;
        Ok((key, start..offset(cursor)))
    };
    (0..count).map(pair).collect()
}

fn read_version<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<u32> {
    let magic: [u8; 4] = cursor.array("the magic bytes `GGUF`")?;
    if &magic != b"GGUF" {
        let mut beginning = magic.to_vec();
        beginning.extend(cursor.peek(foreign::LOOKED_AT));
        let found = foreign::classify(&beginning, cursor.file_bytes());
        return Err(Error::NotGguf { path: cursor.path().to_owned(), magic, found });
    }
    let version = cursor.u32("the format version")?;
    match version {
        2 | 3 => Ok(version),
        _ if version.trailing_zeros() >= 16 && version != 0 => {
            Err(cursor.fault(GgufFault::BigEndian))
        }
        _ => Err(cursor.fault(GgufFault::UnsupportedVersion { version })),
    }
}

fn counted<R: Read>(
    cursor: &mut Cursor<'_, R>,
    what: &'static str,
    max: u64,
    fault: fn(u64, u64) -> GgufFault,
) -> Result<u64> {
    let count = cursor.u64(what)?;
    if count > max { Err(cursor.fault(fault(count, max))) } else { Ok(count) }
}

fn read_string<R: Read>(
    cursor: &mut Cursor<'_, R>,
    what: &'static str,
    max_bytes: u64,
) -> Result<String> {
    let length = cursor.u64(what)?;
    if length > max_bytes {
        return Err(cursor.fault(GgufFault::StringTooLong { what, bytes: length, max: max_bytes }));
    }
    let mut bytes = Vec::new();
    cursor.append(length, &mut bytes, what)?;
    String::from_utf8(bytes).map_err(|_| cursor.fault(GgufFault::InvalidUtf8 { what }))
}

/// A key, the code of its value's type, and the value.
fn read_pair<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<(String, u32, Value)> {
    let key = read_string(cursor, "a metadata key", MAX_KEY_BYTES)?;
    if key.is_empty() {
        return Err(cursor.fault(GgufFault::EmptyName { what: "a metadata key" }));
    }
    let type_id = cursor.u32("a metadata type")?;
    let value = if type_id == ARRAY {
        Value::Array(read_array(cursor, &key)?)
    } else {
        match element_type(cursor, &key, type_id)? {
            ElementType::String => {
                Value::String(read_string(cursor, "a metadata text", MAX_HEADER_BYTES)?)
            }
            scalar => {
                let mut bytes = Vec::with_capacity(8);
                cursor.append(
                    scalar.bytes().unwrap_or(0) as u64,
                    &mut bytes,
                    "a metadata value",
                )?;
                scalar.decode(&bytes)
            }
        }
    };
    Ok((key, type_id, value))
}

fn element_type<R: Read>(cursor: &Cursor<'_, R>, key: &str, id: u32) -> Result<ElementType> {
    ElementType::from_id(id)
        .ok_or_else(|| cursor.fault(GgufFault::UnknownValueType { key: key.to_owned(), id }))
}

fn read_array<R: Read>(cursor: &mut Cursor<'_, R>, key: &str) -> Result<Array> {
    let id = cursor.u32("an array's element type")?;
    if id == ARRAY {
        return Err(cursor.fault(GgufFault::NestedArray { key: key.to_owned() }));
    }
    let element = element_type(cursor, key, id)?;
    let len = cursor.u64("an array's length")?;
    let mut raw = Vec::new();
    if let Some(size) = element.bytes() {
        let bytes = len.checked_mul(size as u64).filter(|&bytes| bytes <= MAX_HEADER_BYTES);
        let too_long = GgufFault::ArrayTooLong { key: key.to_owned(), len };
        cursor.append(bytes.ok_or_else(|| cursor.fault(too_long))?, &mut raw, "an array")?;
    } else {
        for _ in 0..len {
            let length: [u8; 8] = cursor.array("the length of a text in an array")?;
            raw.extend_from_slice(&length);
            cursor.append(u64::from_le_bytes(length), &mut raw, "a text in an array")?;
        }
    }
    Ok(Array { element, len, raw: raw.into_boxed_slice() })
}

fn alignment<R: Read>(cursor: &Cursor<'_, R>, metadata: &BTreeMap<String, Value>) -> Result<u64> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match value.as_u64() {
        Some(n) if n.is_power_of_two() && n <= MAX_ALIGNMENT => Ok(n),
        _ => Err(cursor.fault(GgufFault::BadAlignment {
            value: value
                .as_u64()
                .map_or_else(|| "no positive number".to_owned(), |n| n.to_string()),
        })),
    }
}

fn read_tensor<R: Read>(cursor: &mut Cursor<'_, R>) -> Result<TensorEntry> {
    let name = read_string(cursor, "a tensor's name", MAX_NAME_BYTES)?;
    if name.is_empty() {
        return Err(cursor.fault(GgufFault::EmptyName { what: "a tensor's name" }));
    }
    let dimensions = cursor.u32("a tensor's dimension count")?;
    if dimensions > MAX_DIMENSIONS {
        return Err(cursor.fault(GgufFault::BadDimensions { tensor: name, dimensions }));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        shape.push(cursor.u64("a tensor's shape")?);
    }
    let type_id = cursor.u32("a tensor's type")?;
    let Some(ggml_type) = GgmlType::from_id(type_id) else {
        return Err(unknown_type(cursor, name, type_id));
    };
    let elements = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d));
    let bytes = ggml_type.tensor_bytes(&shape);
    let file_offset = cursor.u64("a tensor's offset")?;
    match (elements, bytes) {
        (Some(0..=0x7FFF_FFFF_FFFF_FFFF), Some(bytes)) => {
            Ok(TensorEntry { name, shape, ggml_type, bytes, file_offset })
        }
        _ => Err(cursor.fault(GgufFault::BadShape { tensor: name, shape, ggml_type })),
    }
}

fn unknown_type<R: Read>(cursor: &Cursor<'_, R>, tensor: String, id: u32) -> Error {
    let Some(ggml_type) = fork_types::ik_llama(id) else {
        return cursor.fault(GgufFault::UnknownTensorType { tensor, id });
    };
    let (path, fork) = (cursor.path().to_owned(), fork_types::IK_LLAMA);
    Error::ForkTensorType { path, tensor, id, ggml_type, fork }
}

/// Makes offsets absolute; every tensor must lie aligned, inside the file and apart from others.
fn place_tensors<R: Read>(
    cursor: &Cursor<'_, R>,
    tensors: &mut [TensorEntry],
    data_start: u64,
    alignment: u64,
) -> Result<()> {
    let mut names = HashSet::with_capacity(tensors.len());
    for tensor in tensors.iter_mut() {
        if !names.insert(tensor.name.as_str()) {
            return Err(cursor.fault(GgufFault::DuplicateTensor { tensor: tensor.name.clone() }));
        }
        if !tensor.file_offset.is_multiple_of(alignment) {
            return Err(cursor.fault(GgufFault::Misaligned {
                tensor: tensor.name.clone(),
                data_offset: tensor.file_offset,
                alignment,
            }));
        }
        let start = data_start.checked_add(tensor.file_offset);
        match start.and_then(|start| start.checked_add(tensor.bytes)) {
            Some(end) if end <= cursor.file_bytes() => {
                tensor.file_offset += data_start;
            }
            _ => {
                return Err(Error::TensorOutsideFile {
                    path: cursor.path().to_owned(),
                    tensor: tensor.name.clone(),
                    needed_bytes: start.unwrap_or(u64::MAX).saturating_add(tensor.bytes),
                    file_bytes: cursor.file_bytes(),
                });
            }
        }
    }
    drop(names);
    let mut order: Vec<&TensorEntry> = tensors.iter().collect();
    order.sort_unstable_by_key(|tensor| tensor.file_offset);
    for pair in order.windows(2) {
        if pair[0].file_offset + pair[0].bytes > pair[1].file_offset {
            return Err(cursor.fault(GgufFault::Overlap {
                tensor: pair[0].name.clone(),
                other: pair[1].name.clone(),
            }));
        }
    }
    Ok(())
}
