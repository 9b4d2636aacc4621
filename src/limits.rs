//! How long an operation may go on: until a deadline, or until it is cancelled.

use std::sync::Arc;
use std::time::Instant;

use crate::cancel::CancelHandle;
use crate::error::{Error, Result};
use crate::options::GenerateOptions;

const GENERATING: &str = "generating";

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
    /// Those of a call that began at `started`.
    pub(crate) fn of(options: &GenerateOptions, started: Instant) -> Self {
        // A time too long to be told is no limit.
        let deadline = options.max_time.and_then(|time| started.checked_add(time));
        Self(Arc::new(Inner { operation: GENERATING, cancel: options.cancel.clone(), deadline }))
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
}

impl Interruption {
    /// As the error of a call that has nothing to show for it.
    pub(crate) fn into_error(self) -> Error {
        self.error_of(GENERATING)
    }

    fn error_of(self, operation: &'static str) -> Error {
        match self {
            Self::Cancelled => Error::Cancelled { operation },
            Self::TimeUp => Error::TimedOut { operation },
        }
    }
}

impl Limits {
    /// An error if it must stop.
    pub(crate) fn check(&self) -> Result<()> {
        self.interruption().map_or(Ok(()), |why| Err(why.error_of(self.0.operation)))
    }
}
