//! Experts on disk: which of their pages are in memory, and what was read. All of this is plain data;
//! `engine::paging` does the reading.

mod cache;
mod expert_predictor;
mod layout;
mod options;
mod pressure;
mod routing_counts;
mod rows;
mod stats;

pub(crate) use self::cache::Cache;
pub(crate) use self::expert_predictor::{ExpertPredictor, Stage};
pub(crate) use self::layout::{Layout, PAGE_BYTES, PagedTensor, page_ceil, page_floor};
pub use self::options::PagingOptions;
pub(crate) use self::pressure::Pressure;
pub(crate) use self::routing_counts::RoutingCounts;
pub(crate) use self::rows::Rows;
pub use self::stats::PagingStats;
