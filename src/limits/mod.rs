//! How long an operation may go on: until a deadline, or until it is cancelled. And how the caller is called meanwhile.

pub(crate) mod callback;
mod cancel;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

pub use self::cancel::CancelHandle;
use crate::error::{Error, Result};

/// How often a thread that waits looks at its limits.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why an operation must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Its [`CancelHandle`] was switched.
    Cancelled,
    /// Its `max_time` is over.
    TimeUp,
}

/// The deadline and the switch of one generation. Cheap to clone: the engine's callbacks, and
/// threads that work for the generation, each hold a copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What is limited, for the error.
    operation: &'static str,
    cancel: Option<CancelHandle>,
    deadline: Option<Instant>,
}

impl Limits {
    /// Those of a generation that began at `started`.
    pub(crate) fn of_generation(
        cancel: Option<&CancelHandle>,
        max_time: Option<Duration>,
        started: Instant,
    ) -> Self {
        // A time too long to be told is no limit.
        let deadline = max_time.and_then(|time| started.checked_add(time));
        Self(Arc::new(Inner { operation: "generating", cancel: cancel.cloned(), deadline }))
    }

    /// Those of a load, which only a switch ends, if anything does.
    pub(crate) fn of_load(cancel: Option<&CancelHandle>) -> Self {
        Self(Arc::new(Inner { operation: "loading", cancel: cancel.cloned(), deadline: None }))
    }

    /// Those of work that has time until then.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self(Arc::new(Inner { deadline: Some(deadline), ..Inner::default() }))
    }

    /// The same, but no longer than until `latest`.
    pub(crate) fn at_most_until(&self, latest: Instant) -> Self {
        let deadline = self.0.deadline.map_or(latest, |deadline| deadline.min(latest));
        let Inner { operation, cancel, .. } = &*self.0;
        let cancel = cancel.clone();
        Self(Arc::new(Inner { operation, cancel, deadline: Some(deadline) }))
    }

    /// Why to stop now; `None` to go on.
    pub(crate) fn interruption(&self) -> Option<Interruption> {
        let Inner { cancel, deadline, .. } = &*self.0;
        if cancel.as_ref().is_some_and(CancelHandle::is_cancelled) {
            Some(Interruption::Cancelled)
        } else if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            Some(Interruption::TimeUp)
        } else {
            None
        }
    }

    /// Whether there is anything that could end it.
    pub(crate) fn are_none(&self) -> bool {
        self.0.cancel.is_none() && self.0.deadline.is_none()
    }

    /// An error if it must stop.
    pub(crate) fn check(&self) -> Result<()> {
        self.interruption().map_or(Ok(()), |why| Err(why.error_of(self.0.operation)))
    }

    /// The error of what was stopped by these limits.
    pub(crate) fn stopped(&self) -> Error {
        self.interruption().unwrap_or(Interruption::Cancelled).error_of(self.0.operation)
    }

    /// Runs `work`, which cannot be interrupted, on a thread of its own, and waits no longer than
    /// the limits allow. A thread that is left behind ends when its work does; what it found is
    /// dropped.
    pub(crate) fn wait_for<T: Send + 'static>(
        &self,
        name: &str,
        stack_bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        self.check()?;
        let (sender, result) = mpsc::sync_channel(1);
        let run = move || {
            // Nobody waits any more if this fails.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(work)));
        };
        let thread = thread::Builder::new().name(name.to_owned()).stack_size(stack_bytes);
        thread.spawn(run).map_err(|error| Error::Engine {
            operation: "start a thread",
            reason: format!("{error}; it was to have a stack of {stack_bytes} bytes"),
        })?;
        loop {
            match result.recv_timeout(LOOK_EVERY) {
                Ok(done) => return Ok(done.unwrap_or_else(|panic| resume_unwind(panic))),
                Err(RecvTimeoutError::Timeout) => self.check()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let reason = "it ended without a result".to_owned();
                    return Err(Error::Engine { operation: "use a thread", reason });
                }
            }
        }
    }
}

impl Interruption {
    fn error_of(self, operation: &'static str) -> Error {
        match self {
            Self::Cancelled => Error::Cancelled { operation },
            Self::TimeUp => Error::TimedOut { operation },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: usize = 64 << 10;

    fn within(time: Duration) -> Limits {
        Limits::of_generation(None, Some(time), Instant::now())
    }

    #[test]
    fn work_is_waited_for_until_the_limits_say_otherwise() {
        assert_eq!(Limits::default().wait_for("test", STACK, || 7).unwrap(), 7);
        // Work that never ends by itself: it waits for what is dropped at the end of the test.
        let (release, held) = mpsc::channel::<()>();
        let limits = within(Duration::from_millis(30));
        let left = limits.wait_for("test", STACK, move || held.recv());
        assert!(matches!(left, Err(Error::TimedOut { .. })), "{left:?}");
        let (release_other, held) = mpsc::channel::<()>();
        let cancel = CancelHandle::new();
        let limits = Limits::of_generation(Some(&cancel), None, Instant::now());
        thread::spawn(move || cancel.cancel());
        let left = limits.wait_for("test", STACK, move || held.recv());
        assert!(matches!(left, Err(Error::Cancelled { .. })), "{left:?}");
        drop((release, release_other));
    }

    #[test]
    fn a_panic_in_the_work_is_the_caller_s() {
        let caught =
            catch_unwind(|| Limits::default().wait_for("test", STACK, || panic!("planted")));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"planted"));
    }
}
