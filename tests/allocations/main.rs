//! What reading takes of memory. Each test has a process of its own, in which all allocations are counted.
#![allow(missing_docs)]

use peak_alloc::PeakAlloc;

#[path = "../support/mod.rs"]
mod support;

mod form_memory;
mod header_memory;
mod mutated_headers;

#[global_allocator]
static PEAK: PeakAlloc = PeakAlloc;
