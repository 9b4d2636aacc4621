//! Counting which experts the routers choose.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use super::call::slice_from_raw;
use super::{ExpertUse, ffi};

/// What the engine's evaluation callback is given. Owned by one context; the engine reads and writes
/// it only while that context computes, on the thread that has the context.
pub(super) struct ExpertWatch {
    watch: NonNull<ffi::moe_expert_watch>,
    counts: NonNull<Counts>,
}

#[derive(Default)]
struct Counts {
    counted: ExpertUse,
    panicked: bool,
}

impl ExpertWatch {
    pub(super) fn new() -> Self {
        let counts = NonNull::from(Box::leak(Box::new(Counts::default())));
        let user = counts.as_ptr().cast();
        let watch = ffi::moe_expert_watch { visit: Some(visit), user, failed: false };
        Self { watch: NonNull::from(Box::leak(Box::new(watch))), counts }
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::moe_expert_watch {
        self.watch.as_ptr()
    }

    /// Makes a context of these parameters count here; `self` must outlive it.
    pub(super) fn set(&self, params: &mut ffi::llama_context_params) {
        params.cb_eval = Some(ffi::moe_watch_experts);
        params.cb_eval_user_data = self.watch.as_ptr().cast();
    }

    /// What was counted; `None` after a failure. `&mut`: the context is not computing.
    pub(super) fn counted(&mut self) -> Option<ExpertUse> {
        // SAFETY: both are ours until drop, and the engine uses them only while it computes, for
        // which it needs the context that `self` is part of.
        let (watch, counts) = unsafe { (self.watch.as_ref(), self.counts.as_ref()) };
        (!watch.failed && !counts.panicked).then(|| counts.counted.clone())
    }

    /// Counts from here on. `&mut`: the context is not computing.
    pub(super) fn reset(&mut self) {
        // SAFETY: as in `counted`.
        unsafe { self.counts.as_mut() }.counted = ExpertUse::default();
    }
}

impl Drop for ExpertWatch {
    fn drop(&mut self) {
        // SAFETY: both came out of boxes in `new`, and are dropped once; the context that used them
        // is freed before its fields are dropped.
        unsafe {
            drop(Box::from_raw(self.watch.as_ptr()));
            drop(Box::from_raw(self.counts.as_ptr()));
        }
    }
}

unsafe extern "C" fn visit(layer: i32, experts: *const i32, count: usize, user: *mut c_void) {
    // SAFETY: `user` is the `Counts` of a living context, used by nobody else while it computes; the
    // shim passes `count` numbers that live during the call.
    let (counts, experts) =
        unsafe { (&mut *user.cast::<Counts>(), slice_from_raw(experts, count)) };
    let counted = catch_unwind(AssertUnwindSafe(|| counts.counted.record(layer, experts)));
    counts.panicked |= counted.is_err();
}
