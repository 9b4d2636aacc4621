//! Experts that stay on disk, of which what the routers choose is read in time.
//!
//! A custom buffer type reserves addresses for their tensors and fills nothing. When the engine has
//! computed a router, its evaluation callback tells which experts were chosen; what is missing is then
//! read straight into place, by other threads, in the order in which the layer needs its tensors. Before
//! the engine multiplies with one of them, it waits for that one's slices, so that the last are read while
//! the first are computed with. See docs/paging.md.

mod address_map;
mod checksums;
mod event_fd;
mod files;
mod memory;
mod on_routing;
mod pages;
mod queue;
mod reader;
mod stream;
mod watch;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::address_map::AddressMap;
use self::files::PagedFile;
use self::queue::Queue;
use self::reader::Readers;
pub(super) use self::stream::ModelStream;
pub(super) use self::watch::PagerWatch;
use super::call::guarded;
use super::ffi;
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::paging::{
    Cache, ExpertPredictor, Layout, PagedTensor, PagingOptions, PagingStats, Pressure, Rows,
};

/// So much is read at the start before memory is looked at again; less than is kept free.
const FILL_BYTES: u64 = 64 << 20;

/// The paged experts of one model. Freed after the model; the readers end first.
pub(crate) struct Pager {
    readers: Option<Readers>,
    queue: Arc<Queue>,
    buffer_type: ffi::ggml_backend_buffer_type_t,
    files: Vec<Arc<PagedFile>>,
    layout: Layout,
    tensors: HashMap<String, usize>,
    /// Shared with the engine's buffer, which asks for addresses while it loads.
    address_map: Box<Mutex<AddressMap>>,
    state: Mutex<State>,
    /// Contexts take turns: what one is about to use must not be released for another.
    compute_lock: Mutex<()>,
    io_uring: bool,
    read_ahead: bool,
    /// Whether each read is compared with the first.
    verify: bool,
    /// Whether pages go from one expert to another without the system clearing them.
    moves_pages: AtomicBool,
}

struct State {
    cache: Cache,
    pressure: Pressure,
    stats: PagingStats,
    /// Whether everything is in memory, so that no router need be watched.
    is_whole: bool,
    predictor: ExpertPredictor,
    rows: Rows,
    /// The groups that were read on a guess for the layer that chooses next.
    prefetched: Vec<usize>,
    /// Groups with memory, but without their bytes.
    spare: Vec<usize>,
}

impl State {
    fn new(cache: Cache, pressure: Pressure) -> Self {
        Self {
            cache,
            pressure,
            stats: PagingStats::default(),
            is_whole: false,
            predictor: ExpertPredictor::default(),
            rows: Rows::default(),
            prefetched: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Makes the budget what memory allows, if the last look at it was so long ago. Returns what is evicted.
    fn follow_memory(&mut self, every: Duration) -> Vec<usize> {
        let (now, resident) = (self.cache.budget_bytes(), self.cache.resident_bytes());
        let Some(budget) = self.pressure.look(every, now, resident) else { return Vec::new() };
        let evicted = self.cache.set_budget(budget);
        self.stats.shrunk += u64::from(self.cache.budget_bytes() < now);
        evicted
    }
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

/// A model without the bytes of tensors of these names, which somebody else reads.
pub(super) fn stream_without<'a>(
    gguf: &'a GgufFile,
    names: &HashSet<&str>,
) -> Result<Option<ModelStream<'a>>> {
    ModelStream::open(gguf, names).map(Some)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pager {
    /// For a model that is to be loaded; nothing is read yet.
    pub(super) fn new(gguf: &GgufFile, layout: Layout, options: &PagingOptions) -> Result<Self> {
        memory::check_page_size()?;
        let open = |path| PagedFile::open(path, options.verify).map(Arc::new);
        let files = gguf.shards().iter().map(|shard| open(&shard.path)).collect::<Result<_>>()?;
        let named = |(i, tensor): (usize, &PagedTensor)| (tensor.name.clone(), i);
        let tensors = layout.tensors.iter().enumerate().map(named).collect();
        let offset = |tensor: &PagedTensor| (tensor.name.clone(), tensor.file_offset);
        let address_map = Box::new(AddressMap::new(layout.on_disk().map(offset).collect()));
        let memory = address_map::for_engine(&address_map);
        let mut buffer_type = ptr::null_mut();
        // SAFETY: `memory` is copied; what it points to is boxed and kept until the type is freed.
        guarded(|message| unsafe {
            ffi::moe_paged_new(&raw const memory, &raw mut buffer_type, message)
        })
        .map_err(|failure| failure.into_error("make memory for paged experts"))?;
        let may_move = memory::may_move(layout.slices);
        let queue = Arc::new(Queue::new(layout.slices));
        let cache = Cache::new(&layout.groups(), 0, options.half_life_tokens);
        let state = State::new(cache, Pressure::new(options.left.0));
        Ok(Self {
            readers: None,
            queue,
            buffer_type,
            files,
            layout,
            tensors,
            address_map,
            state: Mutex::new(state),
            compute_lock: Mutex::new(()),
            io_uring: options.io_uring,
            read_ahead: options.read_ahead,
            verify: options.verify,
            moves_pages: AtomicBool::new(may_move),
        })
    }

    pub(super) fn buffer_type(&self) -> ffi::ggml_backend_buffer_type_t {
        self.buffer_type
    }

    /// The model in one file, without the paged tensors.
    pub(super) fn stream<'a>(&self, gguf: &'a GgufFile) -> Result<ModelStream<'a>> {
        let paged = self.layout.on_disk().map(|tensor| tensor.name.as_str()).collect();
        ModelStream::open(gguf, &paged)
    }

