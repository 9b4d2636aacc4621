//! Reading pages into place, several at once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use super::files::PagedFile;
use crate::error::Error;

/// Reads under way at once. More does not help a disk that was measured here; see docs/paging.md.
const DEPTH: usize = 8;
/// Of them, reads of what is needed later, or is only a guess: what was begun shares the disk with what is
/// needed at once. A disk that tells of reads only when it has done all it was given makes that wait for them all.
const LATER: usize = 4;
/// Bytes of one read.
pub(super) const PIECE_BYTES: u64 = 1 << 20;

/// One read of whole pages.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) file: Arc<PagedFile>,
    pub(super) offset: u64,
    /// Where it goes: memory that nobody looks at before the read is done.
    pub(super) address: usize,
    pub(super) bytes: usize,
    /// The first slice of its tensor, by which a layer's tensors are in the order in which it needs them.
    pub(super) tensor: usize,
    /// The slice, or `None` for a border.
    pub(super) slice: Option<usize>,
    /// 0 if it is needed, else how many guesses are likelier to come true, and one.
    pub(super) guess: usize,
}

impl Piece {
    /// What is needed together, the first least.
    fn rank(&self) -> (usize, usize) {
        (self.guess, self.tensor)
    }
}

/// What readers and those who wait share.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    /// The ranks of what is under way.
    under_way: Vec<(usize, usize)>,
    /// For each slice with reads to come, how many.
    pending: Vec<u32>,
    failure: Option<Error>,
    stop: bool,
    read_bytes: u64,
    reading_since: Option<Instant>,
    reading_seconds: f64,
}

impl State {
    fn is_idle(&self) -> bool {
        self.pieces.is_empty() && self.under_way.is_empty()
    }

    /// What is needed by layer, and in a layer by when it is needed; then guesses, the likeliest first.
    fn sort(&mut self) {
        self.pieces.make_contiguous().sort_by_key(|piece| (piece.guess, piece.slice));
    }

    fn has_work(&self) -> bool {
        self.pieces.front().is_some_and(|piece| {
            let is_first = self.under_way.iter().all(|other| piece.rank() <= *other);
            let most = if piece.guess == 0 && is_first { DEPTH } else { LATER };
            self.under_way.len() < most
        })
    }

    /// Begins the next read, if one may be.
    fn start(&mut self) -> Option<Piece> {
        if self.stop || !self.has_work() {
            return None;
        }
        let piece = self.pieces.pop_front()?;
        self.under_way.push(piece.rank());
        self.reading_since.get_or_insert_with(Instant::now);
        Some(piece)
    }

    fn finish(&mut self, piece: &Piece, outcome: Result<(), Error>) {
        if let Some(i) = self.under_way.iter().position(|other| *other == piece.rank()) {
            self.under_way.swap_remove(i);
        }
        if self.under_way.is_empty()
            && let Some(since) = self.reading_since.take()
        {
            self.reading_seconds += since.elapsed().as_secs_f64();
        }
        match outcome {
            Ok(()) => {
                self.read_bytes += piece.bytes as u64;
                if let Some(count) = piece.slice.and_then(|slice| self.pending.get_mut(slice)) {
                    *count -= 1;
                }
            }
            // The pages stay unread: nothing may be computed any more.
            Err(error) => self.failure = self.failure.take().or(Some(error)),
        }
    }
}

impl Queue {
    pub(super) fn new(slices: usize) -> Self {
        let state = State { pending: vec![0; slices], ..State::default() };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, pieces: impl IntoIterator<Item = Piece>) {
        let mut state = self.lock();
        for piece in pieces {
            if let Some(count) = piece.slice.and_then(|slice| state.pending.get_mut(slice)) {
                *count += 1;
            }
            state.pieces.push_back(piece);
        }
        state.sort();
        drop(state);
        self.work.notify_all();
    }

    /// Guesses that came true: these slices are needed now.
    pub(super) fn promote(&self, slices: &[usize]) {
        let mut state = self.lock();
        let is_one = |piece: &&mut Piece| piece.slice.is_some_and(|slice| slices.contains(&slice));
        state.pieces.iter_mut().filter(is_one).for_each(|piece| piece.guess = 0);
        state.sort();
        drop(state);
        self.work.notify_all();
    }

    /// Takes back reads that were not begun; of how many of these slices.
    pub(super) fn withdraw(&self, slices: &[usize]) -> usize {
        let mut state = self.lock();
        let mut withdrawn = BTreeSet::new();
        let State { pieces, pending, .. } = &mut *state;
        pieces.retain(|piece| {
            let Some(slice) = piece.slice.filter(|slice| slices.contains(slice)) else {
                return true;
            };
            pending[slice] -= 1;
            withdrawn.insert(slice);
            false
        });
        withdrawn.len()
    }

