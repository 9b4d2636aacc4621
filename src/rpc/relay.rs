//! Passes requests and answers on, and answers itself when the server is gone.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::client::Client;
use super::link::Link;
use super::protocol::{CAPABILITY_BYTES, Command, HEADER_BYTES, graph_device};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may be busy with another client before it greets.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may compute without a word: a long prompt on a slow machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Bytes passed on at once.
const CHUNK_BYTES: usize = 1 << 18;
/// Larger requests than this, which are weights, are passed on as they come.
const WHOLE_BYTES: u64 = 1 << 20;

/// Starts a relay to the server at `endpoint`. Its threads end with the process.
pub(super) fn start(endpoint: &str, is_open_here: fn(SocketAddr) -> bool) -> io::Result<Arc<Link>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let link = Arc::new(Link::new(endpoint, listener.local_addr()?.to_string()));
    let accepting = Arc::clone(&link);
    thread::Builder::new().name("rpc-relay".to_owned()).spawn(move || {
        for client in listener.incoming().flatten() {
            let link = Arc::clone(&accepting);
            let relayed = move || {
                let client = Client::new(client, is_open_here);
                let greeted = client.and_then(|client| Relay::greet(&link, client));
                if let Err(error) = greeted.and_then(Relay::run) {
                    tracing::debug!(endpoint = link.endpoint(), "a relay ended: {error}");
                }
            };
            // Without a thread the connection closes, which the engine reports.
            let _ = thread::Builder::new().name("rpc-relay".to_owned()).spawn(relayed);
        }
    })?;
    Ok(link)
}

/// One connection of the engine.
struct Relay {
    link: Arc<Link>,
    client: Client,
    /// `None` when it is lost.
    server: Option<TcpStream>,
    graphs: Graphs,
    chunk: Vec<u8>,
}

impl Relay {
    /// Connects to the server and lets both sides greet. If that fails, the engine's connection is
    /// closed, which it survives at this moment.
    fn greet(link: &Arc<Link>, mut client: Client) -> io::Result<Self> {
        let answer = Self::connect(link.endpoint(), &mut client);
        let (server, answer) = answer.inspect_err(|error| link.lost(error.to_string()))?;
        link.connected();
        client.write_all(&answer)?;
        let link = Arc::clone(link);
        let (graphs, chunk) = (Graphs::default(), vec![0; CHUNK_BYTES]);
        Ok(Self { link, client, server: Some(server), graphs, chunk })
    }

