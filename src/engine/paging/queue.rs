//! Which reads are to come, in which order, and which are under way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use super::event_fd::EventFd;
use super::files::PagedFile;
use crate::error::Error;

/// Reads under way at once. More does not help a disk that was measured here; see docs/paging.md.
pub(super) const DEPTH: usize = 8;
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

    fn is_of(&self, slices: &[usize]) -> bool {
        self.slice.is_some_and(|slice| slices.contains(&slice))
    }
}

/// What readers and those who wait share.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
    /// As `work`, for a reader that waits for the disk at the same time.
    event_fd: OnceLock<Arc<EventFd>>,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    under_way: Vec<Piece>,
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

    fn withdraw(&mut self, slices: &[usize]) -> usize {
        let mut withdrawn = BTreeSet::new();
        let Self { pieces, pending, .. } = self;
        pieces.retain(|piece| {
            let Some(slice) = piece.slice.filter(|_| piece.is_of(slices)) else { return true };
            pending[slice] -= 1;
            withdrawn.insert(slice);
            false
        });
        withdrawn.len()
    }

    fn has_work(&self) -> bool {
        self.pieces.front().is_some_and(|piece| {
            let is_first = self.under_way.iter().all(|other| piece.rank() <= other.rank());
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
        self.under_way.push(piece.clone());
        self.reading_since.get_or_insert_with(Instant::now);
        Some(piece)
    }

    fn finish(&mut self, piece: &Piece, outcome: Result<(), Error>) {
        if let Some(i) = self.under_way.iter().position(|other| other.address == piece.address) {
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

fn failed_before() -> Error {
    Error::Paging { reason: "it failed before; load the model again".into() }
}

impl Queue {
    pub(super) fn new(slices: usize) -> Self {
        let state = State { pending: vec![0; slices], ..State::default() };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What tells a reader that waits for the disk of more work. `None` where there can be none.
    pub(super) fn make_event_fd(&self) -> Option<Arc<EventFd>> {
        let event_fd = Arc::new(EventFd::new().ok()?);
        self.event_fd.set(Arc::clone(&event_fd)).ok()?;
        Some(event_fd)
    }

    fn call_readers(&self) {
        self.work.notify_all();
        if let Some(event_fd) = self.event_fd.get() {
            event_fd.send();
        }
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
        self.call_readers();
    }

    /// Guesses that came true: these slices are needed now.
    pub(super) fn promote(&self, slices: &[usize]) {
        let mut state = self.lock();
        let State { pieces, under_way, .. } = &mut *state;
        let all = pieces.iter_mut().chain(under_way);
        all.filter(|piece| piece.is_of(slices)).for_each(|piece| piece.guess = 0);
        state.sort();
        drop(state);
        self.call_readers();
    }

    /// Takes back reads that were not begun; of how many of these slices.
    pub(super) fn withdraw(&self, slices: &[usize]) -> usize {
        self.lock().withdraw(slices)
    }

    /// Takes back all reads of these slices, unless one of them was begun. Whether it did.
    pub(super) fn withdraw_unbegun(&self, slices: &[usize]) -> bool {
        let mut state = self.lock();
        let is_read = |&slice: &usize| state.pending[slice] == 0;
        if state.under_way.iter().any(|piece| piece.is_of(slices)) || slices.iter().any(is_read) {
            return false;
        }
        state.withdraw(slices);
        true
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
        drop(state);
        self.done.notify_all();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// Whether nothing went wrong yet; what did is left to [`Self::failure`].
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.has_failed() { Err(failed_before()) } else { Ok(()) }
    }

    /// What went wrong, once; after it every wait fails.
    pub(super) fn failure(&self) -> Option<Error> {
        let mut state = self.lock();
        state.failure.as_mut().map(|failure| std::mem::replace(failure, failed_before()))
    }

    /// Bytes read, and seconds in which reads were under way.
    pub(super) fn totals(&self) -> (u64, f64) {
        let state = self.lock();
        (state.read_bytes, state.reading_seconds)
    }

    /// The next piece, for which it waits; `None` once stopped.
    pub(super) fn next(&self) -> Option<Piece> {
        let waited = self.work.wait_while(self.lock(), |state| !state.stop && !state.has_work());
        waited.unwrap_or_else(PoisonError::into_inner).start()
    }

    /// Another piece if there is one now.
    pub(super) fn more(&self) -> Option<Piece> {
        self.lock().start()
    }

    /// A read has ended, of which [`Self::tell`] tells.
    pub(super) fn finish(&self, piece: &Piece, outcome: Result<(), Error>) {
        self.lock().finish(piece, outcome);
    }

    /// Wakes those who wait for what was read.
    pub(super) fn tell(&self) {
        self.done.notify_all();
        self.work.notify_all();
    }

    #[cfg(test)]
    pub(super) fn is_reading(&self) -> bool {
        !self.lock().under_way.is_empty()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.lock().stop
    }

    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stop = true;
        state.pieces.clear();
        drop(state);
        self.call_readers();
    }
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
            address: slice,
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
