//! One server under several names. It serves one connection at a time, so that the second would wait for the first.

use std::net::ToSocketAddrs;
use std::sync::PoisonError;

use super::LINKS;
use super::link::Link;
use super::server;

/// Whether this name leads to the address at which `known` last greeted. The names of one machine's several
/// addresses cannot be told from those of several machines.
pub(crate) fn leads_to(endpoint: &str, known: &Link) -> bool {
    let Some(peer) = known.peer().filter(|_| port(endpoint) == port(known.endpoint())) else {
        return false;
    };
    let Ok(addresses) = endpoint.to_socket_addrs() else { return false };
    let addresses: Vec<_> = addresses.collect();
    // Of several addresses the first counts that takes a connection.
    let leads_elsewhere = || {
        let connected = server::connect(endpoint).and_then(|socket| socket.peer_addr());
        connected.is_ok_and(|address| address != peer)
    };
    addresses.contains(&peer) && (addresses.iter().all(|a| *a == peer) || !leads_elsewhere())
}

/// Another server that was connected at the same port, by its name.
pub(super) fn on_same_port(link: &Link) -> Option<String> {
    let links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let is_other = |other: &&std::sync::Arc<Link>| {
        other.endpoint() != link.endpoint()
            && other.peer().is_some()
            && port(other.endpoint()) == port(link.endpoint())
    };
    links.values().find(is_other).map(|other| other.endpoint().to_owned())
}

fn port(endpoint: &str) -> Option<&str> {
    endpoint.rsplit_once(':').map(|(_, port)| port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rpc::link;
    use crate::engine::rpc::protocol::GREETING_BYTES;

    #[test]
    fn a_server_that_is_not_told_from_another_is_suspected_at_its_port_alone() {
        let named = |endpoint| link(endpoint, |_| false).unwrap();
        let (known, other) = (named("127.0.0.1:7001"), named("127.0.0.2:7001"));
        assert_eq!(on_same_port(&other), None, "it never greeted");
        assert!(!leads_to("127.0.0.1:7001", &known));
        known.connected([0; GREETING_BYTES], "127.0.0.1:7001".parse().ok());
        assert_eq!(on_same_port(&other).as_deref(), Some("127.0.0.1:7001"));
        assert_eq!(on_same_port(&known), None);
        assert_eq!(on_same_port(&named("127.0.0.2:7002")), None);
        assert!(leads_to("127.0.0.1:7001", &known));
        assert!(!leads_to("127.0.0.2:7001", &known) && !leads_to("127.0.0.1:7002", &known));
    }
}
