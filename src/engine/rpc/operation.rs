//! The operation that uses RPC servers, one at a time in a process, and when it must end.
//!
//! The engine's client waits for an answer without limit. What it waits for is a relay, which therefore has
//! to know the limits of whoever uses the engine: see [`waited_enough`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::limits::Limits;

/// How long a server may still answer after the operation should have ended. One that is only slow often does,
/// and then nothing has to be thrown away.
const GRACE: Duration = Duration::from_secs(1);

/// How often limits are looked at during a wait.
pub(super) const TICK: Duration = Duration::from_millis(100);

static CURRENT: Mutex<Option<Arc<Operation>>> = Mutex::new(None);
static ENDED: Condvar = Condvar::new();

/// One use of the engine that may need RPC servers.
#[derive(Debug)]
pub(crate) struct Operation {
    limits: Limits,
    /// How long servers are waited for beyond the limits; `None` if memory is given back, which needs no server.
    grace: Option<Duration>,
    /// When a relay first saw that it should have ended.
    noticed: OnceLock<Instant>,
    /// Whether a relay made answers up since, so that the result is worth nothing.
    given_up: AtomicBool,
}

impl Operation {
    /// An error if servers were no longer waited for. What was computed is then of no use.
    pub(crate) fn check(&self) -> Result<()> {
        if self.given_up.load(Ordering::Acquire) { self.limits.check() } else { Ok(()) }
    }

    fn waited_enough(&self) -> bool {
        let is_over = self.limits.interruption().is_some()
            && self.noticed.get_or_init(Instant::now).elapsed() >= self.grace.unwrap_or_default();
        if is_over {
            self.given_up.store(true, Ordering::Release);
        }
        is_over
    }
}

/// The right to use RPC servers, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Operation>);

impl Turn {
    /// Waits until nobody else uses them.
    ///
    /// # Errors
    /// That of the limits, if they end the wait.
    pub(crate) fn wait(limits: &Limits) -> Result<Self> {
        Self::take(|| limits.check(), || limits.clone(), Some(GRACE))
    }

    /// The same for a question that takes no server longer than this.
    ///
    /// # Errors
    /// That of the limits, if they end the wait.
    pub(crate) fn to_ask(limits: &Limits, patience: Duration) -> Result<Self> {
        let limited = || limits.at_most_until(Instant::now() + patience);
        Self::take(|| limits.check(), limited, Some(GRACE))
    }

    /// For giving memory back, which needs no answer: waits for others, but for no server.
    pub(crate) fn to_free() -> Self {
        let turn = Self::take(|| Ok(()), || Limits::until(Instant::now()), None);
        turn.unwrap_or_else(|_| unreachable!("nothing ends this wait"))
    }

    pub(crate) fn operation(&self) -> &Arc<Operation> {
        &self.0
    }

    /// `check` may end the wait for others; `limits` are those of what follows it.
    fn take(
        check: impl Fn() -> Result<()>,
        limits: impl FnOnce() -> Limits,
        grace: Option<Duration>,
    ) -> Result<Self> {
        let mut current = lock();
        while current.is_some() {
            check()?;
            current = ENDED.wait_timeout(current, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let operation = Arc::new(Operation {
            limits: limits(),
            grace,
            noticed: OnceLock::new(),
            given_up: AtomicBool::new(false),
        });
        *current = Some(Arc::clone(&operation));
        Ok(Self(operation))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock() = None;
        ENDED.notify_one();
    }
}

/// Whether the operation under way waits for servers no longer. From then on answers are made up.
pub(super) fn waited_enough() -> bool {
    lock().as_ref().is_some_and(|operation| operation.waited_enough())
}

/// Whether answers are made up for the operation under way.
pub(super) fn is_given_up() -> bool {
    lock().as_ref().is_some_and(|operation| operation.given_up.load(Ordering::Acquire))
}

/// Whether the operation under way only gives memory back.
pub(super) fn only_frees() -> bool {
    lock().as_ref().is_some_and(|operation| operation.grace.is_none())
}

fn lock() -> MutexGuard<'static, Option<Arc<Operation>>> {
    // It is replaced whole: a panic elsewhere leaves nothing half-done.
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}
