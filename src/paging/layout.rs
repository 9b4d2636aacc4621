//! Where the slices of paged tensors lie in their files, in whole pages.
//!
//! A slice, the weights of one expert in one tensor, is read directly into its place in memory, so that
//! a byte's place within its page is the same in both. Slices do not begin at pages: the page in which
//! one ends and the next begins belongs to both and is always in memory. The pages between are a slice's
//! *inside*, which comes and goes.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::device::DISK;
use crate::error::{Error, Result};
use crate::experts::TensorKind;
use crate::gguf::GgufFile;
pub(crate) use crate::plan::PAGE_BYTES;
use crate::plan::Plan;

/// A tensor whose experts are read when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PagedTensor {
    pub(crate) name: String,
    pub(crate) layer: u32,
    /// Which file of the model.
    pub(crate) shard: usize,
    pub(crate) file_offset: u64,
    pub(crate) bytes: u64,
    /// How many experts, or rows of the token embedding.
    pub(crate) experts: usize,
    /// In which order a layer needs its tensors.
    order: u8,
    /// The number of its first slice among all.
    first_slice: usize,
}

impl PagedTensor {
    /// One outside of layers, of which rows are read.
    pub(super) fn new(name: &str, file_offset: u64, bytes: u64, rows: usize) -> Self {
        let (name, layer, shard, order, first_slice) = (name.to_owned(), 0, 0, 0, 0);
        Self { name, layer, shard, file_offset, bytes, experts: rows, order, first_slice }
    }

    pub(crate) fn slice_bytes(&self) -> u64 {
        self.bytes / self.experts as u64
    }

    /// The number of one expert's slice among those of all tensors.
    pub(crate) fn slice(&self, expert: usize) -> usize {
        self.first_slice + expert
    }

    /// The inside of a slice, as a range of the file.
    pub(crate) fn inside(&self, expert: usize) -> Range<u64> {
        let start = self.file_offset + expert as u64 * self.slice_bytes();
        let (first, last) = (page_ceil(start), page_floor(start + self.slice_bytes()));
        first..last.max(first)
    }

    /// The pages that no inside has, as ranges of the file, up to a page longer than the tensor.
    pub(crate) fn borders(&self) -> Vec<Range<u64>> {
        let mut borders = Vec::with_capacity(self.experts + 1);
        let mut at = page_floor(self.file_offset);
        let insides = (0..self.experts).map(|expert| self.inside(expert));
        for inside in insides.filter(|inside| !inside.is_empty()) {
            if at < inside.start {
                borders.push(at..inside.start);
            }
            at = inside.end;
        }
        let end = page_ceil(self.file_offset + self.bytes);
        if at < end {
            borders.push(at..end);
        }
        borders
    }
}

/// All paged tensors of a model, by layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// In the order of layers, and of need within one.
    pub(crate) tensors: Vec<PagedTensor>,
    /// For each layer with paged tensors, which they are, and its first group.
    layers: BTreeMap<u32, (Range<usize>, usize)>,
    pub(crate) slices: usize,
    /// The token embedding, which counts as one more slice, the last.
    pub(crate) table: Option<PagedTensor>,
}

impl Layout {
    /// What a plan leaves on disk.
    ///
    /// # Errors
    /// [`Error::Paging`] if the tensors of a layer are not for the same experts.
    pub(crate) fn of(plan: &Plan, gguf: &GgufFile) -> Result<Self> {
        let on_disk = std::iter::zip(plan.tensors(), gguf.tensors())
            .filter(|(placed, _)| placed.device == DISK);
        let mut tensors: Vec<PagedTensor> = on_disk
            .filter_map(|(placed, info)| {
                Some(PagedTensor {
                    name: info.name.clone(),
                    layer: placed.tensor.layer?,
                    shard: info.shard,
                    file_offset: info.file_offset,
                    bytes: info.bytes,
                    experts: usize::try_from(*info.shape.last()?).ok()?,
                    order: order(placed.tensor.kind),
                    first_slice: 0,
                })
            })
            .collect();
        tensors.sort_by_key(|tensor| (tensor.layer, tensor.order));
        let (mut layers, mut slices, mut groups) = (BTreeMap::new(), 0, 0);
        for (i, tensor) in tensors.iter_mut().enumerate() {
            tensor.first_slice = slices;
            slices += tensor.experts;
            let (range, _) = layers.entry(tensor.layer).or_insert_with(|| {
                let first = groups;
                groups += tensor.experts;
                (i..i, first)
            });
            range.end = i + 1;
        }
        let table = std::iter::zip(plan.tensors(), gguf.tensors())
            .find(|(placed, _)| placed.device == DISK && placed.tensor.layer.is_none())
            .and_then(|(_, info)| {
                let rows = usize::try_from(*info.shape.get(1)?).ok()?;
                let table = PagedTensor::new(&info.name, info.file_offset, info.bytes, rows);
                Some(PagedTensor { shard: info.shard, first_slice: slices, ..table })
            });
        slices += usize::from(table.is_some());
        let layout = Self { tensors, layers, slices, table };
        let has_strays = |tensor: &PagedTensor| {
            let first = layout.layers.get(&tensor.layer).map(|(tensors, _)| tensors.start);
            let experts = first.map(|i| layout.tensors[i].experts);
            tensor.experts == 0
                || experts != Some(tensor.experts)
                || !tensor.bytes.is_multiple_of(tensor.experts.max(1) as u64)
        };
        if let Some(stray) = layout.tensors.iter().find(|tensor| has_strays(tensor)) {
            let reason = format!("`{}` is for other experts than its layer", stray.name);
            return Err(Error::Paging { reason });
        }
        Ok(layout)
    }

    /// Whether nothing is on disk.
    pub(crate) fn is_empty(&self) -> bool {
        self.tensors.is_empty() && self.table.is_none()
    }

