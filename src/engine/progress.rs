//! How far a load is, for its caller, who may stop it.

use std::ffi::c_void;

use crate::callback;
use crate::cancel::CancelHandle;
use crate::error::{Error, Result};

/// What the progress callback needs, and what it has to tell.
pub(super) struct Progress {
    callback: Option<Box<dyn FnMut(f32) + Send>>,
    cancel: Option<CancelHandle>,
    stopped: Option<Error>,
}

impl Progress {
    pub(super) fn new(
        callback: Option<Box<dyn FnMut(f32) + Send>>,
        cancel: Option<CancelHandle>,
    ) -> Self {
        Self { callback, cancel, stopped: None }
    }

    /// Whether loading shall go on.
    fn report(&mut self, done: f32) -> bool {
        if self.cancel.as_ref().is_some_and(CancelHandle::is_cancelled) {
            self.stopped = Some(Error::Cancelled { operation: "loading" });
        } else if let Some(callback) = &mut self.callback {
            self.stopped = callback::call("progress", || callback(done)).err();
        }
        self.stopped.is_none()
    }

    pub(super) fn outcome(self) -> Result<()> {
        self.stopped.map_or(Ok(()), Err)
    }
}

pub(super) unsafe extern "C" fn on_progress(done: f32, user: *mut c_void) -> bool {
    // SAFETY: `user` is the `Progress` of `Weights::load`, which waits for the engine and does not
    // touch it meanwhile; the engine reports from that one thread.
    unsafe { &mut *user.cast::<Progress>() }.report(done)
}
