//! What the disk gives: direct reads of random mebibytes of the model, eight at once.

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
    let total = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let total = &total;
            scope.spawn(move || {
                let open = OpenOptions::new().read(true).custom_flags(DIRECT).open(path);
                let file = open.expect("direct reads");
                let blocks = file.metadata().expect("a file").len() / BLOCK;
                let mut buffer = Box::new(Buffer([0; BLOCK as usize]));
                let mut random = thread * 7919 + 1;
                while started.elapsed() < time {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let at = (random >> 33) % blocks * BLOCK;
                    file.read_exact_at(&mut buffer.0, at).expect("readable");
                    total.fetch_add(BLOCK, Ordering::Relaxed);
                }
            });
        }
    });
    total.into_inner() as f64 / started.elapsed().as_secs_f64()
}
