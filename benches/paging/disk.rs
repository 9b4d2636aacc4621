//! What the disk gives: direct reads of the model, eight at once, of mebibytes that come four in a row as
//! the pieces of an expert do.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCK: u64 = 1 << 20;
/// `O_DIRECT` of Linux on most processors.
const DIRECT: i32 = 0o40000;

#[repr(align(4096))]
struct Buffer([u8; BLOCK as usize]);

/// Bytes per second, measured for so long.
pub fn bytes_per_second(path: &str, time: Duration) -> f64 {
    let (total, next) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (total, next) = (&total, &next);
            scope.spawn(move || {
                let open = OpenOptions::new().read(true).custom_flags(DIRECT).open(path);
                let file = open.expect("direct reads");
                let blocks = file.metadata().expect("a file").len() / BLOCK;
                let mut buffer = Box::new(Buffer([0; BLOCK as usize]));
                while started.elapsed() < time {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let random = (number / 4 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
                    let at = (random % (blocks - 4) + number % 4) * BLOCK;
                    file.read_exact_at(&mut buffer.0, at).expect("readable");
                    total.fetch_add(BLOCK, Ordering::Relaxed);
                }
            });
        }
    });
    total.into_inner() as f64 / started.elapsed().as_secs_f64()
}
