//! What the engine does not lock itself. Each lock may be taken again by the thread that has it, as
//! a callback of a load may use the engine.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use super::rpc::{Operation, Turn};
use crate::error::Result;
use crate::limits::Limits;

/// The engine's list of devices: a plain vector that registering changes.
static REGISTRY: RwLock<()> = RwLock::new(());

thread_local! {
    static READS_REGISTRY: Cell<bool> = const { Cell::new(false) };
    /// The operation for which this thread has its turn.
    static OPERATION: RefCell<Option<Arc<Operation>>> = const { RefCell::new(None) };
}

/// The list of devices may be looked at until this is dropped.
pub(super) struct Reading(Option<RwLockReadGuard<'static, ()>>);

impl Drop for Reading {
    fn drop(&mut self) {
        if self.0.is_some() {
            READS_REGISTRY.set(false);
        }
    }
}

/// For looking at the list of devices.
pub(super) fn read_registry() -> Reading {
    let is_new = !READS_REGISTRY.replace(true);
    Reading(is_new.then(|| REGISTRY.read().unwrap_or_else(PoisonError::into_inner)))
}

/// For adding to the list of devices; `None` if this thread is looking at it.
pub(super) fn write_registry() -> Option<RwLockWriteGuard<'static, ()>> {
    (!READS_REGISTRY.get()).then(|| REGISTRY.write().unwrap_or_else(PoisonError::into_inner))
}

/// All work over RPC may be done until this is dropped: the client keeps state per server, without a lock, for
/// all contexts.
#[derive(Default)]
pub(super) struct RpcTurn {
    /// `None` where no server is used.
    operation: Option<Arc<Operation>>,
    /// `None` if this thread had its turn already.
    turn: Option<Turn>,
}

impl RpcTurn {
    /// Waits for other threads' work over RPC, and lets `limits` end the wait for servers.
    ///
    /// # Errors
    /// That of the limits, if others' work takes longer.
    pub(super) fn wait(limits: &Limits) -> Result<Self> {
        Self::outer().map_or_else(|| Turn::wait(limits).map(Self::of), Ok)
    }

    /// The same for a question that takes no server longer than `patience`.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(super) fn to_ask(limits: &Limits, patience: Duration) -> Result<Self> {
        Self::outer().map_or_else(|| Turn::to_ask(limits, patience).map(Self::of), Ok)
    }

    /// To give memory back: no server is waited for.
    pub(super) fn to_free() -> Self {
        Self::outer().unwrap_or_else(|| Self::of(Turn::to_free()))
    }

    /// An error if a server was no longer waited for. What the engine got for its answer is made up.
    pub(super) fn check(&self) -> Result<()> {
        self.operation.as_ref().map_or(Ok(()), |operation| operation.check())
    }

    fn of(turn: Turn) -> Self {
        let operation = Arc::clone(turn.operation());
        OPERATION.set(Some(Arc::clone(&operation)));
        Self { operation: Some(operation), turn: Some(turn) }
    }

    fn outer() -> Option<Self> {
        let operation = OPERATION.with_borrow(Option::clone)?;
        Some(Self { operation: Some(operation), turn: None })
    }
}

impl Drop for RpcTurn {
    fn drop(&mut self) {
        if self.turn.is_some() {
            OPERATION.set(None);
        }
    }
}
