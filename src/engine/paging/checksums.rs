//! What each part of a file was when it was first read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Checksums of the parts that were read so far. A part that is read again has the same bounds, or else counts
/// as another.
#[derive(Debug, Default)]
pub(super) struct Checksums {
    known: Mutex<HashMap<(u64, usize), u32>>,
}

impl Checksums {
    /// Whether these are the bytes that were first read from this offset on.
    pub(super) fn agree(&self, offset: u64, bytes: &[u8]) -> bool {
        let found = crc32fast::hash(bytes);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry((offset, bytes.len())).or_insert(found) == found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// One flipped bit is always found, and what is the same always agrees.
        #[test]
        fn every_flipped_bit_is_found(
            mut bytes in prop::collection::vec(any::<u8>(), 1..9000), at in any::<prop::sample::Index>(),
            bit in 0_u32..8, offset in any::<u64>(),
        ) {
            let checksums = Checksums::default();
            prop_assert!(checksums.agree(offset, &bytes));
            prop_assert!(checksums.agree(offset, &bytes));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!checksums.agree(offset, &bytes));
            prop_assert!(!checksums.agree(offset, &bytes), "the first read counts");
            prop_assert!(checksums.agree(!offset, &bytes), "another part");
        }
    }
}
