//! What paging did.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::human_bytes;

/// What paging experts from disk did since the model was loaded, or since
/// [`MoeModel::reset_paging`](crate::MoeModel::reset_paging).
///
/// A *slice* is the weights of one expert in one tensor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PagingStats {
    /// Bytes that experts may hold in memory now, without the pages that two of them share, which are
    /// always there; less than planned while memory is short.
    pub budget_bytes: u64,
    /// Bytes that they hold.
    pub resident_bytes: u64,
    /// Tokens of a prompt that are computed at once: fewer than were asked for if what they use of a layer is
    /// more than the experts' memory holds.
    pub tokens_at_once: u32,
    /// Slices that were needed: once for each tensor and expert of a layer in a computed batch.
    pub needed_slices: u64,
    /// How many of them were not in memory before, and so had to be read: when the router had chosen, or
    /// shortly before, on a guess.
    pub missed_slices: u64,
    /// Their bytes.
    pub missed_bytes: u64,
    /// How many of the missed slices were read on a guess, before the router had chosen.
    pub ahead_slices: u64,
    /// Slices that were read on a guess and then not chosen.
    pub wasted_slices: u64,
    /// Bytes read from disk.
    pub read_bytes: u64,
    /// Slices that were given up for others.
    pub released_slices: u64,
    /// Seconds in which computing waited for the disk.
    pub stall_seconds: f64,
    /// Seconds in which at least one read was under way.
    pub reading_seconds: f64,
    /// Times that the budget was lowered because memory was short.
    pub shrunk: u64,
    /// How it reads: `io_uring` or `threads`, and `buffered` where the file system has no direct reads.
    pub reader: String,
}

impl PagingStats {
    /// The share of needed slices that were in memory; `None` before anything was needed.
    pub fn hit_rate(&self) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let share = self.missed_slices as f64 / self.needed_slices as f64;
        (self.needed_slices > 0).then_some(1.0 - share)
    }
}

impl fmt::Display for PagingStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resident, budget) = (self.resident_bytes, self.budget_bytes);
        write!(f, "experts  {} of {} in memory", human_bytes(resident), human_bytes(budget))?;
        let Some(hit_rate) = self.hit_rate() else { return Ok(()) };
        write!(
            f,
            ", {:.1} % of {} slices were there, {} read, waited {:.2} s",
            100.0 * hit_rate,
            self.needed_slices,
            human_bytes(self.read_bytes),
            self.stall_seconds,
        )
    }
}
