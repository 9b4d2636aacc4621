//! The RPC devices that a model uses, and what has to be done about them.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::call::guarded;
use super::locks::Held;
use super::{device, ffi, locks};
use crate::error::Result;

/// Contexts that may compute over RPC.
static CONTEXTS: AtomicUsize = AtomicUsize::new(0);

/// The RPC devices of one model, empty for most.
#[derive(Clone)]
pub(super) struct RpcDevices(Vec<ffi::ggml_backend_dev_t>);

// SAFETY: devices live as long as the process, and are only used with the lock held.
unsafe impl Send for RpcDevices {}
// SAFETY: likewise.
unsafe impl Sync for RpcDevices {}

impl RpcDevices {
    pub(super) fn among(names: &[&str]) -> Result<Self> {
        device::rpc_handles(names).map(Self)
    }

    /// Waits for other threads' work over RPC; nothing for a model that uses none.
    pub(super) fn lock(&self) -> Held<MutexGuard<'static, ()>> {
        locks::rpc(!self.0.is_empty())
    }

    /// To be called, with the lock held, after buffers on the devices may have been freed: if other
    /// contexts are at work, they must send their graphs anew.
    pub(super) fn freed(&self) {
        if CONTEXTS.load(Ordering::Relaxed) == 0 {
            return;
        }
        for &device in &self.0 {
            // SAFETY: the device lives as long as the process.
            let forgot = guarded(|message| unsafe { ffi::moe_rpc_forget_graph(device, message) });
            if let Err(failure) = forgot {
                tracing::warn!(target: "llama.cpp", "an RPC device: {}", failure.reason);
            }
        }
    }

    /// A context over these devices begins to live.
    pub(super) fn context_begins(&self) {
        CONTEXTS.fetch_add(usize::from(!self.0.is_empty()), Ordering::Relaxed);
    }

    /// It ended.
    pub(super) fn context_ends(&self) {
        CONTEXTS.fetch_sub(usize::from(!self.0.is_empty()), Ordering::Relaxed);
    }
}
