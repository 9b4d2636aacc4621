//! The token embedding on disk: which of its pages are in memory.

use std::collections::BTreeSet;
use std::ops::Range;

use super::layout::{PAGE_BYTES, PagedTensor};
use crate::plan::ROWS_BYTES;

/// The pages of a table of which single rows are read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    resident: BTreeSet<u64>,
}

/// What a batch of tokens needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowsTaken {
    /// All that was there is given up before.
    pub(crate) clears: bool,
    /// Ranges of the file to read, in whole pages.
    pub(crate) missing: Vec<Range<u64>>,
}

impl Rows {
    /// Takes the pages of these rows of `table`; `None` if there is no such row.
    pub(crate) fn take(&mut self, table: &PagedTensor, rows: &[i32]) -> Option<RowsTaken> {
        let row_bytes = table.slice_bytes();
        let mut wanted = BTreeSet::new();
        for &row in rows {
            let row = usize::try_from(row).ok().filter(|&row| row < table.experts)? as u64;
            let start = table.file_offset + row * row_bytes;
            let pages = start / PAGE_BYTES..(start + row_bytes).div_ceil(PAGE_BYTES);
            wanted.extend(pages.map(|page| page * PAGE_BYTES));
        }
        let missing = wanted.difference(&self.resident).count() as u64;
        let clears = (self.resident.len() as u64 + missing) * PAGE_BYTES > ROWS_BYTES
            && !self.resident.is_empty()
            && missing > 0;
        if clears {
            self.resident.clear();
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for page in wanted {
            if !self.resident.insert(page) {
                continue;
            }
            match ranges.last_mut().filter(|last| last.end == page) {
                Some(last) => last.end += PAGE_BYTES,
                None => ranges.push(page..page + PAGE_BYTES),
            }
        }
        Some(RowsTaken { clears, missing: ranges })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::layout::page_floor;
    use super::*;

    fn table(file_offset: u64, row_bytes: u64, rows: usize) -> PagedTensor {
        let bytes = row_bytes * rows as u64;
        PagedTensor::new("token_embd.weight", file_offset, bytes, rows)
    }

    proptest! {
        /// After each batch every byte of its rows was read since the last clearing.
        #[test]
        fn all_bytes_of_all_rows_are_read(
            file_offset in 0_u64..10_000, row_bytes in 1_u64..20_000,
            batches in prop::collection::vec(prop::collection::vec(0_i32..5000, 1..40), 1..60),
        ) {
            let table = table(file_offset, row_bytes, 5000);
            let (mut rows, mut read) = (Rows::default(), BTreeSet::new());
            for batch in batches {
                let taken = rows.take(&table, &batch).unwrap();
                if taken.clears {
                    read.clear();
                }
                for range in &taken.missing {
                    prop_assert!(range.start % PAGE_BYTES == 0 && range.end % PAGE_BYTES == 0);
                    for page in (range.start..range.end).step_by(4096) {
                        prop_assert!(read.insert(page), "read twice");
                    }
                }
                for row in batch {
                    let start = file_offset + u64::try_from(row).unwrap() * row_bytes;
                    let pages = (page_floor(start)..start + row_bytes).step_by(4096);
                    prop_assert!(pages.into_iter().all(|page| read.contains(&page)));
                }
                let most = ROWS_BYTES.max(40 * (row_bytes + 2 * PAGE_BYTES));
                prop_assert!(read.len() as u64 * PAGE_BYTES <= most);
            }
        }
    }

    #[test]
    fn strange_rows_are_refused() {
        let mut rows = Rows::default();
        assert_eq!(rows.take(&table(0, 4096, 10), &[10]), None);
        assert_eq!(rows.take(&table(0, 4096, 10), &[-1]), None);
        let taken = rows.take(&table(0, 4096, 10), &[3, 4, 9, 3]).unwrap();
        assert_eq!(taken.missing, [3 * 4096..5 * 4096, 9 * 4096..10 * 4096]);
        assert_eq!(rows.take(&table(0, 4096, 10), &[4, 9]).unwrap(), RowsTaken::default());
    }
}