    /// All tensors on disk.
    pub(crate) fn on_disk(&self) -> impl Iterator<Item = &PagedTensor> {
        self.tensors.iter().chain(&self.table)
    }

    /// The tensors of a layer, which all have as many experts, and the number of its first group: an
    /// expert's slices in all of them.
    pub(crate) fn layer(&self, layer: u32) -> Option<(Range<usize>, usize)> {
        self.layers.get(&layer).cloned()
    }

    /// The tensors of a group's layer, and which expert it is.
    pub(crate) fn group(&self, group: usize) -> (Range<usize>, usize) {
        let of = self.layers.values().rev().find(|(_, first)| *first <= group);
        of.map_or((0..0, 0), |(tensors, first)| (tensors.clone(), group - first))
    }

    /// At most so many bytes have the experts of so many tokens at once, in the layer where they are most, if each
    /// token uses `active` others.
    pub(crate) fn needed_at_once(&self, tokens: usize, active: usize) -> u64 {
        let mut layers = BTreeMap::new();
        for (layer, bytes) in self.groups() {
            let (largest, all) = layers.entry(layer).or_insert((0_u64, 0_u64));
            *largest = bytes.max(*largest);
            *all += bytes;
        }
        let used = tokens.saturating_mul(active) as u64;
        let needed = |(largest, all): (u64, u64)| largest.saturating_mul(used).min(all);
        layers.into_values().map(needed).max().unwrap_or(0)
    }

    /// How many tokens may be computed at once, if so many bytes hold what they use.
    pub(crate) fn tokens_at_once(&self, wanted: u32, active: usize, bytes: u64) -> u32 {
        let fits = |tokens: u32| self.needed_at_once(tokens as usize, active) <= bytes;
        let (mut low, mut high) = (1, wanted.max(1));
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        low
    }

    /// Whether so much memory holds what one token needs at once, with `active` experts in a layer.
    ///
    /// # Errors
    /// [`Error::PagingBudget`] if not.
    pub(crate) fn check_budget(&self, budget_bytes: u64, active: usize) -> Result<()> {
        let needed_bytes = self.needed_at_once(1, active) + self.border_bytes();
        if needed_bytes > budget_bytes {
            return Err(Error::PagingBudget { budget_bytes, needed_bytes });
        }
        Ok(())
    }

    /// Layer and bytes in memory of each group.
    pub(crate) fn groups(&self) -> Vec<(u32, u64)> {
        let mut groups = Vec::new();
        for (&layer, (tensors, _)) in &self.layers {
            let tensors = &self.tensors[tensors.clone()];
            let experts = tensors.first().map_or(0, |tensor| tensor.experts);
            groups.extend((0..experts).map(|expert| {
                let insides = tensors.iter().map(|tensor| tensor.inside(expert));
                (layer, insides.map(|inside| inside.end - inside.start).sum())
            }));
        }
        groups
    }

    /// Bytes that are always in memory.
    pub(crate) fn border_bytes(&self) -> u64 {
        self.tensors
            .iter()
            .flat_map(PagedTensor::borders)
            .map(|range| range.end - range.start)
            .sum()
    }
}

/// The order in which the engine multiplies with them, as `tests/paging/order.rs` shows for every family.
fn order(kind: TensorKind) -> u8 {
    match kind {
        TensorKind::ExpertGate | TensorKind::ExpertGateUp => 0,
        TensorKind::ExpertUp => 1,
        _ => 2,
    }
}

pub(crate) fn page_floor(offset: u64) -> u64 {
    offset / PAGE_BYTES * PAGE_BYTES
}

pub(crate) fn page_ceil(offset: u64) -> u64 {
    offset.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every page of a tensor is a border's or one slice's, and no slice has another's bytes.
        #[test]
        fn insides_and_borders_cover_the_tensor_once(
            file_offset in 0_u64..100_000, slice in 1_u64..50_000, experts in 1_usize..40,
        ) {
            let bytes = slice * experts as u64;
            let tensor = PagedTensor::new("", file_offset, bytes, experts);
            let mut ranges: Vec<_> = (0..experts).map(|expert| tensor.inside(expert)).collect();
            for (expert, inside) in ranges.iter().enumerate().filter(|(_, inside)| !inside.is_empty()) {
                let start = file_offset + expert as u64 * slice;
                prop_assert!(inside.start >= start && inside.end <= start + slice);
            }
            ranges.extend(tensor.borders());
            ranges.retain(|range| !range.is_empty());
            ranges.sort_by_key(|range| range.start);
            prop_assert_eq!(ranges[0].start, page_floor(file_offset));
            prop_assert_eq!(ranges[ranges.len() - 1].end, page_ceil(file_offset + bytes));
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn a_layers_tensors_are_in_the_order_of_need() {
        use moe_offload_synth::{self as synth, GgmlType, SynthOptions};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let options = SynthOptions::tiny().expert_type(GgmlType::F32);
        let model = synth::family("mixtral-8x7b").unwrap().build(&options).unwrap();
        model.save_without_weights(&path, 1).unwrap();
        let gguf = GgufFile::open(&path).unwrap();
        let policy: crate::OffloadPolicy = "all-experts=disk".parse().unwrap();
        let plan = policy.plan(&gguf, &[], &crate::ContextOptions::default()).unwrap();
        let layout = Layout::of(&plan, &gguf).unwrap();
        let names: Vec<&str> = layout.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let first = |kind: &str| format!("blk.0.ffn_{kind}_exps.weight");
        assert_eq!(names[..3], [first("gate"), first("up"), first("down")]);
        // Reads are sorted by the numbers of their slices.
        assert!(layout.tensors.is_sorted_by_key(|tensor| tensor.slice(0)));
    }
}
