//! Whether a socket is still the engine's, whoever else may have inherited it.

use std::net::SocketAddr;
#[cfg(target_os = "linux")]
use std::net::SocketAddrV4;
#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;

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
    // SAFETY: the number is only asked about, and during this call. One that was closed since, or is no socket, is
    // refused.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let name = rustix::net::getsockname(descriptor).ok()?;
    SocketAddrV4::try_from(name).ok().map(SocketAddr::V4)
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
