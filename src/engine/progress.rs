//! How far a load is, for its caller, who may stop it.

use std::ffi::c_void;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::limits::{CancelHandle, callback};

/// What the progress callback needs, and what it has to tell.
pub(super) struct Progress {
    callback: Option<Box<dyn FnMut(f32) + Send>>,
    cancel: Option<CancelHandle>,
    /// Which part of the whole is done now.
    part: Range<f32>,
    stopped: Option<Error>,
}

impl Progress {
    pub(super) fn new(
        callback: Option<Box<dyn FnMut(f32) + Send>>,
        cancel: Option<CancelHandle>,
    ) -> Self {
        Self { callback, cancel, part: 0.0..1.0, stopped: None }
    }

    /// What is reported from now on is of this part of the whole.
    pub(super) fn of_part(&mut self, part: Range<f32>) {
        self.part = part;
    }

    /// Whether loading shall go on.
    pub(super) fn report(&mut self, done: f32) -> bool {
        let done = self.part.start + done * (self.part.end - self.part.start);
        if self.cancel.as_ref().is_some_and(CancelHandle::is_cancelled) {
            self.stopped = Some(Error::Cancelled { operation: "loading" });
        } else if let Some(callback) = &mut self.callback {
            self.stopped = callback::call("progress", || callback(done)).err();
        }
        self.stopped.is_none()
    }

    pub(super) fn outcome(&mut self) -> Result<()> {
        self.stopped.take().map_or(Ok(()), Err)
    }
}

pub(super) unsafe extern "C" fn on_progress(done: f32, user: *mut c_void) -> bool {
    // SAFETY: `user` is the `Progress` of `Weights::load`, which waits for the engine and does not
    // touch it meanwhile; the engine reports from that one thread.
    unsafe { &mut *user.cast::<Progress>() }.report(done)
}
