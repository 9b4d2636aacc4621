//! Changes in the table of tensors and in their data.

use moe_offload::gguf::GgmlType;

use super::raw::{RawFile, RawTensor};
use super::{Random, values};

/// More data than this is not made up for a changed shape.
const MOST_DATA: u64 = 8 << 20;

fn name(tensor: &RawTensor) -> String {
    String::from_utf8_lossy(&tensor.name).into_owned()
}

fn describe(tensor: &RawTensor) -> String {
    format!("{} {:?} type {}", name(tensor), tensor.shape, tensor.type_id)
}

/// As much data as the shape and type want, if that is not too much.
pub fn refit(tensor: &mut RawTensor) {
    let bytes = GgmlType::from_id(tensor.type_id).and_then(|t| t.tensor_bytes(&tensor.shape));
    if let Some(bytes) = bytes.filter(|&bytes| bytes <= MOST_DATA) {
        tensor.data.resize(usize::try_from(bytes).unwrap(), 0);
    }
}

fn shape(random: &mut Random, tensor: &mut RawTensor) {
    let at = random.index(tensor.shape.len());
    match (random.below(10), at) {
        (0, _) | (_, None) => tensor.shape.push(*random.pick(&[0, 1, 2])),
        (1, _) => drop(tensor.shape.pop()),
        (2, _) => tensor.shape.reverse(),
        (3, Some(at)) => tensor.shape[at] = 0,
        (4, Some(at)) => tensor.shape[at] = 1,
        (5, Some(at)) => tensor.shape[at] *= 2,
        (6, Some(at)) => tensor.shape[at] /= 2,
        (7, Some(at)) => tensor.shape[at] += *random.pick(&[1, 32, 256]),
        (8, Some(at)) => tensor.shape[at] = tensor.shape[at].saturating_sub(1),
        (_, Some(at)) => tensor.shape[at] = random.next() >> random.below(64),
    }
}

/// A change after which the data still lies where the table says.
pub fn laid_out_again(random: &mut Random, file: &mut RawFile) -> String {
    let at = random.index(file.tensors.len()).unwrap();
    let old = describe(&file.tensors[at]);
    let other = random.index(file.tensors.len()).unwrap();
    match random.below(12) {
        0 => {
            file.tensors.remove(at);
            return format!("{old} removed");
        }
        1 => {
            let mut copy = file.tensors[at].clone();
            copy.name = values::text(random, &copy.name);
            file.tensors.push(copy);
            return format!("{old} copied as {}", name(file.tensors.last().unwrap()));
        }
        2 => file.tensors[at].name = values::text(random, old.as_bytes()),
        3 => {
            let name = file.tensors[at].name.clone();
            file.tensors[at].name = std::mem::replace(&mut file.tensors[other].name, name);
        }
        4 => {
            let shape = file.tensors[other].shape.clone();
            file.tensors[at].shape = shape;
        }
        5 => file.tensors.swap(at, other),
        6 | 7 => {
            let types: Vec<u32> = GgmlType::all().map(GgmlType::id).collect();
            file.tensors[at].type_id = *random.pick(&types);
        }
        _ => shape(random, &mut file.tensors[at]),
    }
    refit(&mut file.tensors[at]);
    format!("{old} is now {}", describe(&file.tensors[at]))
}

/// A change in the table alone.
pub fn table_only(random: &mut Random, file: &mut RawFile) -> String {
    let at = random.index(file.tensors.len()).unwrap();
    let tensor = &mut file.tensors[at];
    let old = describe(tensor);
    match random.below(4) {
        0 => {
            tensor.offset = Some(*random.pick(&[0, 1, 32, 64, 1 << 40, u64::MAX, u64::MAX - 31]));
            return format!("{old} at {:?}", tensor.offset);
        }
        1 => tensor.type_id = *random.pick(&[0, 1, 4, 8, 31, 39, 99, u32::MAX]),
        2 => tensor.name = values::text(random, &tensor.name),
        _ => shape(random, tensor),
    }
    format!("{old} is now {}, its data unchanged", describe(tensor))
}

/// Other weights.
pub fn weights(random: &mut Random, file: &mut RawFile) -> String {
    let at = random.index(file.tensors.len()).unwrap();
    let tensor = &mut file.tensors[at];
    let kind = match random.below(4) {
        0 => {
            tensor.data.fill(0xFF);
            "all bits set: not a number"
        }
        1 => {
            let infinite = f32::INFINITY.to_le_bytes();
            tensor.data.chunks_exact_mut(4).for_each(|bytes| bytes.copy_from_slice(&infinite));
            "infinite"
        }
        2 => {
            tensor.data.fill(0);
            "zero"
        }
        _ => {
            tensor.data.iter_mut().for_each(|byte| *byte = random.byte());
            "random bytes"
        }
    };
    format!("the weights of {} {kind}", name(tensor))
}
