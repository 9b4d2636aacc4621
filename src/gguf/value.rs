//! Metadata values of a GGUF header.

use std::fmt;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Any of the unsigned integer types.
    Unsigned(u64),
    /// Any of the signed integer types.
    Signed(i64),
    /// 32- or 64-bit float.
    Float(f64),
    /// Boolean.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// A list of values of one type.
    Array(Array),
}

impl Value {
    /// The value as an unsigned integer, if it is an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(n) => Some(*n),
            Self::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value as a float; integers are not converted.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The value as a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// What it is, in words.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) | Self::Signed(_) => "a number",
            Self::Float(_) => "a number with a fraction",
            Self::Bool(_) => "true or false",
            Self::String(_) => "a text",
            Self::Array(list) if list.element == ElementType::String => "a list of texts",
            Self::Array(_) => "a list of numbers",
        }
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(a) => Some(a),
            _ => None,
        }
    }
}

/// An array, kept in the file's own compact form (a vocabulary of 200,000 words would take several
/// times the file's bytes as separate strings).
#[derive(Clone, PartialEq)]
pub struct Array {
    pub(super) element: ElementType,
    pub(super) len: u64,
    pub(super) raw: Box<[u8]>,
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements' type, as llama.cpp names it.
    pub(crate) fn element_name(&self) -> &'static str {
        self.element.name()
    }

    /// The elements as unsigned integers; `None` for an element that is none.
    pub fn iter_u64(&self) -> impl Iterator<Item = Option<u64>> + '_ {
        self.iter().map(|value| value.as_u64())
    }

    /// The elements in order. Strings that are not UTF-8 (vocabularies hold such) are converted
    /// with replacement characters; [`Array::iter_bytes`] gives them as they are.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.iter_bytes().map(|bytes| self.element.decode(bytes))
    }

    /// The elements' bytes in order: little-endian numbers, or a string's bytes.
    pub fn iter_bytes(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let mut rest = &self.raw[..];
        std::iter::from_fn(move || {
            let size = if let Some(size) = self.element.bytes() {
                size
            } else {
                let (length, tail) = rest.split_first_chunk::<8>()?;
                rest = tail;
                usize::try_from(u64::from_le_bytes(*length)).ok()?
            };
            let (element, tail) = rest.split_at_checked(size)?;
            rest = tail;
            Some(element)
        })
        .take(usize::try_from(self.len).unwrap_or(usize::MAX))
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}; {}]", self.element, self.len)
    }
}

/// The type codes of metadata values (`gguf_type` in `gguf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElementType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

impl ElementType {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// The name as llama.cpp prints it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "str",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one element; `None` for strings, which carry their own length.
    pub(super) fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String => None,
        }
    }

    /// `bytes` must be as long as [`Self::bytes`] says.
    pub(super) fn decode(self, bytes: &[u8]) -> Value {
        let mut wide = [0; 8];
        let known = bytes.len().min(8);
        wide[..known].copy_from_slice(&bytes[..known]);
        let unsigned = u64::from_le_bytes(wide);
        #[allow(clippy::cast_possible_truncation)] // the low bytes are the value
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(unsigned),
            Self::I8 => Value::Signed(i64::from((unsigned as u8).cast_signed())),
            Self::I16 => Value::Signed(i64::from((unsigned as u16).cast_signed())),
            Self::I32 => Value::Signed(i64::from((unsigned as u32).cast_signed())),
            Self::I64 => Value::Signed(unsigned.cast_signed()),
            Self::F32 => Value::Float(f64::from(f32::from_bits(unsigned as u32))),
            Self::F64 => Value::Float(f64::from_bits(unsigned)),
            Self::Bool => Value::Bool(unsigned != 0),
            Self::String => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        }
    }
}