    /// Waits until these slices are there. False after a failure.
    pub(super) fn wait_for(&self, slices: &[usize]) -> bool {
        let is_there = |state: &State| slices.iter().all(|&slice| state.pending[slice] == 0);
        let waited =
            self.done.wait_while(self.lock(), |state| state.failure.is_none() && !is_there(state));
        waited.unwrap_or_else(PoisonError::into_inner).failure.is_none()
    }

    /// Waits until nothing is under way.
    pub(super) fn wait_idle(&self) {
        let waited =
            self.done.wait_while(self.lock(), |state| state.failure.is_none() && !state.is_idle());
        drop(waited);
    }

    pub(super) fn fail(&self, error: Error) {
        let mut state = self.lock();
        state.failure = state.failure.take().or(Some(error));
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// What went wrong, once; after it every wait fails.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut state = self.lock();
        let later = || Error::Paging { reason: "it failed before; load the model again".into() };
        state.failure.as_mut().map(|failure| std::mem::replace(failure, later()))
    }

    /// Bytes read, and seconds in which reads were under way.
    pub(super) fn totals(&self) -> (u64, f64) {
        let state = self.lock();
        (state.read_bytes, state.reading_seconds)
    }

    fn next(&self) -> Option<Piece> {
        let waited = self.work.wait_while(self.lock(), |state| !state.stop && !state.has_work());
        waited.unwrap_or_else(PoisonError::into_inner).start()
    }

    /// Another piece if there is one now.
    fn more(&self) -> Option<Piece> {
        self.lock().start()
    }

    fn finish(&self, piece: &Piece, outcome: Result<(), Error>) {
        self.lock().finish(piece, outcome);
        self.done.notify_all();
        self.work.notify_all();
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        state.pieces.clear();
        drop(state);
        self.work.notify_all();
    }
}

/// The threads that read. Dropping it waits for what is under way.
#[derive(Debug)]
pub(super) struct Readers {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    pub(super) kind: &'static str,
}

impl Readers {
    /// One thread with an `io_uring`, or as many threads as reads at once where there is none, such as
    /// in containers that forbid it.
    pub(super) fn start(queue: &Arc<Queue>, allow_ring: bool) -> std::io::Result<Self> {
        let ring = if allow_ring { working_ring() } else { None };
        let spawn = |work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("moe-offload-read".into()).spawn(work)
        };
        let mut readers = Self { queue: Arc::clone(queue), threads: Vec::new(), kind: "threads" };
        if let Some(ring) = ring {
            let queue = Arc::clone(queue);
            readers.threads.push(spawn(Box::new(move || read_by_ring(&queue, ring)))?);
            readers.kind = "io_uring";
        } else {
            for _ in 0..DEPTH {
                let queue = Arc::clone(queue);
                readers.threads.push(spawn(Box::new(move || read_by_thread(&queue)))?);
            }
        }
        Ok(readers)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.queue.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(target: "moe_offload", "a thread that reads experts panicked");
            }
        }
    }
}

/// A ring that really reads: some systems let one be made and nothing be done with it.
fn working_ring() -> Option<IoUring> {
    let mut ring = IoUring::new(u32::try_from(DEPTH).ok()?).ok()?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).ok()?;
    // SAFETY: it does nothing, so that it touches no memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    let works = probe.is_supported(opcode::Read::CODE)
        && pushed.is_ok()
        && ring.submit_and_wait(1).is_ok()
        && ring.completion().count() == 1;
    works.then_some(ring)
}

fn read_by_thread(queue: &Queue) {
    while let Some(piece) = queue.next() {
        // SAFETY: the pages are reserved, nobody looks at them before `finish`, and each is in one
        // piece alone; the mapping outlives the readers.
        let into = unsafe { std::slice::from_raw_parts_mut(piece.address as *mut u8, piece.bytes) };
        queue.finish(&piece, piece.file.read(piece.offset, into));
    }
}

fn read_by_ring(queue: &Queue, mut ring: IoUring) {
    // `None`: free.
    let mut slots: Vec<Option<Piece>> = vec![None; DEPTH];
    loop {
        let is_idle = slots.iter().all(Option::is_none);
        for (i, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
            let next = if is_idle && i == 0 { queue.next() } else { queue.more() };
            let Some(piece) = next else { break };
            let bytes = u32::try_from(piece.bytes).unwrap_or(u32::MAX);
            let fd = types::Fd(piece.file.descriptor());
            let read = opcode::Read::new(fd, piece.address as *mut u8, bytes)
                .offset(piece.offset)
                .build()
                .user_data(i as u64);
            *slot = Some(piece);
            // SAFETY: as in `read_by_thread`; the file is kept open by the slot until the read is done.
            // There are as many entries in the ring as slots.
            let pushed = unsafe { ring.submission().push(&read) };
            debug_assert!(pushed.is_ok());
        }
        if slots.iter().all(Option::is_none) {
            return; // stopped
        }
        if let Err(error) = ring.submit_and_wait(1) {
            use std::io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
            if !matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock) {
                queue.fail(Error::Paging { reason: format!("io_uring: {error}") });
                queue.done.notify_all();
                if ring.submission().len() == slots.iter().flatten().count() {
                    return; // the system has none of the reads
                }
            }
            // What it has may still be written, so it is waited for.
            std::thread::sleep(Duration::from_millis(1));
        }
        let finished: Vec<(u64, i32)> =
            ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (i, result) in finished {
            let Ok(i) = usize::try_from(i) else { continue };
            let Some(piece) = slots.get_mut(i).and_then(Option::take) else { continue };
            queue.finish(&piece, outcome(&piece, result));
        }
    }
}

