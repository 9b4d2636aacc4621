//! Writes GGUF files, one or several shards, streaming the tensor data.

use std::io::{self, Read, Write};

use moe_offload::gguf::GgmlType;

/// Where the file does not say (`general.alignment`).
const DEFAULT_ALIGNMENT: u64 = 32;

/// A metadata value to write.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs)] // named after the format's own types
pub enum WriteValue {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    I32s(Vec<i32>),
    U32s(Vec<u32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Strings(Vec<String>),
}

macro_rules! write_value_from {
    ($($source:ty => $variant:ident),* $(,)?) => { $(
        impl From<$source> for WriteValue {
            fn from(value: $source) -> Self {
                Self::$variant(value.into())
            }
        }
    )* };
}
write_value_from! {
    u16 => U16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, &str => String, String => String,
    Vec<i32> => I32s, Vec<u32> => U32s, Vec<f32> => F32s, Vec<bool> => Bools, Vec<String> => Strings,
}

/// Collects metadata and a tensor table, then writes one GGUF file.
///
/// Tensor data is asked for one tensor at a time, in order, so that a file larger than memory can
/// be written.
///
/// ```
/// use moe_offload::gguf::{GgmlType, GgufFile};
/// use moe_offload_synth::GgufWriter;
///
/// let mut writer = GgufWriter::new();
/// writer.set("general.architecture", "llama");
/// writer.tensor("output_norm.weight", &[64], GgmlType::F32);
/// let mut file = Vec::new();
/// writer.write(&mut file, |_tensor, out| out.write_all(&[0; 256]))?;
///
/// let gguf = GgufFile::read(&file[..], file.len() as u64, "memory")?;
/// assert_eq!(gguf.tensors()[0].bytes, 256);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    metadata: Vec<(String, WriteValue)>,
    tensors: Vec<WriteTensor>,
}

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WriteTensor {
    /// The name.
    pub name: String,
    /// Elements per dimension, the fastest first.
    pub shape: Vec<u64>,
    /// The element type.
    pub ggml_type: GgmlType,
    /// Bytes of its data.
    pub bytes: u64,
}

impl GgufWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a metadata value; a later value replaces an earlier one of the same key.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<WriteValue>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        match self.metadata.iter_mut().find(|(known, _)| *known == key) {
            Some(pair) => pair.1 = value,
            None => self.metadata.push((key, value)),
        }
        self
    }

    /// Adds a tensor.
    ///
    /// # Panics
    /// If a row is no whole number of the type's blocks, or the size overflows.
    pub fn tensor(
        &mut self,
        name: impl Into<String>,
        shape: &[u64],
        ggml_type: GgmlType,
    ) -> &mut Self {
        let (name, shape) = (name.into(), shape.to_vec());
        let bytes = ggml_type
            .tensor_bytes(&shape)
            .unwrap_or_else(|| panic!("tensor {name} of {ggml_type} cannot have shape {shape:?}"));
        self.tensors.push(WriteTensor { name, shape, ggml_type, bytes });
        self
    }

    /// The metadata so far.
    pub fn metadata(&self) -> &[(String, WriteValue)] {
        &self.metadata
    }

    /// The tensors so far.
    pub fn tensors(&self) -> &[WriteTensor] {
        &self.tensors
    }

    /// Bytes of all tensor data.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// This file divided into `count` shards of about equal bytes, each with the keys that mark it
    /// as a part. Write them as `name-00001-of-0000N.gguf` and so on.
    pub fn split(&self, count: u16) -> Vec<Self> {
        let target = self.tensor_bytes() / u64::from(count.max(1)) + 1;
        let mut parts = vec![Self::new(); usize::from(count.max(1))];
        parts[0].metadata.clone_from(&self.metadata);
        let mut before = 0;
        for tensor in &self.tensors {
            let part = usize::try_from(before / target).unwrap_or(0).min(parts.len() - 1);
            parts[part].tensors.push(tensor.clone());
            before += tensor.bytes;
        }
        let total = i32::try_from(self.tensors.len()).unwrap_or(i32::MAX);
        for (number, part) in (0_u16..).zip(&mut parts) {
            part.set("split.no", number)
                .set("split.count", count)
                .set("split.tensors.count", total);
        }
        parts
    }

    /// Bytes to whose multiples tensors are aligned: `general.alignment` where it is a power of two, else 32.
    fn alignment(&self) -> u64 {
        let value = self.metadata.iter().find(|(key, _)| key == "general.alignment");
        match value {
            Some((_, WriteValue::U32(n))) if n.is_power_of_two() => u64::from(*n),
            _ => DEFAULT_ALIGNMENT,
        }
    }

    /// Writes the file. `data` must write exactly each tensor's bytes.
    ///
    /// # Errors
    /// What `out` or `data` return; [`io::ErrorKind::InvalidData`] if `data` writes another number
    /// of bytes than the tensor has.
    pub fn write<W: Write>(
        &self,
        out: W,
        mut data: impl FnMut(&WriteTensor, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut out = Counted { inner: out, written: 0, alignment: self.alignment() };
        self.write_header(&mut out)?;
        for tensor in &self.tensors {
            out.pad()?;
            let start = out.written;
            data(tensor, &mut out)?;
            let written = out.written - start;
            if written != tensor.bytes {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{written} bytes written for {}, not {}", tensor.name, tensor.bytes),
                ));
            }
        }
        out.pad()?;
        out.flush()
    }

    /// Writes everything before the tensor data, unpadded.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write_header(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(b"GGUF")?;
        out.write_all(&3_u32.to_le_bytes())?;
        out.write_all(&(self.tensors.len() as u64).to_le_bytes())?;
        out.write_all(&(self.metadata.len() as u64).to_le_bytes())?;
        for (key, value) in &self.metadata {
            write_text(out, key)?;
            write_value(out, value)?;
        }
        let (mut offset, alignment) = (0_u64, self.alignment());
        for tensor in &self.tensors {
            write_text(out, &tensor.name)?;
            let dimensions = u32::try_from(tensor.shape.len()).unwrap_or(u32::MAX);
            out.write_all(&dimensions.to_le_bytes())?;
            for dimension in &tensor.shape {
                out.write_all(&dimension.to_le_bytes())?;
            }
            out.write_all(&tensor.ggml_type.id().to_le_bytes())?;
            out.write_all(&offset.to_le_bytes())?;
            offset = (offset + tensor.bytes).next_multiple_of(alignment);
        }
        Ok(())
    }
}

