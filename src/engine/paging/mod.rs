//! Experts that stay on disk, of which what the routers choose is read in time.
//!
//! A custom buffer type reserves addresses for their tensors and fills nothing. When the engine has
//! computed a router, its evaluation callback tells which experts were chosen; what is missing is then
//! read straight into place, by other threads, in the order in which the layer needs its tensors. Before
//! the engine multiplies with one of them, it waits for that one's slices, so that the last are read while
//! the first are computed with. See docs/paging.md.

mod files;
mod memory;
mod places;
mod reader;
mod stream;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::files::PagedFile;
use self::places::Places;
use self::reader::{PIECE_BYTES, Piece, Queue, Readers};
pub(super) use self::stream::ModelStream;
pub(super) use self::watch::PagerWatch;
use super::call::guarded;
use super::ffi;
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::paging::{Cache, Guesses, Layout, PagedTensor, PagingOptions, PagingStats, Pressure};

/// The paged experts of one model. Freed after the model; the readers end first.
pub(crate) struct Pager {
    readers: Option<Readers>,
    queue: Arc<Queue>,
    buffer_type: ffi::ggml_backend_buffer_type_t,
    files: Vec<Arc<PagedFile>>,
    layout: Layout,
    tensors: HashMap<String, usize>,
    /// Shared with the engine's buffer, which asks for addresses while it loads.
    places: Box<Mutex<Places>>,
    state: Mutex<State>,
    /// Contexts take turns: what one is about to use must not be released for another.
    turn: Mutex<()>,
    io_uring: bool,
    read_ahead: bool,
}

struct State {
    cache: Cache,
    pressure: Pressure,
    stats: PagingStats,
    /// Whether everything is in memory, so that no router need be watched.
    is_whole: bool,
    guesses: Guesses,
    /// The groups that were read on a guess for the layer that chooses next.
    ahead: Vec<usize>,
}

// SAFETY: the buffer type is only handed to the engine; all else is behind locks or never changes. The
// engine uses it from the thread that loads or frees.
unsafe impl Send for Pager {}
// SAFETY: as above.
unsafe impl Sync for Pager {}

