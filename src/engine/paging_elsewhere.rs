//! In the place of `paging` on systems that it was not written for: an error.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard};

use super::ffi;
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::paging::{Layout, PagingOptions, PagingStats};

/// Of which there is none.
#[derive(Debug)]
pub(crate) enum Pager {}

impl Pager {
    pub(super) fn new(_: &GgufFile, _: Layout, _: &PagingOptions) -> Result<Self> {
        let reason = "this needs Linux; keep the experts in memory".to_owned();
        Err(Error::Paging { reason })
    }

    pub(super) fn buffer_type(&self) -> ffi::ggml_backend_buffer_type_t {
        match *self {}
    }

    pub(super) fn stream(&self, _: &GgufFile) -> Result<ModelStream> {
        match *self {}
    }

    pub(super) fn start(&mut self, _: u64, _: usize) -> Result<()> {
        match *self {}
    }

    pub(super) fn stop(&mut self) {
        match *self {}
    }

    pub(super) fn is_whole(&self) -> bool {
        match *self {}
    }

    pub(super) fn most_tokens_at_once(&self, _: u32, _: usize) -> u32 {
        match *self {}
    }

    pub(super) fn tokens_at_once(&self, _: u32, _: usize) -> u32 {
        match *self {}
    }

    pub(super) fn compute_lock(&self) -> MutexGuard<'_, ()> {
        match *self {}
    }

    pub(super) fn load_failure(&self) -> Option<Error> {
        match *self {}
    }

    pub(super) fn failure(&self) -> Option<Error> {
        match *self {}
    }

    pub(crate) fn stats(&self) -> PagingStats {
        match *self {}
    }

    pub(crate) fn reset(&self) {
        match *self {}
    }
}

/// None: the engine reads all by itself.
pub(super) fn stream_without(_: &GgufFile, _: &HashSet<&str>) -> Result<Option<ModelStream>> {
    Ok(None)
}

/// Of which there is none.
pub(super) enum ModelStream {}

impl ModelStream {
    pub(super) fn for_engine(&self) -> ffi::moe_stream {
        match *self {}
    }

    pub(super) fn failure(&self) -> Option<Error> {
        match *self {}
    }
}

/// Of which there is none.
pub(super) enum PagerWatch {}

impl PagerWatch {
    pub(super) fn new<W>(
        _: &Arc<W>,
        _: fn(&W) -> Option<&Pager>,
        _: *mut ffi::moe_expert_watch,
    ) -> Result<Option<Self>> {
        Ok(None)
    }

    pub(super) fn set(&self, _: &mut ffi::llama_context_params) {
        match *self {}
    }

    pub(super) fn check(&mut self) -> Result<()> {
        match *self {}
    }
}
