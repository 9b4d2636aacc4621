//! Whether a socket is still the engine's, whoever else may have inherited it.

use std::net::SocketAddr;

/// Whether this process has a socket with this address. The engine leaves its sockets open for
/// programs that the process starts; when it closes its own, theirs still look like it.
#[cfg(target_os = "linux")]
pub(super) fn is_open_here(end: SocketAddr) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return true };
    let mut numbers =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.any(|number| address(number) == Some(end))
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub(super) fn is_open_here(_end: SocketAddr) -> bool {
    true
}

/// The local address of a descriptor that is a socket of IPv4, as the engine's all are.
#[cfg(target_os = "linux")]
fn address(number: i32) -> Option<SocketAddr> {
    let mut bytes = libc::socklen_t::try_from(size_of::<libc::sockaddr_in>()).ok()?;
    let host = libc::in_addr { s_addr: 0 };
    let mut name =
        libc::sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: host, sin_zero: [0; 8] };
    // SAFETY: `name` is ours and has the length given, which is all that is written. A number that
    // was closed since, or is no socket, is refused.
    let done = unsafe { libc::getsockname(number, (&raw mut name).cast(), &raw mut bytes) };
    let is_ipv4 = done == 0 && i32::from(name.sin_family) == libc::AF_INET;
    // Both are in the network's order of bytes.
    let host = name.sin_addr.s_addr.to_ne_bytes();
    is_ipv4.then(|| SocketAddr::from((host, u16::from_be(name.sin_port))))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_socket_is_open_until_this_process_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let end = socket.local_addr().unwrap();
        assert!(is_open_here(end));
        drop(socket);
        assert!(!is_open_here(end));
    }
}
