//! What norms add before they divide.

use super::Checked;
use super::keys::Keys;
use crate::error::ModelFault;

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let mut values = keys.gguf.metadata().iter();
    let wrong = values.find(|(key, value)| {
        key.ends_with("epsilon") && value.as_f64().is_some_and(|x| !(x >= 0.0 && x.is_finite()))
    });
    wrong.map_or(Ok(()), |(key, value)| {
        let value = value.as_f64().map(|x| x.to_string()).unwrap_or_default();
        Err(ModelFault::BadEpsilon { key: key.clone(), value })
    })
}