    /// After the load: reads what is always in memory, and as many experts as the budget holds.
    ///
    /// # Errors
    /// As [`Layout::check_budget`], and whatever goes wrong with reading.
    pub(super) fn start(&mut self, budget_bytes: u64, active: usize) -> Result<()> {
        let readers = Readers::start(&self.queue, self.io_uring).map_err(|source| {
            Error::Paging { reason: format!("no thread to read with: {source}") }
        })?;
        let buffered =
            if self.files.iter().all(|file| file.is_direct()) { "" } else { ", buffered" };
        let kind = format!("{}{buffered}", readers.kind);
        self.readers = Some(readers);
        self.layout.check_budget(budget_bytes, active)?;
        let most = lock(&self.state).cache.all_bytes();
        let cache_bytes = (budget_bytes - self.layout.border_bytes()).min(most);
        for tensor in &self.layout.tensors {
            for range in tensor.borders() {
                let pieces = self.pieces(tensor, &range, None)?;
                self.queue.add(pieces);
            }
        }
        let mut state = lock(&self.state);
        state.stats.reader = kind;
        state.pressure.want(cache_bytes);
        state.cache.set_budget(cache_bytes);
        drop(state);
        self.fill()?;
        if let Some(failure) = self.queue.failure() {
            return Err(failure);
        }
        let mut state = lock(&self.state);
        state.is_whole = state.cache.is_whole() && self.layout.table.is_none();
        drop(state);
        self.reset();
        Ok(())
    }

    /// Reads experts as far as the budget goes, and as far as there is memory: what is asked for may be more.
    fn fill(&self) -> Result<()> {
        // Twice, as what was given up in between may fit again.
        for _ in 0..2 {
            let mut wanted = 0..lock(&self.state).cache.len();
            while self.fill_some(&mut wanted)? {}
        }
        Ok(())
    }

    /// Reads the next of these experts. Whether there were any.
    fn fill_some(&self, wanted: &mut Range<usize>) -> Result<bool> {
        self.queue.wait_idle();
        if self.queue.has_failed() {
            return Ok(false);
        }
        let mut state = lock(&self.state);
        let evicted = state.follow_memory(Duration::ZERO);
        let filled = state.cache.fill(wanted, FILL_BYTES);
        drop(state);
        self.replace(&evicted, &filled, |_| 0)?;
        Ok(!filled.is_empty())
    }

    /// Ends the threads that read, after what is under way.
    pub(super) fn stop(&mut self) {
        self.readers = None;
    }

    /// How many of `wanted` tokens may be computed at once while memory is not short.
    pub(super) fn most_tokens_at_once(&self, wanted: u32, active: usize) -> u32 {
        if self.readers.is_none() {
            return wanted; // a dry run, which has no budget yet
        }
        let bytes = lock(&self.state).pressure.wanted_bytes();
        self.layout.tokens_at_once(wanted, active, bytes)
    }

    /// The same now.
    pub(super) fn tokens_at_once(&self, wanted: u32, active: usize) -> u32 {
        let bytes = lock(&self.state).cache.budget_bytes();
        self.layout.tokens_at_once(wanted, active, bytes)
    }

    /// Whether everything is in memory for good.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.state).is_whole
    }

    /// To be held while a context computes.
    pub(super) fn compute_lock(&self) -> MutexGuard<'_, ()> {
        lock(&self.compute_lock)
    }

    /// Why the load failed, if it was for want of addresses.
    pub(super) fn load_failure(&self) -> Option<Error> {
        lock(&self.address_map).failure.take()
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
