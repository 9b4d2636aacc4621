//! Model files with one thing changed, each reproducible from a seed and a number.

mod raw;
pub mod sweep;
mod tensors;
mod values;

use self::raw::TEXT;
pub use self::raw::{RawFile, RawValue};

const KEYS: &str = include_str!("keys.txt");
const ARCHITECTURES: &str = include_str!("architectures.txt");

/// `SplitMix64`.
pub struct Random(u64);

impl Random {
    /// A stream of its own for every name and number.
    pub fn of(seed: u64, name: &str, number: u64) -> Self {
        let mut random = Self(seed);
        for part in name.bytes().map(u64::from).chain([number]) {
            random.0 ^= part;
            random.0 = random.next();
        }
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    pub fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| usize::try_from(self.below(len as u64)).unwrap())
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len()).unwrap()]
    }
}

/// A changed file, and what was changed in words.
pub struct Mutation {
    pub what: String,
    pub file: Vec<u8>,
}

/// Mutation `number` of the file called `name`.
pub fn mutate(file: &RawFile, name: &str, seed: u64, number: u64) -> Mutation {
    let mut random = Random::of(seed, name, number);
    let mut file = file.clone();
    let what = match random.below(100) {
        0..=39 => metadata(&mut random, &mut file),
        40..=53 => added_key(&mut random, &mut file),
        54..=57 => other_architecture(&mut random, &mut file),
        58..=77 => tensors::laid_out_again(&mut random, &mut file),
        78..=83 => tensors::table_only(&mut random, &mut file),
        84..=88 => tensors::weights(&mut random, &mut file),
        89..=91 => counts(&mut random, &mut file),
        _ => return bytes(&mut random, &file),
    };
    Mutation { what, file: file.bytes().0 }
}

fn short(value: &RawValue) -> String {
    let text = match value {
        RawValue::One(TEXT, bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        RawValue::One(type_id, bytes) => format!("type {type_id} {bytes:02x?}"),
        RawValue::Many(type_id, elements) => {
            format!("{} of type {type_id}, first {:02x?}", elements.len(), elements.first())
        }
    };
    text.chars().take(80).collect()
}

fn metadata(random: &mut Random, file: &mut RawFile) -> String {
    let at = random.index(file.pairs.len()).unwrap();
    let key = String::from_utf8_lossy(&file.pairs[at].0).into_owned();
    let old = file.pairs[at].1.clone();
    let new = match random.below(16) {
        0 => {
            file.pairs.remove(at);
            return format!("{key} removed");
        }
        1 => {
            file.pairs[at].0 = values::text(random, key.as_bytes());
            return format!("{key} renamed to {:?}", String::from_utf8_lossy(&file.pairs[at].0));
        }
        2 if random.below(3) == 0 => {
            let pair = file.pairs[at].clone();
            file.pairs.push(pair);
            return format!("{key} twice");
        }
        3 | 4 => values::retyped(random, &old),
        5..=7 => values::per_layer(random, &old).unwrap_or_else(|| values::any(random)),
        8 => values::any(random),
        _ => values::changed(random, &old),
    };
    let what = format!("{key} = {} instead of {}", short(&new), short(&old));
    file.pairs[at].1 = new;
    what
}

fn architecture(file: &RawFile) -> String {
    let found = file.pairs.iter().find(|(key, _)| key == b"general.architecture");
    match found {
        Some((_, RawValue::One(_, name))) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
}

/// A key that the engine knows and the file has not, or has with another value.
fn added_key(random: &mut Random, file: &mut RawFile) -> String {
    let keys: Vec<&str> = KEYS.lines().collect();
    let key = random.pick(&keys).replace("%s", &architecture(file));
    let value = values::any(random);
    let what = format!("{key} added as {}", short(&value));
    file.pairs.retain(|(known, _)| known != key.as_bytes());
    file.pairs.push((key.into_bytes(), value));
    what
}

/// The same file under the name of another architecture.
fn other_architecture(random: &mut Random, file: &mut RawFile) -> String {
    let old = format!("{}.", architecture(file));
    let names: Vec<&str> = ARCHITECTURES.lines().collect();
    let new = *random.pick(&names);
    for (key, value) in &mut file.pairs {
        if key == b"general.architecture" {
            *value = RawValue::One(TEXT, new.as_bytes().to_vec());
        } else if let Some(rest) = key.strip_prefix(old.as_bytes()) {
            *key = [new.as_bytes(), b".", rest].concat();
        }
    }
    format!("as the architecture {new}")
}

fn counts(random: &mut Random, file: &mut RawFile) -> String {
    let count = *random.pick(&[0, 1, 5, 1 << 20, 1 << 40, u64::MAX]);
    match random.below(5) {
        0 => {
            file.version = *random.pick(&[0, 1, 2, 4, 3 << 24, u32::MAX]);
            format!("version {}", file.version)
        }
        1 => {
            file.pair_count = Some(count);
            format!("claims {count} pairs")
        }
        2 => {
            file.tensor_count = Some(count);
            format!("claims {count} tensors")
        }
        kind => {
            let alignment = *random.pick(&[0, 1, 2, 8, 16, 33, 64, 4096, 1 << 30, u32::MAX]);
            let value = RawValue::One(4, alignment.to_le_bytes().to_vec());
            file.pairs.push((b"general.alignment".to_vec(), value));
            let is_true = kind == 3 && alignment > 0 && alignment <= 4096;
            if is_true {
                file.alignment = usize::try_from(alignment).unwrap();
            }
            format!("alignment {alignment}{}", if is_true { ", kept" } else { "" })
        }
    }
}

fn bytes(random: &mut Random, file: &RawFile) -> Mutation {
    let (mut file, header) = file.bytes();
    if random.below(4) == 0 {
        let within = if random.below(2) == 0 { header } else { file.len() };
        file.truncate(random.index(within).unwrap_or(0));
        return Mutation { what: format!("cut after {} bytes", file.len()), file };
    }
    let mut what = "bytes".to_owned();
    for _ in 0..=random.below(4) {
        let at = random.index(header).unwrap();
        file[at] =
            if random.below(2) == 0 { random.byte() } else { file[at] ^ (1 << random.below(8)) };
        what = format!("{what} {at}={:02x}", file[at]);
    }
    Mutation { what, file }
}
