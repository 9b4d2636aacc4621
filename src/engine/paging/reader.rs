//! Reading pages into place, several at once.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::event_fd::EventFd;
use super::queue::{DEPTH, Piece, Queue};
use crate::error::Error;

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
    pub(super) fn start(queue: &Arc<Queue>, allow_ring: bool) -> io::Result<Self> {
        let ring = if allow_ring {
            working_ring().and_then(|ring| Some((ring, queue.make_event_fd()?)))
        } else {
            None
        };
        let spawn = |work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("moe-offload-read".into()).spawn(work)
        };
        let mut readers = Self { queue: Arc::clone(queue), threads: Vec::new(), kind: "threads" };
        if let Some((ring, event_fd)) = ring {
            let reader = RingReader::new(Arc::clone(queue), event_fd, ring);
            readers.threads.push(spawn(Box::new(move || reader.run()))?);
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
    let mut ring = IoUring::new(u32::try_from(DEPTH + 1).ok()?).ok()?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).ok()?;
    // SAFETY: it does nothing, so that it touches no memory.
    let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
    let works = [opcode::Read::CODE, opcode::PollAdd::CODE].map(|it| probe.is_supported(it))
        == [true; 2]
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
        queue.tell();
    }
}

/// All reads of one thread. It waits for the disk and for more work at once, so that what is needed is given to the
/// disk although others are under way.
struct RingReader {
    queue: Arc<Queue>,
    event_fd: Arc<EventFd>,
    ring: IoUring,
    /// What is under way; `None`: free.
    slots: Vec<Option<Piece>>,
    /// Whether the ring tells when the signal is sent.
    is_watching: bool,
    /// The system takes nothing any more.
    is_broken: bool,
}

/// The signal among the ring's entries, which else are numbers of slots.
const EVENT_FD: u64 = DEPTH as u64;

impl RingReader {
    fn new(queue: Arc<Queue>, event_fd: Arc<EventFd>, ring: IoUring) -> Self {
        let slots = vec![None; DEPTH];
        Self { queue, event_fd, ring, slots, is_watching: false, is_broken: false }
    }

    /// Until the queue is stopped and the system has none of the reads.
    fn run(mut self) {
        let mut has_news = false;
        loop {
            self.begin();
            // Only then are those told who wait for what was read: where all cores compute, they take this thread's
            // core at once, and the disk would have nothing to do until it comes to its turn.
            drop(self.ring.submit()); // an error comes again below
            if has_news {
                self.queue.tell();
            }
            let under_way = self.under_way();
            if under_way == 0 && (self.queue.is_stopped() || self.is_broken) {
                return;
            }
            if let Err(error) = self.ring.submit_and_wait(1) {
                self.failed(&error);
                let given = under_way + usize::from(self.is_watching);
                if self.is_broken && self.ring.submission().len() == given {
                    return;
                }
                // What it has may still be written, so it is waited for.
                std::thread::sleep(Duration::from_millis(1));
            }
            has_news = self.finish();
        }
    }

    fn watch(&mut self) {
        if !self.is_watching {
            let event_fd = types::Fd(self.event_fd.descriptor());
            let events = libc::POLLIN.unsigned_abs().into();
            self.push(&opcode::PollAdd::new(event_fd, events).build().user_data(EVENT_FD));
            self.is_watching = true;
        }
    }

    fn begin(&mut self) {
        if self.is_broken {
            return;
        }
        self.watch();
        while let Some(i) = self.slots.iter().position(Option::is_none) {
            let Some(piece) = self.queue.more() else { break };
            let bytes = u32::try_from(piece.bytes).unwrap_or(u32::MAX);
            let fd = types::Fd(piece.file.descriptor());
            let read = opcode::Read::new(fd, piece.address as *mut u8, bytes);
            self.push(&read.offset(piece.offset).build().user_data(i as u64));
            self.slots[i] = Some(piece);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what is read into is as in `read_by_thread`, and its file is kept open by the slot until the
        // read is done; the system keeps the signal open while it watches it.
        let pushed = unsafe { self.ring.submission().push(entry) };
        debug_assert!(pushed.is_ok(), "there are as many entries in the ring as slots and one");
    }

    /// Notes the reads that have ended; whether there are any.
    fn finish(&mut self) -> bool {
        let before = self.under_way();
        let finished: Vec<(u64, i32)> =
            self.ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (i, result) in finished {
            if i == EVENT_FD {
                self.event_fd.take();
                self.is_watching = false;
                if result < 0 {
                    self.failed(&io::Error::from_raw_os_error(-result));
                }
            }
            let slot = usize::try_from(i).ok().and_then(|i| self.slots.get_mut(i));
            if let Some(piece) = slot.and_then(Option::take) {
                self.queue.finish(&piece, outcome(&piece, result));
            }
        }
        self.under_way() < before
    }

    fn under_way(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
        if !matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock) {
            self.queue.fail(Error::Paging { reason: format!("io_uring: {error}") });
            self.is_broken = true;
            self.event_fd.send(); // the ring ends its watch
        }
    }
}

/// What a completed read means; what it left out is read once more, in the plain way.
fn outcome(piece: &Piece, result: i32) -> Result<(), Error> {
    let file = &piece.file;
    let done = match usize::try_from(result) {
        Ok(done) => done,
        Err(_) if [-libc::EINTR, -libc::EAGAIN].contains(&result) => 0,
        Err(_) => return Err(file.failed(io::Error::from_raw_os_error(-result))),
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
    use std::fs;
    use std::path::Path;
    use std::sync::mpsc;
    use std::thread;

    use rustix::fs::{FileType, Mode};

    use super::*;
    use crate::engine::paging::files::PagedFile;

    #[derive(Clone)]
    #[repr(align(4096))]
    struct Page([u8; 4096]);

    fn piece(path: &Path, into: &mut Page, slice: usize) -> Piece {
        Piece {
            file: Arc::new(PagedFile::open(path, false).unwrap()),
            offset: 0,
            address: into.0.as_mut_ptr() as usize,
            bytes: into.0.len(),
            tensor: 0,
            slice: Some(slice),
            guess: 0,
        }
    }

    #[test]
    fn what_is_needed_is_read_while_another_read_hangs() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, file) = (folder.path().join("pipe"), folder.path().join("file"));
        fs::write(&file, [7; 4096]).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();

        let mut pages = vec![Page([0; 4096]); 2];
        let queue = Arc::new(Queue::new(2));
        let readers = Readers::start(&queue, true).unwrap();
        // Nothing is written, so that a read of it hangs, until this is dropped.
        let writer = fs::File::options().read(true).write(true).open(&pipe).unwrap();
        queue.add([piece(&pipe, &mut pages[0], 0)]);
        while readers.kind == "io_uring" && !queue.is_reading() {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(50)); // so that it waits in the ring
        queue.add([piece(&file, &mut pages[1], 1)]);
        let (there, is_there) = mpsc::channel();
        let waiting = Arc::clone(&queue);
        thread::spawn(move || there.send(waiting.wait_for(&[1])));
        assert_eq!(is_there.recv_timeout(Duration::from_secs(20)), Ok(true));
        drop(writer);
        drop(readers);
        assert_eq!(pages[1].0, [7; 4096]);
    }
}
