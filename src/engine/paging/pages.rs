//! The pages of experts: which reads fill them, and how they go from one expert to another.

use std::iter;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::queue::{PIECE_BYTES, Piece};
use super::{Pager, lock};
use crate::error::{Error, Result};
use crate::paging::{PAGE_BYTES, PagedTensor, page_ceil, page_floor};

impl Pager {
    /// The reads of a range of a tensor's file.
    pub(super) fn pieces(
        &self,
        tensor: &PagedTensor,
        range: &Range<u64>,
        slice: Option<usize>,
    ) -> Result<Vec<Piece>> {
        let base = self.base(tensor)?;
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let bytes = (range.end - at).min(PIECE_BYTES);
            pieces.push(Piece {
                file: Arc::clone(&self.files[tensor.shard]),
                offset: at,
                address: address(base, tensor.file_offset, at),
                bytes: usize::try_from(bytes).unwrap_or(0),
                tensor: tensor.slice(0),
                slice,
                guess: 0,
            });
            at += bytes;
        }
        Ok(pieces)
    }

    /// The reads of rows of a table. Those that are compared are a page each, as others come together each time.
    pub(super) fn rows(
        &self,
        table: &PagedTensor,
        range: &Range<u64>,
        slice: usize,
    ) -> Result<Vec<Piece>> {
        if !self.verify {
            return self.pieces(table, range, Some(slice));
        }
        let (mut pieces, mut page) = (Vec::new(), range.start);
        while page < range.end {
            pieces.extend(self.pieces(table, &(page..page + PAGE_BYTES), Some(slice))?);
            page += PAGE_BYTES;
        }
        Ok(pieces)
    }

    /// The reads of a group: an expert in all tensors of its layer.
    pub(super) fn read_group(&self, group: usize, pieces: &mut Vec<Piece>) -> Result<()> {
        let (tensors, expert) = self.group(group);
        for tensor in tensors {
            let slice = Some(tensor.slice(expert));
            pieces.extend(self.pieces(tensor, &tensor.inside(expert), slice)?);
        }
        Ok(())
    }

    /// The slices of groups.
    pub(super) fn slices(&self, groups: &[usize]) -> Vec<usize> {
        let of_group = |&group: &usize| {
            let (tensors, expert) = self.group(group);
            tensors.iter().map(move |tensor| tensor.slice(expert))
        };
        groups.iter().flat_map(of_group).collect()
    }

    /// Takes memory from groups whose reads have ended and gives it to others, which are to be read into it.
    ///
    /// Pages are moved where that is possible: the system would clear new ones, which takes as long as
    /// reading them from a fast disk. What is left over is given back to the system.
    pub(super) fn hand_over(&self, from: &[usize], to: &[usize]) -> Result<()> {
        for (i, &group) in from.iter().enumerate() {
            let (tensors, expert) = self.group(group);
            let (others, other) = to.get(i).map_or((&[][..], 0), |&group| self.group(group));
            let others = others.iter().map(Some).chain(iter::repeat(None));
            for (tensor, next) in iter::zip(tensors, others) {
                let old = self.addresses(tensor, expert)?;
                let new = next.map(|next| self.addresses(next, other)).transpose()?;
                self.hand_over_pages(&old, new.as_ref())?;
            }
        }
        Ok(())
    }

    fn hand_over_pages(&self, old: &Range<usize>, new: Option<&Range<usize>>) -> Result<()> {
        let mut address_map = lock(&self.address_map);
        let mut rest = old.clone();
        if let Some(new) = new.filter(|_| self.moves_pages.load(Ordering::Relaxed)) {
            let bytes = old.len().min(new.len());
            let moved = address_map.move_pages(&(old.start..old.start + bytes), new.start)?;
            rest.start += moved;
            if moved < bytes {
                self.moves_pages.store(false, Ordering::Relaxed);
            }
        }
        address_map.release(&rest);
        Ok(())
    }

    /// Gives back all that was read of the token embedding.
    pub(super) fn clear_table(&self, table: &PagedTensor) -> Result<()> {
        let offset = table.file_offset;
        let (first, end) = (page_floor(offset), page_ceil(offset + table.bytes));
        let start = address(self.base(table)?, offset, first);
        lock(&self.address_map)
            .release(&(start..start + usize::try_from(end - first).unwrap_or(0)));
        Ok(())
    }

    /// The tensors of a group's layer, and which expert it is.
    pub(super) fn group(&self, group: usize) -> (&[PagedTensor], usize) {
        let (tensors, expert) = self.layout.group(group);
        (&self.layout.tensors[tensors], expert)
    }

    fn base(&self, tensor: &PagedTensor) -> Result<usize> {
        let base = lock(&self.address_map).addresses.get(&tensor.name).copied();
        let lost =
            || Error::Paging { reason: format!("the engine did not load `{}`", tensor.name) };
        base.ok_or_else(lost)
    }

    /// Where the inside of a slice is in memory.
    fn addresses(&self, tensor: &PagedTensor, expert: usize) -> Result<Range<usize>> {
        let inside = tensor.inside(expert);
        let start = address(self.base(tensor)?, tensor.file_offset, inside.start);
        Ok(start..start + usize::try_from(inside.end - inside.start).unwrap_or(0))
    }
}

/// Where a byte of the file is in memory, as a page's place is the same in both.
fn address(base: usize, tensor_offset: u64, offset: u64) -> usize {
    // The first page begins before the tensor.
    let distance = isize::try_from(offset.abs_diff(tensor_offset)).unwrap_or(0);
    base.wrapping_add_signed(if offset < tensor_offset { -distance } else { distance })
}
