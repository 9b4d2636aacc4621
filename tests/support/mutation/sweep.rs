//! Every tensor left out, and in every type; every value left out, and with the usual suspects.

use moe_offload::gguf::GgmlType;

use super::raw::{RawFile, RawValue, TEXT, width};
use super::{Mutation, tensors};

/// Numbers that turn out to matter, cut to the width of the type.
const NUMBERS: [u64; 14] =
    [0, 1, 2, 3, 5, 7, 33, 64, 1000, 65_536, 1 << 24, i32::MAX as u64, 1 << 31, u64::MAX];

/// How many there are of this file.
pub fn count(file: &RawFile) -> u64 {
    (file.tensors.len() * (1 + types().len()) + file.pairs.len() * (1 + NUMBERS.len())) as u64
}

fn types() -> Vec<u32> {
    GgmlType::all().map(GgmlType::id).collect()
}

/// One of them.
pub fn mutation(file: &RawFile, number: u64) -> Mutation {
    let mut file = file.clone();
    let number = usize::try_from(number).unwrap();
    let each = 1 + types().len();
    let of_tensors = file.tensors.len() * each;
    let what = if number < of_tensors {
        tensor(&mut file, number / each, (number % each).checked_sub(1))
    } else {
        let number = number - of_tensors;
        let each = 1 + NUMBERS.len();
        value(&mut file, number / each, (number % each).checked_sub(1))
    };
    Mutation { what, file: file.bytes().0 }
}

fn tensor(file: &mut RawFile, at: usize, kind: Option<usize>) -> String {
    let name = String::from_utf8_lossy(&file.tensors[at].name).into_owned();
    let Some(kind) = kind else {
        file.tensors.remove(at);
        return format!("{name} removed");
    };
    file.tensors[at].type_id = types()[kind];
    tensors::refit(&mut file.tensors[at]);
    format!("{name} as type {}", types()[kind])
}

fn value(file: &mut RawFile, at: usize, kind: Option<usize>) -> String {
    let key = String::from_utf8_lossy(&file.pairs[at].0).into_owned();
    let Some(kind) = kind else {
        file.pairs.remove(at);
        return format!("{key} removed");
    };
    let number = NUMBERS[kind];
    let bytes = |type_id| match type_id {
        TEXT => vec![b'x'; usize::try_from(number % 100).unwrap()],
        #[allow(clippy::cast_precision_loss)]
        6 => (number as f32 - 5.0).to_le_bytes().to_vec(),
        _ => number.to_le_bytes()[..width(type_id).unwrap_or(4)].to_vec(),
    };
    match &mut file.pairs[at].1 {
        RawValue::One(type_id, value) => *value = bytes(*type_id),
        // One element, and not always the first.
        RawValue::Many(type_id, elements) => {
            if let Some(at) = elements.len().checked_sub(1 + kind % elements.len().max(1)) {
                elements[at] = bytes(*type_id);
            }
        }
    }
    format!("{key} with {number}")
}
