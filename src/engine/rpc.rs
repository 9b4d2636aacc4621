//! The RPC servers that a model uses, and what has to be done about them.

use std::sync::{Arc, MutexGuard};

use super::locks::Held;
use super::{device, locks};
use crate::error::Result;
use crate::rpc::Link;

/// The connections to the RPC servers of one model, none for most.
#[derive(Clone)]
pub(super) struct RpcServers(Vec<Arc<Link>>);

impl RpcServers {
    /// Those that the devices of these names belong to.
    pub(super) fn of(devices: &[&str]) -> Result<Self> {
        device::links(devices).map(Self)
    }

    /// Waits for other threads' work over RPC; nothing for a model that uses none.
    pub(super) fn lock(&self) -> Held<MutexGuard<'static, ()>> {
        locks::rpc(!self.0.is_empty())
    }

    /// Fails if one of them was lost. What the engine computed since is made up.
    pub(super) fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(|link| link.check())
    }
}
