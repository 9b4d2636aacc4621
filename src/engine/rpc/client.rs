//! The engine's connection to a relay.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How often an engine that says nothing is looked after.
const SILENCE: Duration = Duration::from_secs(1);

/// The engine as a relay's client. It has also hung up when only programs that this process started
/// still hold its end of the connection, which they inherited; else the server would stay busy as
/// long as one of them lives.
pub(super) struct Client {
    socket: TcpStream,
    engines_end: SocketAddr,
    is_open_here: fn(SocketAddr) -> bool,
}

impl Client {
    pub(super) fn new(socket: TcpStream, is_open_here: fn(SocketAddr) -> bool) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let engines_end = socket.peer_addr()?;
        Ok(Self { socket, engines_end, is_open_here })
    }
}

impl Read for Client {
    /// Waits as long as the engine has the connection.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(buffer) {
                Err(error)
                    if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut]
                        .contains(&error.kind()) =>
                {
                    if !(self.is_open_here)(self.engines_end) {
                        return Ok(0);
                    }
                }
                other => return other,
            }
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