struct Counted<W> {
    inner: W,
    written: u64,
    alignment: u64,
}

impl<W: Write> Counted<W> {
    fn pad(&mut self) -> io::Result<()> {
        let padding = self.written.next_multiple_of(self.alignment) - self.written;
        io::copy(&mut io::repeat(0).take(padding), self).map(|_| ())
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write_text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn write_value(out: &mut dyn Write, value: &WriteValue) -> io::Result<()> {
    fn scalar(out: &mut dyn Write, id: u32, bytes: &[u8]) -> io::Result<()> {
        out.write_all(&id.to_le_bytes())?;
        out.write_all(bytes)
    }
    fn array<T>(
        out: &mut dyn Write,
        id: u32,
        values: &[T],
        element: impl Fn(&mut dyn Write, &T) -> io::Result<()>,
    ) -> io::Result<()> {
        out.write_all(&9_u32.to_le_bytes())?;
        out.write_all(&id.to_le_bytes())?;
        out.write_all(&(values.len() as u64).to_le_bytes())?;
        values.iter().try_for_each(|value| element(out, value))
    }
    match value {
        WriteValue::U16(n) => scalar(out, 2, &n.to_le_bytes()),
        WriteValue::U32(n) => scalar(out, 4, &n.to_le_bytes()),
        WriteValue::I32(n) => scalar(out, 5, &n.to_le_bytes()),
        WriteValue::F32(x) => scalar(out, 6, &x.to_le_bytes()),
        WriteValue::Bool(b) => scalar(out, 7, &[u8::from(*b)]),
        WriteValue::String(text) => {
            out.write_all(&8_u32.to_le_bytes())?;
            write_text(out, text)
        }
        WriteValue::U32s(values) => array(out, 4, values, |out, n| out.write_all(&n.to_le_bytes())),
        WriteValue::I32s(values) => array(out, 5, values, |out, n| out.write_all(&n.to_le_bytes())),
        WriteValue::F32s(values) => array(out, 6, values, |out, x| out.write_all(&x.to_le_bytes())),
        WriteValue::Bools(values) => array(out, 7, values, |out, b| out.write_all(&[u8::from(*b)])),
        WriteValue::Strings(values) => array(out, 8, values, |out, text| write_text(out, text)),
    }
}