impl std::fmt::Debug for Pager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pager").field("slices", &self.layout.slices).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pager {
    /// For a model that is to be loaded; nothing is read yet.
    pub(super) fn new(gguf: &GgufFile, layout: Layout, options: &PagingOptions) -> Result<Self> {
        memory::check_page_size()?;
        let files = gguf.shards().iter().map(|shard| PagedFile::open(&shard.path).map(Arc::new));
        let files = files.collect::<Result<_>>()?;
        let named = |(i, tensor): (usize, &PagedTensor)| (tensor.name.clone(), i);
        let tensors = layout.tensors.iter().enumerate().map(named).collect();
        let offset = |tensor: &PagedTensor| (tensor.name.clone(), tensor.file_offset);
        let places = Box::new(Places::new(layout.tensors.iter().map(offset).collect()));
        let memory = places::for_engine(&places);
        let mut buffer_type = ptr::null_mut();
        // SAFETY: `memory` is copied; what it points to is boxed and kept until the type is freed.
        guarded(|message| unsafe {
            ffi::moe_paged_new(&raw const memory, &raw mut buffer_type, message)
        })
        .map_err(|failure| failure.into_error("make memory for paged experts"))?;
        let queue = Arc::new(Queue::new(layout.slices));
        let state = State {
            cache: Cache::new(&layout.groups(), 0, options.half_life_tokens),
            pressure: Pressure::new(0),
            stats: PagingStats::default(),
            is_whole: false,
            guesses: Guesses::default(),
            ahead: Vec::new(),
        };
        Ok(Self {
            readers: None,
            queue,
            buffer_type,
            files,
            layout,
            tensors,
            places,
            state: Mutex::new(state),
            turn: Mutex::new(()),
            io_uring: options.io_uring,
            read_ahead: options.read_ahead,
        })
    }

    pub(super) fn buffer_type(&self) -> ffi::ggml_backend_buffer_type_t {
        self.buffer_type
    }

    /// The model's only file, without the paged tensors; `None` for one in several, which the engine
    /// finds by their names.
    pub(super) fn stream(&self, gguf: &GgufFile) -> Result<Option<ModelStream>> {
        let [only] = gguf.shards() else { return Ok(None) };
        let skipped = |tensor: &PagedTensor| tensor.file_offset..tensor.file_offset + tensor.bytes;
        let skipped = self.layout.tensors.iter().map(skipped).collect();
        ModelStream::open(&only.path, skipped).map(Some)
    }

    /// After the load: reads what is always in memory, and as many experts as the budget holds.
    ///
    /// # Errors
    /// [`Error::Paging`] if the budget does not hold what one token needs at once, and whatever goes
    /// wrong with reading.
    pub(super) fn start(&mut self, budget_bytes: u64, active: usize) -> Result<()> {
        let readers = Readers::start(&self.queue, self.io_uring).map_err(|source| {
            Error::Paging { reason: format!("no thread to read with: {source}") }
        })?;
        let buffered =
            if self.files.iter().all(|file| file.is_direct()) { "" } else { ", buffered" };
        let kind = format!("{}{buffered}", readers.kind);
        self.readers = Some(readers);
        let border_bytes = self.layout.border_bytes();
        let needed_bytes = self.layout.needed_at_once(1, active) + border_bytes;
        if needed_bytes > budget_bytes {
            return Err(Error::PagingBudget { budget_bytes, needed_bytes });
        }
        let cache_bytes = budget_bytes - border_bytes;
        for tensor in &self.layout.tensors {
            for range in tensor.borders() {
                let pieces = self.pieces(tensor, &range, None)?;
                self.queue.add(pieces);
            }
        }
        let mut state = lock(&self.state);
        state.stats.reader = kind;
        state.pressure = Pressure::new(cache_bytes);
        state.cache.set_budget(cache_bytes);
        state.is_whole = state.cache.holds_all();
        let all = 0..state.cache.len();
        let filled = state.cache.fill(all);
        drop(state);
        for group in filled {
            self.read_group(group)?;
        }
        self.queue.wait_idle();
        if let Some(failure) = self.queue.failure() {
            return Err(failure);
        }
        self.reset();
        Ok(())
    }

    /// Ends the threads that read, after what is under way.
    pub(super) fn stop(&mut self) {
        self.readers = None;
    }

    /// How many of `wanted` tokens may be computed at once.
    pub(super) fn tokens_at_once(&self, wanted: u32, active: usize) -> u32 {
        if self.readers.is_none() {
            return wanted; // a dry run, which has no budget yet
        }
        let bytes = lock(&self.state).cache.budget_bytes();
        self.layout.tokens_at_once(wanted, active, bytes)
    }

    /// Whether everything is in memory for good.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.state).is_whole
    }

    /// To be held while a context computes.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// Why the load failed, if it was for want of addresses.
    pub(super) fn load_failure(&self) -> Option<Error> {
        lock(&self.places).failure.take()
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.queue.failure()
    }

    pub(crate) fn stats(&self) -> PagingStats {
        let mut state = lock(&self.state);
        state.stats.budget_bytes = state.cache.budget_bytes();
        state.stats.resident_bytes = state.cache.resident_bytes();
        let mut stats = state.stats.clone();
        let (bytes, seconds) = self.queue.totals();
        stats.read_bytes = bytes.saturating_sub(state.stats.read_bytes);
        stats.reading_seconds = seconds - state.stats.reading_seconds;
        stats
    }

    /// Counts from here on.
    pub(crate) fn reset(&self) {
        let (read_bytes, reading_seconds) = self.queue.totals();
        let mut state = lock(&self.state);
        let reader = std::mem::take(&mut state.stats.reader);
        // What was there before is taken off in `stats`.
        state.stats = PagingStats { read_bytes, reading_seconds, reader, ..PagingStats::default() };
    }

    fn pieces(
        &self,
        tensor: &PagedTensor,
        range: &Range<u64>,
        slice: Option<usize>,
    ) -> Result<Vec<Piece>> {
        let base = lock(&self.places).addresses.get(&tensor.name).copied();
        let lost =
            || Error::Paging { reason: format!("the engine did not load `{}`", tensor.name) };
        let base = base.ok_or_else(lost)?;
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let bytes = (range.end - at).min(PIECE_BYTES);
            pieces.push(Piece {
                file: Arc::clone(&self.files[tensor.shard]),
                offset: at,
                address: address(base, tensor.file_offset, at),
                bytes: usize::try_from(bytes).unwrap_or(0),
                slice,
            });
            at += bytes;
        }
        Ok(pieces)
    }

    /// Layer's tensors and expert of a group.
    fn group(&self, group: usize) -> (&[PagedTensor], usize) {
        let (tensors, expert) = self.layout.group(group);
        (&self.layout.tensors[tensors], expert)
    }

    fn read_group(&self, group: usize) -> Result<()> {
        let (tensors, expert) = self.group(group);
        for tensor in tensors {
            self.queue.add(self.slice_pieces(tensor, expert)?);
        }
        Ok(())
    }

    fn slice_pieces(&self, tensor: &PagedTensor, expert: usize) -> Result<Vec<Piece>> {
        self.pieces(tensor, &tensor.inside(expert), Some(tensor.slice(expert)))
    }

    fn release_group(&self, group: usize) {
        let (tensors, expert) = self.group(group);
        // A text that was cancelled, or a guess, may have left reads under way.
        let slices: Vec<usize> = tensors.iter().map(|tensor| tensor.slice(expert)).collect();
        let started = Instant::now();
        let is_idle = self.queue.wait_for(&slices);
        lock(&self.state).stats.stall_seconds += started.elapsed().as_secs_f64();
        if !is_idle {
            return;
        }
        let places = lock(&self.places);
        for tensor in tensors {
            let inside = tensor.inside(expert);
            let Some(&base) = places.addresses.get(&tensor.name) else { continue };
            let start = address(base, tensor.file_offset, inside.start);
            let range = start..start + usize::try_from(inside.end - inside.start).unwrap_or(0);
            if let Some(reserved) = places.reserved.iter().find(|all| all.contains(&range)) {
                reserved.release(&range);
            }
        }
    }

    fn slices_of<'a>(&self, groups: impl Iterator<Item = &'a usize>) -> u64 {
        groups.map(|&group| self.group(group).0.len() as u64).sum()
    }

    /// A router chose: reads what is missing of its layer's tensors.
    fn chosen(&self, layer: u32, experts: &[i32], tokens: usize) -> Result<()> {
        let Some((tensors, first)) = self.layout.layer(layer) else { return Ok(()) };
        let tensors = &self.layout.tensors[tensors];
        let all = tensors.first().map_or(0, |tensor| tensor.experts);
        let chosen = distinct(experts, all)?;
        let wanted: Vec<usize> = chosen.iter().map(|expert| first + expert).collect();
        let mut state = lock(&self.state);
        let (now, resident) = (state.cache.budget_bytes(), state.cache.resident_bytes());
        let mut released = Vec::new();
        if let Some(budget) = state.pressure.look(now, resident) {
            released = state.cache.set_budget(budget);
            state.stats.shrunk += u64::from(state.cache.budget_bytes() < now);
        }
        // Memory may be so short that the budget does not hold this; it has to.
        let needed = state.cache.bytes(&wanted);
        if needed > state.cache.budget_bytes() && needed <= state.pressure.wanted_bytes() {
            state.cache.set_budget(needed);
        }
        if tokens == 1 {
            state.guesses.learn(layer, |expert| chosen.contains(&expert));
        }
        let guessed = std::mem::take(&mut state.ahead).into_iter();
        let (came_true, in_vain): (Vec<usize>, Vec<usize>) =
            guessed.partition(|group| wanted.contains(group));
        let taken = state.cache.take(&wanted, chosen.len() * 2 > all).map_err(|full| {
            let borders = self.layout.border_bytes();
            let (budget_bytes, needed_bytes) =
                (full.budget_bytes + borders, full.needed_bytes + borders);
            Error::PagingBudget { budget_bytes, needed_bytes }
        })?;
        released.extend_from_slice(&taken.released);
        let slices = tensors.len() as u64;
        state.stats.needed_slices += wanted.len() as u64 * slices;
        state.stats.missed_slices += (taken.missing.len() + came_true.len()) as u64 * slices;
        state.stats.ahead_slices += came_true.len() as u64 * slices;
        state.stats.wasted_slices += self.slices_of(in_vain.iter());
        state.stats.released_slices += self.slices_of(released.iter());
        let missed_bytes = state.cache.bytes(&taken.missing) + state.cache.bytes(&came_true);
        state.stats.missed_bytes += missed_bytes;
        drop(state);
        for group in released {
            self.release_group(group);
        }
        self.read(tensors, first, &taken.missing)
    }

    /// Guesses at the next layer's choice: reads those that are likely to come true.
    fn expected(&self, layer: u32, experts: &[i32]) -> Result<()> {
        let Some((tensors, first)) = self.layout.layer(layer) else { return Ok(()) };
        let tensors = &self.layout.tensors[tensors];
        let all = tensors.first().map_or(0, |tensor| tensor.experts);
        let ranked = experts.iter().filter_map(|&expert| usize::try_from(expert).ok());
        let ranked: Vec<usize> = ranked.filter(|&expert| expert < all).collect();
        let mut state = lock(&self.state);
        let good = state.guesses.expect(layer, ranked);
        let (mut groups, mut released) = (Vec::new(), Vec::new());
        for group in good.into_iter().map(|expert| first + expert) {
            if let Some(others) = state.cache.take_ahead(group) {
                released.extend(others);
                groups.push(group);
            }
        }
        state.stats.released_slices += self.slices_of(released.iter());
        state.ahead.clone_from(&groups);
        drop(state);
        for group in released {
            self.release_group(group);
        }
        self.read(tensors, first, &groups)
    }

    /// Queues the reads of some groups of a layer.
    fn read(&self, tensors: &[PagedTensor], first: usize, groups: &[usize]) -> Result<()> {
        // All experts of the tensor that is needed first, then of the next.
        for tensor in tensors {
            let mut pieces = Vec::new();
            for &group in groups {
                pieces.extend(self.slice_pieces(tensor, group - first)?);
            }
            self.queue.add(pieces);
        }
        Ok(())
    }

    /// Waits until these experts of a tensor are there.
    fn needed(&self, name: &str, experts: &[i32]) -> Result<()> {
        let blind = || Error::Paging {
            reason: format!("experts of `{name}` are used that no router was seen to choose"),
        };
        let tensor = &self.layout.tensors[*self.tensors.get(name).ok_or_else(blind)?];
        let (_, first) = self.layout.layer(tensor.layer).ok_or_else(blind)?;
        let experts = distinct(experts, tensor.experts)?;
        let state = lock(&self.state);
        if experts.iter().any(|expert| !state.cache.is_pinned(first + expert)) {
            return Err(blind());
        }
        drop(state);
        let slices: Vec<usize> = experts.iter().map(|&expert| tensor.slice(expert)).collect();
        let started = Instant::now();
        let is_there = self.queue.wait_for(&slices);
        lock(&self.state).stats.stall_seconds += started.elapsed().as_secs_f64();
        if is_there { Ok(()) } else { Err(Error::Paging { reason: "a read failed".into() }) }
    }

    /// Runs what the engine's callback asks for; false after the first failure.
    fn keep_failure(&self, call: impl FnOnce() -> Result<()>) -> bool {
        let outcome = if self.queue.has_failed() { return false } else { call() };
        if let Err(error) = outcome {
            self.queue.fail(error);
            return false;
        }
        true
    }
}

/// Where a byte of the file is in memory, as a page's place is the same in both.
fn address(base: usize, tensor_offset: u64, offset: u64) -> usize {
    // The first page begins before the tensor.
    let distance = isize::try_from(offset.abs_diff(tensor_offset)).unwrap_or(0);
    base.wrapping_add_signed(if offset < tensor_offset { -distance } else { distance })
}

/// The experts among `all`, each once.
fn distinct(experts: &[i32], all: usize) -> Result<BTreeSet<usize>> {
    let known = |&expert: &i32| usize::try_from(expert).ok().filter(|&expert| expert < all);
    let strange = || Error::Paging { reason: "a router chose an expert that is not there".into() };
    experts.iter().map(|expert| known(expert).ok_or_else(strange)).collect()
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: ours alone; the model whose buffer is of this type was freed before.
        let freed = guarded(|message| unsafe { ffi::moe_paged_free(self.buffer_type, message) });
        if let Err(failure) = freed {
            tracing::error!(target: "llama.cpp", "freeing a buffer type failed: {}", failure.reason);
        }
    }
}
