//! What budget the memory that is left allows.

use std::time::{Duration, Instant};

/// Less than this free, and experts give way.
const LOW_BYTES: u64 = 192 << 20;

/// Watches the memory that the system, or the process's control group, has left.
#[derive(Debug)]
pub(crate) struct Pressure {
    wanted_bytes: u64,
    looked: Instant,
    /// What tells how much is left.
    available_bytes: fn() -> Option<u64>,
}

impl Pressure {
    /// How often to look while text is made.
    pub(crate) const EVERY: Duration = Duration::from_millis(200);

    pub(crate) fn new(available_bytes: fn() -> Option<u64>) -> Self {
        Self { wanted_bytes: 0, looked: Instant::now(), available_bytes }
    }

    pub(crate) fn want(&mut self, bytes: u64) {
        self.wanted_bytes = bytes;
    }

    /// The budget where memory is not short.
    pub(crate) fn wanted_bytes(&self) -> u64 {
        self.wanted_bytes
    }

    /// Another budget than now, if the last look was so long ago and memory says so.
    pub(crate) fn look(
        &mut self,
        every: Duration,
        now_bytes: u64,
        resident_bytes: u64,
    ) -> Option<u64> {
        if self.looked.elapsed() < every {
            return None;
        }
        self.looked = Instant::now();
        let available = (self.available_bytes)()?;
        let budget = budget(self.wanted_bytes, now_bytes, resident_bytes, available);
        (budget != now_bytes).then_some(budget)
    }
}

/// Shrinks by what lacks, and grows again, up to what is wanted, by half of what is to spare.
fn budget(wanted: u64, now: u64, resident: u64, available: u64) -> u64 {
    if available < LOW_BYTES {
        return now.min(resident.saturating_sub(LOW_BYTES - available));
    }
    let spare = (available - LOW_BYTES) / 2;
    wanted.min(now.max(resident.saturating_add(spare)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn shrinks_by_what_lacks_and_grows_back() {
        assert_eq!(budget(1000 * MIB, 1000 * MIB, 900 * MIB, 4000 * MIB), 1000 * MIB);
        assert_eq!(budget(1000 * MIB, 1000 * MIB, 900 * MIB, 92 * MIB), 800 * MIB);
        assert_eq!(budget(1000 * MIB, 1000 * MIB, 50 * MIB, 0), 0);
        // 100 MiB to spare, so half of it more.
        assert_eq!(budget(1000 * MIB, 800 * MIB, 800 * MIB, LOW_BYTES + 100 * MIB), 850 * MIB);
        assert_eq!(budget(1000 * MIB, 800 * MIB, 100 * MIB, LOW_BYTES + 100 * MIB), 800 * MIB);
    }
}
