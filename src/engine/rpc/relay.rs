//! Passes requests and answers on, and answers itself when the server is gone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use super::client::Client;
use super::graphs::{Graphs, Sent};
use super::link::Link;
use super::names;
use super::operation;
use super::protocol::{CAPABILITY_BYTES, Command, GREETING_BYTES, HEADER_BYTES};
use super::server::{Server, Trouble};

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

/// What the engine gets for a request.
enum Answer {
    None,
    /// So many bytes from the server, if it is there.
    Awaited(u64),
    /// So many bytes that it was not asked for.
    MadeUp(u64),
}

/// One connection of the engine.
struct Relay {
    link: Arc<Link>,
    client: Client,
    /// `None` when it is lost.
    server: Option<Server>,
    graphs: Graphs,
    chunk: Vec<u8>,
}

impl Relay {
    /// Connects to the server and lets both sides greet. If that fails, the engine's connection is
    /// closed, which it survives when it connects to use a server. It also connects to free the events of
    /// a context, in a destructor, where a failure would end the process: then it is greeted all the same.
    fn greet(link: &Arc<Link>, mut client: Client) -> io::Result<Self> {
        let mut request = [0; HEADER_BYTES + CAPABILITY_BYTES];
        client.read_exact(&mut request)?;
        if request[0] != Command::HELLO.0 {
            return Err(io::Error::other("the engine does not greet"));
        }
        // The relay speaks plain TCP only.
        request[HEADER_BYTES..].fill(0);
        let mut answer = [0; GREETING_BYTES];
        let server = match Server::greet(link.endpoint(), &request, &mut answer) {
            Ok(server) => {
                answer[GREETING_BYTES - CAPABILITY_BYTES..].fill(0);
                link.connected(answer, server.peer());
                Some(server)
            }
            Err(trouble) => {
                let greeting = link.greeting().filter(|_| operation::only_frees());
                let Some(greeting) = greeting else {
                    let reason = match (&trouble, names::on_same_port(link)) {
                        (Trouble::Silent(_), Some(other)) => format!(
                            "{trouble} Or is it {other}, which this program has connected already, under another name?"
                        ),
                        _ => trouble.to_string(),
                    };
                    link.lost(reason.clone());
                    return Err(io::Error::other(reason));
                };
                // The engine has no other connection to this server, and lets go of this one at once.
                answer = greeting;
                None
            }
        };
        client.write_all(&answer)?;
        let link = Arc::clone(link);
        let (graphs, chunk) = (Graphs::default(), vec![0; CHUNK_BYTES]);
        Ok(Self { link, client, server, graphs, chunk })
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
            let answer = if length > WHOLE_BYTES && !command.computes() {
                self.pass_on(command, &header, length)?
            } else {
                let payload = self.read_payload(length)?;
                self.send(command, &header, payload)
            };
            // Before the engine has the answer: whoever asks after a call finds it counted.
            self.count(length, &answer);
            match answer {
                Answer::None => {}
                Answer::Awaited(bytes) => self.answer(command, bytes)?,
                Answer::MadeUp(bytes) => self.make_up(command, bytes)?,
            }
        }
    }

    fn count(&self, length: u64, answer: &Answer) {
        let answer_bytes = match answer {
            Answer::None => None,
            Answer::Awaited(bytes) => Some(bytes + 8),
            Answer::MadeUp(_) => return,
        };
        if self.server.is_some() {
            self.link.count_request(HEADER_BYTES as u64 + length, answer_bytes);
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

    /// Sends a whole request.
    fn send(&mut self, command: Command, header: &[u8], payload: Vec<u8>) -> Answer {
        let answer_bytes = command.answer_bytes(&payload);
        if operation::is_given_up() && self.server.is_some() {
            self.put_off(command, header, payload);
            return answer_bytes.map_or(Answer::None, Answer::MadeUp);
        }
        let mut header = header.to_vec();
        let payload = match self.graphs.instead(command, payload) {
            Sent::AsItIs(payload) => payload,
            Sent::Anew(graph) => {
                header = vec![Command::GRAPH_COMPUTE.0];
                header.extend((graph.len() as u64).to_le_bytes());
                graph
            }
        };
        self.send_part(&header);
        self.send_part(&payload);
        answer_bytes.map_or(Answer::None, Answer::Awaited)
    }

    /// Sends a part of a request, or keeps it for the server if nobody waits for that.
    fn send_part(&mut self, bytes: &[u8]) {
        let Some(server) = &mut self.server else { return };
        let sent = if operation::is_given_up() { server.keep(bytes) } else { server.send(bytes) };
        match sent {
            Ok(()) | Err(Trouble::GivenUp) => {} // the rest of it is kept
            Err(trouble) => self.lose(&trouble),
        }
    }

    /// A request of an operation that waits no longer. The server still gets what must not be left out.
    fn put_off(&mut self, command: Command, header: &[u8], payload: Vec<u8>) {
        if command.is_lasting() {
            self.lose(&Trouble::GivenUp);
        } else if command == Command::GRAPH_COMPUTE {
            self.graphs.put_off(payload);
        } else if command.answer_bytes(&payload).is_none()
            && !command.computes()
            && let Sent::AsItIs(payload) = self.graphs.instead(command, payload)
        {
            self.send_part(header);
            self.send_part(&payload);
        }
    }

    /// Passes a large request on piece by piece; reads all of it even if nobody takes it.
    fn pass_on(&mut self, command: Command, header: &[u8], length: u64) -> io::Result<Answer> {
        self.send_part(header);
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk.len());
            let read = self.client.read(&mut self.chunk[..piece])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read as u64;
            let chunk = std::mem::take(&mut self.chunk);
            self.send_part(&chunk[..read]);
            self.chunk = chunk;
        }
        Ok(command.answer_bytes(&[]).map_or(Answer::None, Answer::Awaited))
    }

    /// Gives the engine the server's answer, and what is missing of it from a harmless one.
    fn answer(&mut self, command: Command, length: u64) -> io::Result<()> {
        if let Some(server) = &mut self.server {
            server.expect(8 + length);
        }
        let mut announced = Vec::new();
        while announced.len() < 8 {
            let Some(bytes) = self.receive(command, 8 - announced.len() as u64) else { break };
            announced.extend_from_slice(&self.chunk[..bytes]);
        }
        if self.server.is_some() && announced.len() == 8 && announced != length.to_le_bytes() {
            self.lose(&io::Error::other("it answered at the wrong length").into());
        }
        self.client.write_all(&length.to_le_bytes())?;
        let mut done = 0;
        while done < length
            && announced.len() == 8
            && let Some(bytes) = self.receive(command, length - done)
        {
            self.client.write_all(&self.chunk[..bytes])?;
            done += bytes as u64;
        }
        self.make_up_from(command, done, length)
    }

    /// The next bytes of an answer, at most so many; `None` if they have to be made up.
    fn receive(&mut self, command: Command, most: u64) -> Option<usize> {
        let piece = usize::try_from(most).unwrap_or(usize::MAX).min(self.chunk.len());
        let server = self.server.as_mut()?;
        match server.receive(&mut self.chunk[..piece]) {
            Ok(bytes) => return Some(bytes),
            Err(Trouble::GivenUp) if !command.is_lasting() => server.pass_over(),
            Err(trouble) => self.lose(&trouble),
        }
        None
    }

    fn make_up(&mut self, command: Command, length: u64) -> io::Result<()> {
        self.client.write_all(&length.to_le_bytes())?;
        self.make_up_from(command, 0, length)
    }

    /// The harmless answer from this byte on.
    fn make_up_from(&mut self, command: Command, done: u64, length: u64) -> io::Result<()> {
        let beginning = command.harmless_answer();
        let beginning = beginning.iter().copied().chain(std::iter::repeat(0));
        let done = usize::try_from(done).unwrap_or(usize::MAX);
        let mut rest = beginning.skip(done.min(8));
        let mut left = length - done as u64;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk.len());
            self.chunk[..piece].iter_mut().zip(&mut rest).for_each(|(to, from)| *to = from);
            self.client.write_all(&self.chunk[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn lose(&mut self, trouble: &Trouble) {
        self.link.lost(trouble.to_string());
        self.server = None;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::super::operation::Turn;
    use super::*;

    const VERSION: [u8; 4] = [4, 0, 1, 0];

    /// What the engine is answered when it connects and greets; nothing if the connection is closed.
    fn greeted(link: &Link) -> Vec<u8> {
        let mut engine = TcpStream::connect(link.relay()).unwrap();
        let mut request = vec![Command::HELLO.0];
        request.extend((CAPABILITY_BYTES as u64).to_le_bytes());
        request.extend([0_u8; CAPABILITY_BYTES]);
        engine.write_all(&request).unwrap();
        let mut answer = vec![0; GREETING_BYTES];
        if engine.read_exact(&mut answer).is_ok() { answer } else { Vec::new() }
    }

    #[test]
    fn an_engine_that_only_frees_is_greeted_for_a_server_that_is_gone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let link = start(&listener.local_addr().unwrap().to_string(), |_| true).unwrap();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; HEADER_BYTES + CAPABILITY_BYTES];
            socket.read_exact(&mut request).unwrap();
            let mut answer = ((4 + CAPABILITY_BYTES) as u64).to_le_bytes().to_vec();
            answer.extend(VERSION);
            answer.extend([0_u8; CAPABILITY_BYTES]);
            socket.write_all(&answer).unwrap();
        });
        let first = greeted(&link);
        assert_eq!(first[8..12], VERSION);
        server.join().unwrap();
        // The server is gone, with its port.
        let freeing = Turn::to_free();
        assert_eq!(greeted(&link), first);
        drop(freeing);
        assert!(greeted(&link).is_empty());
        assert!(link.check().is_err());
    }
}
