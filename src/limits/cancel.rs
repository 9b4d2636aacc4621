//! Stopping a load or a generation from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cancels what it was given to. Cheap to clone; all clones are one switch, which stays on.
///
/// ```
/// let cancel = moe_offload::CancelHandle::new();
/// let elsewhere = cancel.clone();
/// std::thread::spawn(move || elsewhere.cancel()).join().unwrap();
/// assert!(cancel.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<Switch>);

#[derive(Debug, Default)]
struct Switch {
    on: AtomicBool,
    /// Its switch cancels this one too.
    parent: Option<CancelHandle>,
}

impl CancelHandle {
    /// A handle that is not cancelled yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another switch, which is cancelled with this one, but does not cancel it.
    #[cfg(feature = "async")]
    pub(crate) fn child(&self) -> Self {
        Self(Arc::new(Switch { on: AtomicBool::new(false), parent: Some(self.clone()) }))
    }

    /// Stops the operation as soon as it looks, within one token or one step of loading.
    pub fn cancel(&self) {
        self.0.on.store(true, Ordering::Relaxed);
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.on.load(Ordering::Relaxed)
            || self.0.parent.as_ref().is_some_and(CancelHandle::is_cancelled)
    }
}

#[cfg(all(test, feature = "async"))]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_cancelled_with_its_parent_but_not_the_other_way_round() {
        let parent = CancelHandle::new();
        let [first, second] = [parent.child(), parent.child()];
        first.cancel();
        assert!(first.is_cancelled() && !parent.is_cancelled() && !second.is_cancelled());
        parent.cancel();
        assert!(second.is_cancelled());
    }
}
