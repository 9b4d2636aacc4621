//! What the engine does not lock itself. Each lock may be taken again by the thread that has it, as
//! a callback of a load may use the engine.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::LocalKey;

/// The engine's list of devices: a plain vector that registering changes.
static REGISTRY: RwLock<()> = RwLock::new(());

/// Everything over RPC: the client keeps state per server, without a lock, for all contexts.
static RPC: Mutex<()> = Mutex::new(());

thread_local! {
    static READS_REGISTRY: Cell<bool> = const { Cell::new(false) };
    static HAS_RPC: Cell<bool> = const { Cell::new(false) };
}

/// A lock that this thread holds until the value is dropped; `None` inside if it had it already.
pub(super) struct Held<Guard> {
    guard: Option<Guard>,
    flag: &'static LocalKey<Cell<bool>>,
}

impl<Guard> Held<Guard> {
    fn new(
        flag: &'static LocalKey<Cell<bool>>,
        wanted: bool,
        lock: impl FnOnce() -> Guard,
    ) -> Self {
        let guard = (wanted && !flag.get()).then(lock);
        if guard.is_some() {
            flag.set(true);
        }
        Self { guard, flag }
    }
}

impl<Guard> Drop for Held<Guard> {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.flag.set(false);
        }
    }
}

/// For looking at the list of devices.
pub(super) fn read_registry() -> Held<RwLockReadGuard<'static, ()>> {
    Held::new(&READS_REGISTRY, true, || REGISTRY.read().unwrap_or_else(PoisonError::into_inner))
}

/// For adding to the list of devices; `None` if this thread is looking at it.
pub(super) fn write_registry() -> Option<RwLockWriteGuard<'static, ()>> {
    (!READS_REGISTRY.get()).then(|| REGISTRY.write().unwrap_or_else(PoisonError::into_inner))
}

/// For all work over RPC; takes nothing unless `is_used`.
pub(super) fn rpc(is_used: bool) -> Held<MutexGuard<'static, ()>> {
    Held::new(&HAS_RPC, is_used, || RPC.lock().unwrap_or_else(PoisonError::into_inner))
}
