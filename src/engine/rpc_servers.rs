//! The RPC servers that a model uses, and what has to be done about them.

use std::sync::Arc;

use super::device;
use super::locks::RpcTurn;
use super::rpc::Link;
use crate::error::Result;
use crate::limits::Limits;

/// The connections to the RPC servers of one model, none for most.
#[derive(Clone)]
pub(super) struct RpcServers(Vec<Arc<Link>>);

impl RpcServers {
    /// Those that the devices of these names belong to.
    pub(super) fn of(devices: &[&str]) -> Result<Self> {
        device::links(devices).map(Self)
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits for other threads' work over RPC; nothing for a model that uses none. See [`RpcTurn::wait`].
    pub(super) fn turn(&self, limits: &Limits) -> Result<RpcTurn> {
        if self.are_none() { Ok(RpcTurn::default()) } else { RpcTurn::wait(limits) }
    }

    /// The same to give memory back.
    pub(super) fn turn_to_free(&self) -> RpcTurn {
        if self.are_none() { RpcTurn::default() } else { RpcTurn::to_free() }
    }

    /// Fails if one of them was lost. What the engine computed since is made up.
    pub(super) fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(|link| link.check())
    }
}
