//! What the engine's evaluation callback is given by a context whose experts are paged.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::super::call::{guarded, slice_from_raw};
use super::super::ffi;
use super::Pager;
use crate::error::{Error, Result};
use crate::paging::Stage;

/// Owned by one context; the engine uses it only while that context computes, on the thread that has it.
pub(in super::super) struct PagerWatch {
    pager: NonNull<ffi::moe_pager>,
    /// The weights that own the pager: `user` points into them.
    _owner: Arc<dyn Send + Sync>,
}

impl PagerWatch {
    /// For the pager that `owner` has. `None` if it has none, or all is in memory.
    pub(in super::super) fn new<W: Send + Sync + 'static>(
        owner: &Arc<W>,
        pager: fn(&W) -> Option<&Pager>,
        watch: *mut ffi::moe_expert_watch,
    ) -> Result<Option<Self>> {
        let Some(pager) = pager(owner).filter(|pager| !pager.is_whole()) else {
            return Ok(None);
        };
        pager.queue.check()?;
        let user = ptr::from_ref(pager).cast_mut().cast();
        let raw = Box::new(ffi::moe_pager {
            chosen: Some(chosen),
            expected: pager.read_ahead.then_some(expected as _),
            needed: Some(needed),
            rows: Some(rows),
            user,
            watch,
            graph_state: ptr::null_mut(),
            routing_missed: false,
            failed: false,
        });
        let owner: Arc<dyn Send + Sync> = Arc::<W>::clone(owner);
        let this = Self { pager: NonNull::from(Box::leak(raw)), _owner: owner };
        // SAFETY: ours until drop.
        guarded(|message| unsafe { ffi::moe_pager_begin(this.pager.as_ptr(), message) })
            .map_err(|failure| failure.into_error("watch the routers"))?;
        Ok(Some(this))
    }

    /// Makes a context of these parameters page; `self` must outlive it.
    pub(in super::super) fn set(&self, params: &mut ffi::llama_context_params) {
        params.cb_eval = Some(ffi::moe_page_experts);
        params.cb_eval_user_data = self.pager.as_ptr().cast();
    }

    /// Whether experts were used unseen, which is an error. `&mut`: the context is not computing.
    pub(in super::super) fn check(&mut self) -> Result<()> {
        // SAFETY: ours until drop, and the engine uses it only while it computes.
        let is_blind = unsafe { (*self.pager.as_ptr()).routing_missed };
        let reason = "this model uses experts before its router can be seen; keep them in memory";
        if is_blind { Err(Error::Paging { reason: reason.into() }) } else { Ok(()) }
    }
}

impl Drop for PagerWatch {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and the context that used it is freed.
        unsafe {
            ffi::moe_pager_end(self.pager.as_ptr());
            drop(Box::from_raw(self.pager.as_ptr()));
        }
    }
}

/// Runs `call` on the pager; a panic counts as a failure.
fn on(pager: &Pager, call: impl FnOnce() -> Result<()>) -> bool {
    pager.keep_failure(|| {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| {
            Err(Error::Paging { reason: "the pager panicked; please report it".into() })
        })
    })
}

unsafe extern "C" fn chosen(
    layer: i32,
    experts: *const i32,
    each: usize,
    used: usize,
    tokens: usize,
    user: *mut c_void,
) -> bool {
    // SAFETY: `user` is the pager of the owner that the watch keeps; there are as many experts as it says.
    let (pager, experts) =
        unsafe { (&*user.cast::<Pager>(), slice_from_raw(experts, each * tokens)) };
    on(pager, || pager.chosen(u32::try_from(layer).unwrap_or(0), experts, each, used))
}

unsafe extern "C" fn expected(
    layer: i32,
    experts: *const i32,
    count: usize,
    again: bool,
    user: *mut c_void,
) {
    // SAFETY: as in `chosen`.
    let (pager, experts) = unsafe { (&*user.cast::<Pager>(), slice_from_raw(experts, count)) };
    let stage = if again { Stage::Again } else { Stage::First };
    on(pager, || pager.expected(u32::try_from(layer).unwrap_or(0), experts, stage));
}

unsafe extern "C" fn needed(
    tensor: *const c_char,
    experts: *const i32,
    count: usize,
    user: *mut c_void,
) -> bool {
    // SAFETY: as in `chosen`; the name is the engine's NUL-terminated text.
    let (pager, experts, name) =
        unsafe { (&*user.cast::<Pager>(), slice_from_raw(experts, count), CStr::from_ptr(tensor)) };
    on(pager, || pager.needed(&name.to_string_lossy(), experts))
}

unsafe extern "C" fn rows(
    tensor: *const c_char,
    rows: *const i32,
    count: usize,
    user: *mut c_void,
) -> bool {
    // SAFETY: as in `chosen`; the name is the engine's NUL-terminated text.
    let (pager, rows, name) =
        unsafe { (&*user.cast::<Pager>(), slice_from_raw(rows, count), CStr::from_ptr(tensor)) };
    on(pager, || pager.rows_needed(&name.to_string_lossy(), rows))
}
