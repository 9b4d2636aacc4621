//! How experts are paged.

use crate::device::system_memory::available_bytes;

/// How experts that a plan leaves on disk are read and kept.
///
/// ```
/// use moe_offload::PagingOptions;
/// let options = PagingOptions::default().cache_bytes(3 << 30);
/// assert_eq!(options.cache_bytes, Some(3 << 30));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PagingOptions {
    /// Bytes of experts to keep in memory, of which a policy's `ram:` may leave less. `None`: what the plan says, or
    /// else four fifths of the memory that is free after the rest was loaded.
    pub cache_bytes: Option<u64>,
    /// After so many tokens a use of an expert counts half when it is decided which ones stay. 0 keeps
    /// the most recently used ones, a large number those used most often.
    pub half_life_tokens: f64,
    /// Reads experts of the next layer before its router has chosen, where guesses at them mostly come
    /// true. What was not read yet when it chooses others is not read.
    pub read_ahead: bool,
    /// Reads by `io_uring` where the system allows it, else by threads.
    pub io_uring: bool,
    /// Compares each read with the first of the same part of the file, by a checksum of 32 bits: bytes that
    /// are other ones, though nobody wrote to the file, are an error ([`Error::WrongBytes`](crate::Error::WrongBytes)).
    /// What was already wrong at its first read is not found.
    pub verify: bool,
    /// What tells how much memory is left.
    pub(crate) left: MemoryLeft,
}

/// Who is asked how much memory is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryLeft(pub(crate) fn() -> Option<u64>);

impl PartialEq for MemoryLeft {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::fn_addr_eq(self.0, other.0)
    }
}

impl Default for PagingOptions {
    fn default() -> Self {
        Self {
            cache_bytes: None,
            half_life_tokens: 64.0,
            read_ahead: true,
            io_uring: true,
            verify: false,
            left: MemoryLeft(available_bytes),
        }
    }
}

impl PagingOptions {
    /// Keeps so many bytes of experts in memory.
    #[must_use]
    pub fn cache_bytes(self, bytes: u64) -> Self {
        Self { cache_bytes: Some(bytes), ..self }
    }

    /// Weighs how often an expert is used against how recently.
    #[must_use]
    pub fn half_life_tokens(self, half_life_tokens: f64) -> Self {
        Self { half_life_tokens, ..self }
    }

    /// Whether to read on good guesses.
    #[must_use]
    pub fn read_ahead(self, read_ahead: bool) -> Self {
        Self { read_ahead, ..self }
    }

    /// Whether `io_uring` may be used.
    #[must_use]
    pub fn io_uring(self, io_uring: bool) -> Self {
        Self { io_uring, ..self }
    }

    /// Whether to compare each read with the first.
    #[must_use]
    pub fn verify(self, verify: bool) -> Self {
        Self { verify, ..self }
    }

    /// Asks this how many bytes of memory can still be taken, every fifth of a second in which there is something
    /// to compute, and while it loads, instead of the system and the process's control groups. For programs that share memory out
    /// themselves. Below 192 MiB experts give way. What it answers is believed; `None`: not known.
    #[must_use]
    pub fn available_bytes(self, available_bytes: fn() -> Option<u64>) -> Self {
        Self { left: MemoryLeft(available_bytes), ..self }
    }
}
