//! A relay's connection to its server.
//!
//! A server answers in order and says nothing in between, whether it computes or is stopped. So a wait that
//! has to end does not end the connection: what the server has not taken is kept for it, and the answers that
//! nobody wants any more are passed over when they come.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::operation::{self, TICK};

/// How long connecting to an address may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be busy with another client before it greets.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may compute without a word: a long prompt on a slow machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Most bytes of requests that are kept for a server that takes none.
const MOST_UNSENT_BYTES: u64 = 64 << 20;

/// Why something was not sent or received. After all but the first the connection is of no use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The operation under way waits no longer.
    GivenUp,
    HungUp,
    /// It said nothing for so long.
    Silent(Duration),
    /// More would have to be kept for it than there is room for.
    Full,
    Failed(io::Error),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GivenUp => f.write_str("a call that needed it ended before it answered"),
            Self::HungUp => f.write_str("it hung up"),
            Self::Silent(time) if *time == GREETING_TIMEOUT => {
                let seconds = time.as_secs();
                write!(f, "it has not greeted within {seconds} s; is it busy with another client?")
            }
            Self::Silent(time) => write!(f, "no answer within {} s", time.as_secs()),
            Self::Full => write!(f, "it took nothing more of {} MiB", MOST_UNSENT_BYTES >> 20),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

type Outcome<T> = Result<T, Trouble>;

pub(super) struct Server {
    socket: TcpStream,
    timeout: Duration,
    /// What it has not taken yet of earlier requests.
    unsent: VecDeque<u8>,
    /// Bytes that are still to come of the answer that is waited for.
    due: u64,
    /// Bytes that are to come before that, of answers that nobody wants any more.
    unwanted: u64,
}

impl Server {
    /// Connects, sends the engine's greeting and fills in the server's.
    pub(super) fn greet(endpoint: &str, request: &[u8], answer: &mut [u8]) -> Outcome<Self> {
        let socket = dial(endpoint)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TICK))?;
        socket.set_write_timeout(Some(TICK))?;
        let (timeout, unsent) = (GREETING_TIMEOUT, VecDeque::new());
        let mut server = Self { socket, timeout, unsent, due: 0, unwanted: 0 };
        server.send(request)?;
        server.expect(answer.len() as u64);
        let mut done = 0;
        while done < answer.len() {
            done += server.receive(&mut answer[done..]).map_err(|trouble| match trouble {
                Trouble::HungUp => io::Error::other("it hung up; is it an RPC server?").into(),
                other => other,
            })?;
        }
        server.timeout = ANSWER_TIMEOUT;
        Ok(server)
    }

    /// Where its name led.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }

    /// Sends a request or a part of one. What is given up in between is kept and goes first the next time.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Outcome<()> {
        let mut left = bytes;
        let sent = self.flush().and_then(|()| {
            let mut silence = Silence::new(self.timeout);
            while !left.is_empty() {
                match self.socket.write(left) {
                    Ok(count) if count > 0 => {
                        left = &left[count..];
                        silence = Silence::new(self.timeout);
                    }
                    other => silence.go_on(other)?,
                }
            }
            Ok(())
        });
        match sent {
            Err(Trouble::GivenUp) => self.keep(left).and(Err(Trouble::GivenUp)),
            sent => sent,
        }
    }

    /// Keeps a request or a part of one, to be sent before the next.
    pub(super) fn keep(&mut self, bytes: &[u8]) -> Outcome<()> {
        if (self.unsent.len() + bytes.len()) as u64 > MOST_UNSENT_BYTES {
            return Err(Trouble::Full);
        }
        self.unsent.extend(bytes);
        Ok(())
    }

    /// Says that so many bytes are now waited for.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.due = bytes;
    }

    /// Receives some of what is waited for, at least one byte.
    pub(super) fn receive(&mut self, into: &mut [u8]) -> Outcome<usize> {
        self.flush()?;
        let mut passed_over = [0; 4096];
        let mut silence = Silence::new(self.timeout);
        loop {
            let most = usize::try_from(self.unwanted).unwrap_or(usize::MAX).min(passed_over.len());
            let is_wanted = most == 0;
            let into = if is_wanted { &mut *into } else { &mut passed_over[..most] };
            match self.socket.read(into) {
                Ok(count) if count > 0 && is_wanted => {
                    self.due = self.due.saturating_sub(count as u64);
                    return Ok(count);
                }
                Ok(count) if count > 0 => {
                    self.unwanted -= count as u64;
                    silence = Silence::new(self.timeout);
                }
                other => silence.go_on(other)?,
            }
        }
    }

    /// Nobody waits any more for what was to come.
    pub(super) fn pass_over(&mut self) {
        self.unwanted += std::mem::take(&mut self.due);
    }

    /// Sends what was kept.
    fn flush(&mut self) -> Outcome<()> {
        let mut silence = Silence::new(self.timeout);
        while !self.unsent.is_empty() {
            match self.socket.write(self.unsent.as_slices().0) {
                Ok(count) if count > 0 => {
                    self.unsent.drain(..count);
                    silence = Silence::new(self.timeout);
                }
                other => silence.go_on(other)?,
            }
            // It may take nothing because nobody takes its answers.
            self.read_unwanted()?;
        }
        self.unsent.shrink_to(1 << 20);
        Ok(())
    }

    /// Takes answers that nobody wants, if there are any.
    fn read_unwanted(&mut self) -> Outcome<()> {
        if self.unwanted == 0 {
            return Ok(());
        }
        let mut passed_over = [0; 4096];
        let most = usize::try_from(self.unwanted).unwrap_or(usize::MAX).min(passed_over.len());
        match self.socket.read(&mut passed_over[..most]) {
            Ok(0) => Err(Trouble::HungUp),
            Ok(count) => {
                self.unwanted -= count as u64;
                Ok(())
            }
            Err(error) if is_timeout(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    // Which of the two depends on the system.
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// A time in which a server does nothing.
struct Silence {
    since: Instant,
    timeout: Duration,
}

impl Silence {
    fn new(timeout: Duration) -> Self {
        Self { since: Instant::now(), timeout }
    }

    /// After a read or write of nothing: an error unless it is to be tried again.
    fn go_on(&self, outcome: io::Result<usize>) -> Outcome<()> {
        match outcome {
            Ok(_) => Err(Trouble::HungUp),
            Err(error) if !is_timeout(&error) => Err(error.into()),
            Err(_) if operation::waited_enough() => Err(Trouble::GivenUp),
            Err(_) if self.since.elapsed() >= self.timeout => Err(Trouble::Silent(self.timeout)),
            Err(_) => Ok(()),
        }
    }
}

/// Connects on a thread of its own: neither looking up a name nor connecting can be interrupted.
fn dial(endpoint: &str) -> Outcome<TcpStream> {
    let (sender, receiver) = mpsc::channel();
    let name = endpoint.to_owned();
    let dialling = thread::Builder::new().name("rpc-dial".to_owned());
    dialling.spawn(move || {
        // Nobody may want it any more.
        let _ = sender.send(connect(&name));
    })?;
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(connected) => return Ok(connected?),
            Err(RecvTimeoutError::Timeout) if operation::waited_enough() => {
                return Err(Trouble::GivenUp);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("connecting failed").into());
            }
        }
    }
}

/// The first address of a name that takes a connection.
pub(super) fn connect(endpoint: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in endpoint.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(server) => return Ok(server),
            Err(error) => last = error,
        }
    }
    Err(last)
}
