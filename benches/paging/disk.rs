//! What the disk gives: direct reads of the model, eight at once by one `io_uring`, of mebibytes that come four
//! in a row as the pieces of an expert do, into memory that was used before.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

const BLOCK: u64 = 1 << 20;
const DEPTH: u64 = 8;
/// `O_DIRECT` of Linux on most processors.
const DIRECT: i32 = 0o40000;

#[derive(Clone)]
#[repr(align(4096))]
struct Buffer([u8; BLOCK as usize]);

/// Bytes per second, measured for so long.
pub fn bytes_per_second(path: &str, time: Duration) -> f64 {
    let open = OpenOptions::new().read(true).custom_flags(DIRECT).open(path);
    let file = open.expect("direct reads");
    let blocks = file.metadata().expect("a file").len() / BLOCK;
    let mut buffers = vec![Buffer([0; BLOCK as usize]); DEPTH as usize];
    let mut ring = IoUring::new(DEPTH as u32).expect("io_uring");
    let seed = u64::from(std::process::id());
    // Each time other places: what was read lately may be in a cache of the machine's host.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (mut number, mut total) = (NEXT.load(Ordering::Relaxed), 0_u64);
    let mut free: Vec<u64> = (0..DEPTH).collect();
    let started = Instant::now();
    while started.elapsed() < time || (free.len() as u64) < DEPTH {
        while started.elapsed() < time
            && let Some(slot) = free.pop()
        {
            let random = (number / 4 + seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
            let at = (random % (blocks - 4) + number % 4) * BLOCK;
            number += 1;
            let into = buffers[slot as usize].0.as_mut_ptr();
            let read = opcode::Read::new(types::Fd(file.as_raw_fd()), into, BLOCK as u32);
            // SAFETY: the buffer lives until the ring's last read has ended, and has one read at a time.
            let pushed =
                unsafe { ring.submission().push(&read.offset(at).build().user_data(slot)) };
            pushed.expect("there is room for each buffer");
        }
        if (free.len() as u64) < DEPTH {
            ring.submit_and_wait(1).expect("reads");
        }
        for entry in ring.completion() {
            assert_eq!(entry.result(), BLOCK as i32, "a whole read");
            total += BLOCK;
            free.push(entry.user_data());
        }
    }
    NEXT.store(number.next_multiple_of(4), Ordering::Relaxed);
    total as f64 / started.elapsed().as_secs_f64()
}
