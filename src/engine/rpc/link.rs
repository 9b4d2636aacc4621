//! What is known of the connection to one server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::RpcTraffic;
use super::protocol::GREETING_BYTES;
use crate::error::{Error, Result};

/// The state of the connection to one server, shared between its relay and those who use it.
#[derive(Debug)]
pub(crate) struct Link {
    endpoint: String,
    /// Where the relay listens, as the engine is told.
    relay: String,
    /// Why the connection broke, or could not be made; `None` while all is well.
    trouble: Mutex<Option<String>>,
    /// How the server last greeted.
    greeting: Mutex<Option<[u8; GREETING_BYTES]>>,
    /// Where its name led when it last greeted.
    peer: Mutex<Option<SocketAddr>>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    round_trips: AtomicU64,
    one_way_requests: AtomicU64,
}

impl Link {
    pub(super) fn new(endpoint: &str, relay: String) -> Self {
        Self {
            endpoint: endpoint.to_owned(),
            relay,
            trouble: Mutex::new(None),
            greeting: Mutex::new(None),
            peer: Mutex::new(None),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            round_trips: AtomicU64::new(0),
            one_way_requests: AtomicU64::new(0),
        }
    }

    /// The server, as the person named it.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where the relay listens.
    pub(crate) fn relay(&self) -> &str {
        &self.relay
    }

    /// Fails if the server was lost and answers since then were made up.
    pub(crate) fn check(&self) -> Result<()> {
        match self.trouble().as_deref() {
            Some(reason) => {
                Err(Error::RpcLost { endpoint: self.endpoint.clone(), reason: reason.to_owned() })
            }
            None => Ok(()),
        }
    }

    /// Why the last connection failed.
    pub(crate) fn reason(&self) -> Option<String> {
        self.trouble().clone()
    }

    pub(super) fn connected(&self, greeting: [u8; GREETING_BYTES], peer: Option<SocketAddr>) {
        *self.trouble() = None;
        *self.last_peer() = peer;
        *self.last_greeting() = Some(greeting);
    }

    /// How the server last greeted, if it ever did.
    pub(super) fn greeting(&self) -> Option<[u8; GREETING_BYTES]> {
        *self.last_greeting()
    }

    /// Where its name led when it last greeted, if it ever did.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        *self.last_peer()
    }

    pub(super) fn lost(&self, reason: String) {
        tracing::warn!(endpoint = self.endpoint, "the RPC server was lost: {reason}");
        self.trouble().get_or_insert(reason);
    }

    pub(super) fn count_request(&self, sent_bytes: u64, received_bytes: Option<u64>) {
        self.sent_bytes.fetch_add(sent_bytes, Ordering::Relaxed);
        let requests = match received_bytes {
            Some(bytes) => {
                self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                &self.round_trips
            }
            None => &self.one_way_requests,
        };
        requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn traffic(&self) -> RpcTraffic {
        RpcTraffic {
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            round_trips: self.round_trips.load(Ordering::Relaxed),
            one_way_requests: self.one_way_requests.load(Ordering::Relaxed),
        }
    }

    fn last_greeting(&self) -> MutexGuard<'_, Option<[u8; GREETING_BYTES]>> {
        self.greeting.lock().unwrap_or_else(PoisonError::into_inner) // likewise
    }

    fn last_peer(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner) // likewise
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        // A text is replaced whole: a panic elsewhere leaves nothing half-done.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
