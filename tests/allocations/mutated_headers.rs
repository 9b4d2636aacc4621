//! Changed headers through the reader and the preflight: no panic, no byte read twice, memory in
//! proportion to the file. A million of them, with how long the slowest took:
//!
//! ```sh
//! MUTATIONS=1000000 cargo test --release --no-default-features --test allocations mutated_headers -- --nocapture
//! ```

#[path = "../support/mutation/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod mutation;

use std::io::Read;
use std::time::{Duration, Instant};

use moe_offload::{GgufFile, preflight};
use moe_offload_synth::{self as synth, SynthOptions};
use mutation::{RawFile, mutate};

use crate::PEAK;
use crate::support::alone::ran_alone;

/// Bytes of memory per byte of the file, and besides.
const PER_BYTE: usize = 4;
const BESIDES: usize = 64 << 10;

struct Counted<'a>(&'a [u8], usize);

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read(into)?;
        self.1 += count;
        Ok(count)
    }
}

/// The family's header; the reader is told that the data is there.
fn header(family: &synth::Family) -> (RawFile, u64) {
    let mut bytes = Vec::new();
    family.build(&SynthOptions::tiny()).unwrap().write(&mut bytes).unwrap();
    let mut file = RawFile::parse(&bytes);
    let mut offset = 0;
    for tensor in &mut file.tensors {
        tensor.offset = Some(offset);
        offset += tensor.data.len() as u64;
        tensor.data.clear();
    }
    (file, offset)
}

#[test]
fn no_header_is_too_much() {
    if ran_alone() {
        return;
    }
    let count = std::env::var("MUTATIONS").ok().and_then(|n| n.parse().ok());
    let count: u64 = count.unwrap_or(3_600);
    let families: Vec<_> = synth::families().map(|family| (family.name, header(family))).collect();
    let (mut read, mut passed, mut slowest) = (0, 0, Duration::ZERO);
    for number in 0..count {
        let (name, (file, data)) = &families[usize::try_from(number).unwrap() % families.len()];
        let mutation = mutate(file, name, 7, number);
        let bytes = mutation.file;
        let mut source = Counted(&bytes, 0);
        PEAK.reset_peak_usage();
        let before = PEAK.current_usage();
        let started = Instant::now();
        let file_bytes = bytes.len() as u64 + data;
        let outcome = GgufFile::read(&mut source, file_bytes, "mutated.gguf");
        let peak = PEAK.peak_usage() - before;
        if let Ok(gguf) = &outcome {
            read += 1;
            passed += u64::from(preflight::check(gguf).is_ok());
        }
        slowest = slowest.max(started.elapsed());
        assert!(source.1 <= bytes.len());
        assert!(
            peak <= PER_BYTE * usize::try_from(file_bytes).unwrap() + BESIDES,
            "{name} {number}: {}: {peak} of {}",
            mutation.what,
            file_bytes
        );
    }
    println!("{count} headers: {read} read, {passed} of them passed; the slowest took {slowest:?}");
}
