//! What the engine's arrays have room for.

use super::Checked;
use super::keys::{Keys, MAX_LAYERS};
use crate::error::ModelFault;

/// The engine's own limit (`LLAMA_MAX_EXPERTS` in `llama-hparams.h`).
const MAX_EXPERTS: u64 = 1024;

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    for (key, most) in [("block_count", MAX_LAYERS), ("expert_count", MAX_EXPERTS)] {
        if let Some(value) = keys.number(key).filter(|&value| value > most) {
            return Err(ModelFault::NoRoom { key: keys.name(key), value, most });
        }
    }
    Ok(())
}
