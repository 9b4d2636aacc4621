//! Experts on disk: which of their pages are in memory, and what was read. All of this is plain data;
//! `engine::paging` does the reading.

mod cache;
mod guess;
mod layout;
mod options;
mod pressure;
mod rows;
mod stats;
mod uses;

pub(crate) use self::cache::Cache;
pub(crate) use self::guess::{Guesses, Look};
pub(crate) use self::layout::{Layout, PAGE_BYTES, PagedTensor, page_ceil, page_floor};
pub use self::options::PagingOptions;
pub(crate) use self::pressure::Pressure;
pub(crate) use self::rows::Rows;
pub use self::stats::PagingStats;
pub(crate) use self::uses::Uses;
