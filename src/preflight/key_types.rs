//! Keys in a type that the engine does not take, since it converts none. It would say so itself, but not before
//! a load; here a plan says it too.

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;
use crate::gguf::{NUMBERS, NUMBERS_BY_LAYER, Value};

const NUMBER: &str = "u32";

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    NUMBERS.iter().try_for_each(|key| check_number(keys, key, "one number (u32)"))?;
    NUMBERS_BY_LAYER.iter().try_for_each(|key| match keys.gguf.hyper_parameter(key) {
        Some(Value::Array(list)) => check_list(keys, key, list.len()),
        _ => check_number(keys, key, "a number (u32), or a list with one for each layer"),
    })
}

fn check_number(keys: &Keys<'_>, key: &str, expected: &'static str) -> Checked {
    match keys.gguf.scalar_type(key) {
        Some(found) if found != NUMBER => {
            Err(ModelFault::KeyType { key: keys.name(key), found, expected })
        }
        _ => Ok(()),
    }
}

fn check_list(keys: &Keys<'_>, key: &str, length: u64) -> Checked {
    match keys.number("block_count") {
        Some(layers) if layers != length => {
            Err(ModelFault::ListLength { key: keys.name(key), length, layers })
        }
        _ => Ok(()),
    }
}
