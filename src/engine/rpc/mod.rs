//! A relay between the engine and each RPC server, in this process.
//!
//! llama.cpp ends the process when the connection to a server breaks, on a thread of its own where
//! nothing can be caught. So it is never given that connection: it talks to a relay on the loopback
//! interface, which passes everything on. When the server dies, the relay goes on answering with
//! zeros and remembers what happened; the call that is under way ends soon, its result is thrown
//! away, and the caller gets [`Error::RpcLost`]. Everything can then be freed as usual, and the next
//! load connects anew.
//!
//! It also makes answers up when the call under way has to end, because it was cancelled or its time is over, and a
//! server is silent: stopped, or still computing. Such a server is not lost: what it answers later is
//! passed over, and the next call goes on with it.
//!
//! The relay also knows what the connection carries ([`rpc_traffic`]), does not wait for ever for a
//! server that is busy or silent, and refuses answers of the wrong length.

mod cache;
mod client;
mod graphs;
mod link;
mod names;
mod operation;
mod protocol;
mod relay;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub(crate) use self::cache::clean_cache;
pub(crate) use self::link::Link;
pub(crate) use self::names::leads_to;
pub(crate) use self::operation::{Operation, Turn};
use crate::error::{Error, Result};

/// All servers that were ever connected, by endpoint.
static LINKS: Mutex<BTreeMap<String, Arc<Link>>> = Mutex::new(BTreeMap::new());

/// What went over the connection to an RPC server since this process first connected to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RpcTraffic {
    /// Bytes sent to the server.
    pub sent_bytes: u64,
    /// Bytes that it sent.
    pub received_bytes: u64,
    /// Requests that were waited for; each costs the network's latency twice.
    pub round_trips: u64,
    /// Requests that have no answer.
    pub one_way_requests: u64,
}

/// What went over the connection to the server at `endpoint` so far; `None` if this process never
/// connected to it. The difference between two calls is what happened between them.
pub fn rpc_traffic(endpoint: &str) -> Option<RpcTraffic> {
    let links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    links.get(endpoint).map(|link| link.traffic())
}

/// The relay to this server, started if there is none yet. Does not connect.
/// `is_open_here` tells whether this process still has the socket with an address.
pub(crate) fn link(endpoint: &str, is_open_here: fn(SocketAddr) -> bool) -> Result<Arc<Link>> {
    let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(link) = links.get(endpoint) {
        return Ok(Arc::clone(link));
    }
    let link = relay::start(endpoint, is_open_here).map_err(|error| Error::RpcUnreachable {
        endpoint: endpoint.to_owned(),
        reason: format!("no relay on the loopback interface: {error}"),
    })?;
    links.insert(endpoint.to_owned(), Arc::clone(&link));
    Ok(link)
}

/// The link whose relay listens at this address.
pub(crate) fn link_at(relay: &str) -> Option<Arc<Link>> {
    let links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    links.values().find(|link| link.relay() == relay).cloned()
}