/// What a completed read means; what it left out is read once more, in the plain way.
fn outcome(piece: &Piece, result: i32) -> Result<(), Error> {
    let file = &piece.file;
    let done = match usize::try_from(result) {
        Ok(done) => done,
        Err(_) if [-libc::EINTR, -libc::EAGAIN].contains(&result) => 0,
        Err(_) => return Err(file.failed(std::io::Error::from_raw_os_error(-result))),
    };
    // SAFETY: as in `read_by_thread`.
    let into = unsafe { std::slice::from_raw_parts_mut(piece.address as *mut u8, piece.bytes) };
    if done >= file.wanted(piece.offset, piece.bytes) {
        return file.check(piece.offset, into);
    }
    file.read(piece.offset, into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> (tempfile::NamedTempFile, Arc<PagedFile>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let opened = Arc::new(PagedFile::open(file.path(), false).unwrap());
        (file, opened)
    }

    /// One without bytes; a hundred slices are a tensor.
    fn piece(file: &Arc<PagedFile>, slice: usize, guess: usize) -> Piece {
        Piece {
            file: Arc::clone(file),
            offset: 0,
            address: 0,
            bytes: 0,
            tensor: slice / 100,
            slice: Some(slice),
            guess,
        }
    }

    #[test]
    fn what_was_not_begun_is_withdrawn_and_what_is_needed_comes_first() {
        let (_kept, file) = file();
        let piece = |(slice, guess)| piece(&file, slice, guess);
        let queue = Queue::new(10 + LATER);
        queue.add([(7, 1), (7, 1), (8, 1), (4, 2), (5, 2)].map(piece));
        queue.add([(2, 0), (3, 0)].map(piece));
        let begun = queue.next().unwrap();
        assert_eq!(begun.slice, Some(2), "needed before the guesses");
        assert_eq!(queue.withdraw(&[2, 7, 9]), 1, "only what waits");
        assert!(queue.wait_for(&[7, 9]), "nothing of them is to come");
        queue.finish(&begun, Ok(()));
        assert!(queue.wait_for(&[2]));
        queue.promote(&[5]);
        queue.add((10..8 + LATER).map(|slice| piece((slice, 0))));
        let begun: Vec<_> = std::iter::from_fn(|| queue.more()).collect();
        let slices = |begun: &[Piece]| begun.iter().filter_map(|it| it.slice).collect::<Vec<_>>();
        let needed: Vec<usize> = [3, 5].into_iter().chain(10..8 + LATER).collect();
        assert_eq!(slices(&begun), needed, "what came true is needed; guesses wait for few reads");
        queue.finish(&begun[0], Ok(()));
        let likelier = queue.more().unwrap();
        assert_eq!((likelier.slice, queue.more().is_none()), (Some(8), true), "likelier");
        queue.finish(&begun[1], Ok(()));
        queue.finish(&likelier, Ok(()));
        assert_eq!(queue.next().and_then(|piece| piece.slice), Some(4));
    }

    #[test]
    fn what_is_needed_first_has_the_disk_almost_alone() {
        let (_kept, file) = file();
        let queue = Queue::new(400);
        let slices = [[101, 101, 101], [202, 202, 203]].concat();
        queue.add(slices.into_iter().map(|slice| piece(&file, slice, 0)));
        let begin = || std::iter::from_fn(|| queue.more()).collect::<Vec<_>>();
        let slices = |begun: &[Piece]| begun.iter().filter_map(|it| it.slice).collect::<Vec<_>>();
        let first = begin();
        assert_eq!(slices(&first), [101, 101, 101, 202], "the next tensor only while few are read");
        queue.add((0..DEPTH).map(|slice| piece(&file, slice, 0)));
        let more = begin();
        assert_eq!(slices(&more), [0, 1, 2, 3], "an earlier tensor takes all there is");
        for piece in first.iter().chain(&more) {
            queue.finish(piece, Ok(()));
        }
        assert_eq!(slices(&begin()), [4, 5, 6, 7]);
    }
}
