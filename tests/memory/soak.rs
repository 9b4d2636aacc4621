//! Memory over many loads. Alone in its process, since it watches the memory of all of it.

use moe_offload::{CancelHandle, Error, Message};

use crate::support::alone::ran_alone;
use crate::support::generate::greedy;
use crate::support::load::on_cpu;
use crate::support::model_files::demo;

/// Several threads load, generate, cancel and drop, over and over: nothing hangs, and memory levels
/// off.
#[test]
fn many_threads_load_generate_cancel_and_drop() {
    const THREADS: usize = 8;
    if ran_alone() {
        return;
    }
    let cycles: usize =
        std::env::var("MOE_OFFLOAD_CYCLES").map_or(100, |cycles| cycles.parse().unwrap());
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let cycle = |number: usize| {
        let cancel = CancelHandle::new();
        let mut model = on_cpu(demo()).threads(1).context_tokens(128).load().unwrap();
        let options = greedy(20).cancel(&cancel);
        let generation = model.chat(&[Message::user("What is this?")], &options).unwrap();
        for (i, piece) in generation.enumerate() {
            match piece {
                Ok(_) if i == number % 7 && number.is_multiple_of(3) => cancel.cancel(),
                Ok(_) if i == 3 && number % 3 == 1 => break, // dropped half-way
                Ok(_) => {}
                Err(error) => assert!(matches!(error, Error::Cancelled { .. }), "{error}"),
            }
        }
    };
    let all = |cycles: usize| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                scope.spawn(move || (0..cycles).for_each(|number| cycle(thread + number)));
            }
        });
    };
    all(cycles.div_ceil(2));
    let half = resident();
    all(cycles.div_ceil(2));
    let grown = resident().saturating_sub(half);
    // A leak of the demo model's weights alone would be some 3.7 MB a cycle.
    assert!(grown < 32 << 20, "{grown} bytes more after {cycles} cycles on {THREADS} threads");
}
