//! A GGUF file in pieces that can be changed one by one, also to what no file may hold.

/// A metadata value as its bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum RawValue {
    /// A type's id and the value's bytes; text without its length.
    One(u32, Vec<u8>),
    /// An element type's id and the elements' bytes.
    Many(u32, Vec<Vec<u8>>),
}

#[derive(Clone, Debug)]
pub struct RawTensor {
    pub name: Vec<u8>,
    pub shape: Vec<u64>,
    pub type_id: u32,
    /// Where the table says that the data lies, if not where it does.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct RawFile {
    pub version: u32,
    pub pairs: Vec<(Vec<u8>, RawValue)>,
    pub tensors: Vec<RawTensor>,
    pub alignment: usize,
    /// Lies about how many there are.
    pub pair_count: Option<u64>,
    pub tensor_count: Option<u64>,
}

pub const TEXT: u32 = 8;
pub const ARRAY: u32 = 9;

/// Bytes of a value of this type; none for text and arrays.
pub fn width(type_id: u32) -> Option<usize> {
    Some(match type_id {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// Reads what this crate's own writer wrote.
struct Reader<'a>(&'a [u8], usize);

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.0[self.1..self.1 + count].to_vec();
        self.1 += count;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes(8).try_into().unwrap())
    }

    fn size(&mut self) -> usize {
        usize::try_from(self.u64()).unwrap()
    }

    fn element(&mut self, type_id: u32) -> Vec<u8> {
        let count = width(type_id).unwrap_or_else(|| self.size());
        self.bytes(count)
    }

    fn value(&mut self) -> RawValue {
        let type_id = self.u32();
        if type_id != ARRAY {
            return RawValue::One(type_id, self.element(type_id));
        }
        let type_id = self.u32();
        let count = self.size();
        RawValue::Many(type_id, (0..count).map(|_| self.element(type_id)).collect())
    }

    fn tensor(&mut self) -> RawTensor {
        let name = self.element(TEXT);
        let dimensions = self.u32();
        RawTensor {
            name,
            shape: (0..dimensions).map(|_| self.u64()).collect(),
            type_id: self.u32(),
            offset: Some(self.u64()),
            data: Vec::new(),
        }
    }
}

impl RawFile {
    /// Takes a valid file apart.
    pub fn parse(file: &[u8]) -> Self {
        let mut reader = Reader(file, 4);
        let version = reader.u32();
        let (tensors, pairs) = (reader.size(), reader.size());
        let pairs = (0..pairs).map(|_| (reader.element(TEXT), reader.value())).collect();
        let mut tensors: Vec<RawTensor> = (0..tensors).map(|_| reader.tensor()).collect();
        let start = reader.1.next_multiple_of(32);
        let mut end = file.len();
        for tensor in tensors.iter_mut().rev() {
            let from = start + usize::try_from(tensor.offset.take().unwrap()).unwrap();
            tensor.data = file[from..end].to_vec();
            end = from;
        }
        Self { version, pairs, tensors, alignment: 32, pair_count: None, tensor_count: None }
    }

    /// The file's bytes, and how many of them are its header.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            put(&mut out, TEXT, key);
            put_value(&mut out, value);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            put(&mut out, TEXT, &tensor.name);
            out.extend(u32::try_from(tensor.shape.len()).unwrap().to_le_bytes());
            for dimension in &tensor.shape {
                out.extend(dimension.to_le_bytes());
            }
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset as u64).to_le_bytes());
            offset = (offset + tensor.data.len()).next_multiple_of(self.alignment);
        }
        let header = out.len();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        (out, header)
    }
}

fn put(out: &mut Vec<u8>, type_id: u32, bytes: &[u8]) {
    if type_id == TEXT {
        out.extend((bytes.len() as u64).to_le_bytes());
    }
    out.extend(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &RawValue) {
    match value {
        RawValue::One(type_id, bytes) => {
            out.extend(type_id.to_le_bytes());
            put(out, *type_id, bytes);
        }
        RawValue::Many(type_id, elements) => {
            out.extend(ARRAY.to_le_bytes());
            out.extend(type_id.to_le_bytes());
            out.extend((elements.len() as u64).to_le_bytes());
            for element in elements {
                put(out, *type_id, element);
            }
        }
    }
}