    fn connect(endpoint: &str, client: &mut Client) -> io::Result<(TcpStream, Vec<u8>)> {
        let mut request = [0; HEADER_BYTES + CAPABILITY_BYTES];
        client.read_exact(&mut request)?;
        if request[0] != Command::HELLO.0 {
            return Err(io::Error::other("the engine does not greet"));
        }
        // The relay speaks plain TCP only.
        request[HEADER_BYTES..].fill(0);
        let mut server = dial(endpoint)?;
        server.set_nodelay(true)?;
        server.set_read_timeout(Some(GREETING_TIMEOUT))?;
        server.write_all(&request)?;
        let mut answer = vec![0; 8 + 4 + CAPABILITY_BYTES];
        server.read_exact(&mut answer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::other(format!(
                "it has not greeted within {} s; is it busy with another client?",
                GREETING_TIMEOUT.as_secs()
            )),
            io::ErrorKind::UnexpectedEof => io::Error::other("it hung up; is it an RPC server?"),
            _ => error,
        })?;
        answer[12..].fill(0);
        server.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok((server, answer))
    }

    /// Until the engine hangs up.
    fn run(mut self) -> io::Result<()> {
        loop {
            let mut header = [0; HEADER_BYTES];
            match self.client.read_exact(&mut header) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
            let command = Command(header[0]);
            let length = u64::from_le_bytes(header[1..].try_into().unwrap_or_default());
            let answer_bytes = if length > WHOLE_BYTES && command != Command::GRAPH_COMPUTE {
                self.pass_on(&header, length)?;
                command.answer_bytes(&[])
            } else {
                let payload = self.read_payload(length)?;
                self.send(command, &header, payload)
            };
            // Before the engine has the answer: whoever asks after a call finds it counted.
            self.count(length, answer_bytes);
            if let Some(bytes) = answer_bytes {
                self.answer(command, bytes)?;
            }
        }
    }

    fn count(&self, length: u64, answer_bytes: Option<u64>) {
        if self.server.is_some() {
            self.link.count_request(HEADER_BYTES as u64 + length, answer_bytes.map(|n| n + 8));
        }
    }

    fn read_payload(&mut self, length: u64) -> io::Result<Vec<u8>> {
        let mut payload = Vec::new();
        let read = (&mut self.client).take(length).read_to_end(&mut payload)?;
        if read as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(payload)
    }

    /// Sends a whole request; returns how many bytes its answer has, if it has one.
    fn send(&mut self, command: Command, header: &[u8], payload: Vec<u8>) -> Option<u64> {
        let answer_bytes = command.answer_bytes(&payload);
        let mut header = header.to_vec();
        let payload = match self.graphs.instead(command, payload) {
            Sent::AsItIs(payload) => payload,
            Sent::Anew(graph) => {
                header = vec![Command::GRAPH_COMPUTE.0];
                header.extend((graph.len() as u64).to_le_bytes());
                graph
            }
        };
        let sent = self.server.as_mut().map(|server| {
            server.write_all(&header)?;
            server.write_all(&payload)
        });
        self.note(sent);
        answer_bytes
    }

    /// Passes a large request on piece by piece; reads all of it even if nobody takes it.
    fn pass_on(&mut self, header: &[u8], length: u64) -> io::Result<()> {
        let sent = self.server.as_mut().map(|server| server.write_all(header));
        self.note(sent);
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk.len());
            let read = self.client.read(&mut self.chunk[..piece])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
            let sent = self.server.as_mut().map(|server| server.write_all(&self.chunk[..read]));
            self.note(sent);
        }
        Ok(())
    }

    /// Gives the engine the server's answer, and what is missing of it from a harmless one.
    fn answer(&mut self, command: Command, length: u64) -> io::Result<()> {
        let mut announced = [0; 8];
        let read = self.server.as_mut().map(|server| server.read_exact(&mut announced));
        self.note(read);
        if self.server.is_some() && u64::from_le_bytes(announced) != length {
            self.note(Some(Err(io::Error::other("it answered at the wrong length"))));
        }
        self.client.write_all(&length.to_le_bytes())?;
        let mut done = 0;
        while done < length {
            let piece = usize::try_from(length - done).unwrap_or(usize::MAX).min(self.chunk.len());
            let read =
                self.server.as_mut().map(|server| match server.read(&mut self.chunk[..piece]) {
                    Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                    other => other,
                });
            match read {
                Some(Ok(bytes)) => {
                    self.client.write_all(&self.chunk[..bytes])?;
                    done += bytes as u64;
                }
                Some(Err(error)) => self.note(Some(Err(error))),
                None => {
                    self.chunk[..piece].fill(0);
                    let harmless = command.harmless_answer();
                    for (i, byte) in harmless.iter().enumerate() {
                        let at =
                            (i as u64).checked_sub(done).and_then(|at| usize::try_from(at).ok());
                        if let Some(slot) = at.and_then(|at| self.chunk[..piece].get_mut(at)) {
                            *slot = *byte;
                        }
                    }
                    self.client.write_all(&self.chunk[..piece])?;
                    done += piece as u64;
                }
            }
        }
        Ok(())
    }

    /// Gives the server up if this went wrong.
    fn note(&mut self, outcome: Option<io::Result<()>>) {
        if let Some(Err(error)) = outcome {
            let reason = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it hung up".to_owned(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())
                }
                _ => error.to_string(),
            };
            self.link.lost(reason);
            self.server = None;
        }
    }
}

fn dial(endpoint: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in endpoint.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(server) => return Ok(server),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The last graph of each device.
///
/// The engine asks a server to compute the last graph again without sending it. But the server
/// drops it whenever any buffer is freed, does not say so, and hangs up when it is asked for it. So
/// after a buffer was freed the graph is sent anew.
#[derive(Default)]
struct Graphs {
    sent: HashMap<u32, Graph>,
}

struct Graph {
    payload: Vec<u8>,
    is_dropped: bool,
}

/// What a request becomes.
enum Sent {
    AsItIs(Vec<u8>),
    /// A graph in the place of the request to compute it again.
    Anew(Vec<u8>),
}

impl Graphs {
    fn instead(&mut self, command: Command, payload: Vec<u8>) -> Sent {
        match command {
            Command::FREE_BUFFER => {
                for graph in self.sent.values_mut() {
                    graph.is_dropped = true;
                }
            }
            Command::GRAPH_COMPUTE => {
                if let Some(device) = graph_device(&payload) {
                    let graph = Graph { payload: payload.clone(), is_dropped: false };
                    self.sent.insert(device, graph);
                }
            }
            Command::GRAPH_RECOMPUTE => {
                let graph = graph_device(&payload).and_then(|device| self.sent.get_mut(&device));
                if let Some(graph) = graph.filter(|graph| graph.is_dropped) {
                    graph.is_dropped = false;
                    return Sent::Anew(graph.payload.clone());
                }
            }
            _ => {}
        }
        Sent::AsItIs(payload)
    }
}
