//! The tensor element types of ggml and how many bytes they take.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A ggml tensor type, for example `f16` or `q4_K`.
///
/// Elements are stored in blocks along the first dimension; sizes are those of `ggml.c` in the
/// pinned llama.cpp (a test compares them with the engine's own).
///
/// ```
/// use moe_offload::gguf::GgmlType;
///
/// let mxfp4 = GgmlType::from_id(39).unwrap();
/// assert_eq!(mxfp4.name(), "mxfp4");
/// assert_eq!((mxfp4.block_elements(), mxfp4.block_bytes()), (32, 17));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GgmlType(u32);

impl GgmlType {
    /// 32-bit float.
    pub const F32: Self = Self(0);
    /// 16-bit float.
    pub const F16: Self = Self(1);
    /// 8-bit blocks of 32 with one scale.
    pub const Q8_0: Self = Self(8);

    /// Every type that the pinned engine stores in files.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..64).filter_map(Self::from_id)
    }

    /// The type with this id in a GGUF file, or `None` where the pinned engine has none.
    pub fn from_id(id: u32) -> Option<Self> {
        describe(id).map(|_| Self(id))
    }

    /// The type of this name as ggml prints it, in either case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// The id in a GGUF file.
    pub fn id(self) -> u32 {
        self.0
    }

    /// The name as ggml prints it.
    pub fn name(self) -> &'static str {
        self.layout().0
    }

    /// Elements in one block.
    pub fn block_elements(self) -> u64 {
        self.layout().1
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        self.layout().2
    }

    /// Whether several elements share a block.
    pub fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }

    /// Bytes of a tensor of this shape, or `None` if a row is no whole number of blocks or the
    /// product overflows.
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        let (_, block_elements, block_bytes) = self.layout();
        let row = shape.first().copied().unwrap_or(1);
        if !row.is_multiple_of(block_elements) {
            return None;
        }
        let row_bytes = (row / block_elements).checked_mul(block_bytes)?;
        shape.iter().skip(1).try_fold(row_bytes, |bytes, &n| bytes.checked_mul(n))
    }

    fn layout(self) -> (&'static str, u64, u64) {
        describe(self.0).unwrap_or(("f32", 1, 4)) // only described ids can be constructed
    }
}

/// Name, elements per block and bytes per block.
fn describe(id: u32) -> Option<(&'static str, u64, u64)> {
    Some(match id {
        0 => ("f32", 1, 4),
        1 => ("f16", 1, 2),
        2 => ("q4_0", 32, 18),
        3 => ("q4_1", 32, 20),
        6 => ("q5_0", 32, 22),
        7 => ("q5_1", 32, 24),
        8 => ("q8_0", 32, 34),
        9 => ("q8_1", 32, 36),
        10 => ("q2_K", 256, 84),
        11 => ("q3_K", 256, 110),
        12 => ("q4_K", 256, 144),
        13 => ("q5_K", 256, 176),
        14 => ("q6_K", 256, 210),
        15 => ("q8_K", 256, 292),
        16 => ("iq2_xxs", 256, 66),
        17 => ("iq2_xs", 256, 74),
        18 => ("iq3_xxs", 256, 98),
        19 => ("iq1_s", 256, 50),
        20 => ("iq4_nl", 32, 18),
        21 => ("iq3_s", 256, 110),
        22 => ("iq2_s", 256, 82),
        23 => ("iq4_xs", 256, 136),
        24 => ("i8", 1, 1),
        25 => ("i16", 1, 2),
        26 => ("i32", 1, 4),
        27 => ("i64", 1, 8),
        28 => ("f64", 1, 8),
        29 => ("iq1_m", 256, 56),
        30 => ("bf16", 1, 2),
        34 => ("tq1_0", 256, 54),
        35 => ("tq2_0", 256, 66),
        39 => ("mxfp4", 32, 17),
        40 => ("nvfp4", 64, 36),
        41 => ("q1_0", 128, 18),
        42 => ("q2_0", 64, 18),
        _ => return None,
    })
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GgmlType({})", self.name())
    }
}

impl From<GgmlType> for String {
    fn from(value: GgmlType) -> Self {
        value.name().to_owned()
    }
}

impl TryFrom<String> for GgmlType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::from_name(&name).ok_or_else(|| format!("unknown ggml type `{name}`"))
    }
}
