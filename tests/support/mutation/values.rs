//! Values that nobody expects.

use super::Random;
use super::raw::{RawValue, TEXT, width};

const WORDS: &str = include_str!("words.txt");

fn integer(bytes: &[u8]) -> i128 {
    let mut wide = [0; 16];
    wide[..bytes.len()].copy_from_slice(bytes);
    i128::from_le_bytes(wide)
}

/// Another number of the type that `old` has.
pub fn number(random: &mut Random, type_id: u32, old: &[u8]) -> Vec<u8> {
    let size = width(type_id).unwrap_or(4);
    if type_id == 6 || type_id == 12 {
        let value = *random.pick(&[
            0.0,
            -0.0,
            1.0,
            -1.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e30,
            -1e30,
            1e-40,
            0.5,
            1e9,
            -1e9,
        ]);
        #[allow(clippy::cast_possible_truncation)] // the narrow ones are also strange
        let narrow = (value as f32).to_le_bytes().to_vec();
        return if type_id == 6 { narrow } else { value.to_le_bytes().to_vec() };
    }
    let old = integer(old);
    let all = (1_i128 << (8 * size)) - 1;
    let value = match random.below(14) {
        0 | 1 => 0,
        2 => 1,
        3 => all,
        4 => all >> 1,
        5 => (all >> 1) + 1,
        6 => old + 1,
        7 => old - 1,
        8 => old * 2,
        9 => old / 2,
        10 => old * 1000,
        11 => i128::from(random.below(600)),
        12 => 1 << random.below(8 * size as u64),
        _ => i128::from(random.next()),
    };
    value.to_le_bytes()[..size].to_vec()
}

/// Another text.
pub fn text(random: &mut Random, old: &[u8]) -> Vec<u8> {
    let words: Vec<&str> = WORDS.lines().collect();
    match random.below(9) {
        0 => Vec::new(),
        1 => vec![b'x'; 70_000],
        2 => (0..random.below(40)).map(|_| random.byte()).collect(),
        3 => "\u{0}\u{7f}ÄΩ漢🦀".as_bytes().to_vec(),
        4 => {
            let mut garbled = old.to_vec();
            if let Some(byte) = random.index(garbled.len()).and_then(|i| garbled.get_mut(i)) {
                *byte = random.byte();
            }
            garbled
        }
        5 => [old, old].concat(),
        6 => old[..old.len() / 2].to_vec(),
        _ => random.pick(&words).as_bytes().to_vec(),
    }
}

pub fn element(random: &mut Random, type_id: u32, old: &[u8]) -> Vec<u8> {
    if type_id == TEXT { text(random, old) } else { number(random, type_id, old) }
}

/// A value of any type.
pub fn any(random: &mut Random) -> RawValue {
    let type_id = *random.pick(&[4, 4, 4, 4, 5, 6, 6, 7, 8, 8, 10, 11, 0, 3, 12]);
    let value = element(random, type_id, &[1]);
    match random.below(6) {
        0 if value.len() < 100 => {
            let count = *random.pick(&[0, 1, 3, 4, 5, 6, 8, 100, 384, 512, 513, 5000]);
            RawValue::Many(type_id, vec![value; count])
        }
        _ => RawValue::One(type_id, value),
    }
}

/// The same number in another type.
pub fn retyped(random: &mut Random, old: &RawValue) -> RawValue {
    let type_id = *random.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 99]);
    let convert = |old_id: u32, bytes: &[u8]| match (old_id, type_id) {
        (TEXT, TEXT) => bytes.to_vec(),
        (TEXT, _) => vec![1; width(type_id).unwrap_or(4)],
        (_, TEXT) => integer(bytes).to_string().into_bytes(),
        _ => integer(bytes).to_le_bytes()[..width(type_id).unwrap_or(4)].to_vec(),
    };
    match old {
        RawValue::One(old_id, bytes) => RawValue::One(type_id, convert(*old_id, bytes)),
        RawValue::Many(old_id, elements) => {
            RawValue::Many(type_id, elements.iter().map(|bytes| convert(*old_id, bytes)).collect())
        }
    }
}

/// The same value, changed.
pub fn changed(random: &mut Random, old: &RawValue) -> RawValue {
    match old {
        RawValue::One(type_id, bytes) => RawValue::One(*type_id, element(random, *type_id, bytes)),
        RawValue::Many(type_id, elements) => {
            let mut elements = elements.clone();
            let first = elements.first().cloned().unwrap_or_else(|| vec![0; 8]);
            match random.below(8) {
                0 => elements.clear(),
                1 => elements.truncate(1),
                2 => drop(elements.pop()),
                3 => elements.push(first),
                4 => elements.resize(elements.len() * 2 + 1, first),
                5 => {
                    let value = element(random, *type_id, &first);
                    elements.fill(value);
                }
                _ => {
                    if let Some(at) = random.index(elements.len()) {
                        elements[at] = element(random, *type_id, &elements[at].clone());
                    }
                }
            }
            RawValue::Many(*type_id, elements)
        }
    }
}

/// One number for all layers as one for each, of which some may differ.
pub fn per_layer(random: &mut Random, old: &RawValue) -> Option<RawValue> {
    let RawValue::One(type_id, bytes) = old else {
        return None;
    };
    let layers = *random.pick(&[1, 2, 3, 4, 5, 6, 8, 512, 513]);
    let mut elements = vec![bytes.clone(); layers];
    if random.below(3) > 0 {
        let at = random.index(layers)?;
        elements[at] = element(random, *type_id, bytes);
    }
    Some(RawValue::Many(*type_id, elements))
}
