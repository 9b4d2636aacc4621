//! The examples as processes, above all the RPC server that serves as a second device.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::gpus;
#[cfg(target_os = "linux")]
use super::sockets;

/// An example's program, built beside this test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let path = profile.join("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.exists(), "{} is not built: run `cargo build --examples` first", path.display());
    path
}

/// An example that sees no GPU.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(example(name));
    gpus::hide(&mut command);
    command
}

pub fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = program(name);
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// What a program said beside its answer.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An RPC server in a process of its own, ended when dropped.
pub struct Server {
    process: Child,
    /// Where it listens.
    pub endpoint: String,
}

/// A port that the server chooses, so that no other has it.
#[cfg(target_os = "linux")]
fn any_port() -> String {
    "127.0.0.1:0".to_owned()
}

/// Free the moment it is asked: elsewhere it is not to be seen which one a server chose.
#[cfg(not(target_os = "linux"))]
fn any_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Server {
    pub fn start() -> Self {
        Self::start_at(any_port())
    }

    pub fn start_at(endpoint: String) -> Self {
        Self::start_with("", endpoint)
    }

    /// A server whose address space is so many bytes larger than it is at the start, at most.
    pub fn with_memory_limit(bytes: u64) -> Self {
        // The program itself takes some hundred megabytes of address space.
        let kib = (bytes >> 10) + (150 << 10);
        Self::start_with(&format!("ulimit -v {kib}; "), any_port())
    }

    /// A server that keeps weights in this folder.
    pub fn with_cache(folder: &std::path::Path) -> Self {
        let cache = format!("set -- \"$@\" --cache '{}'; ", folder.display());
        Self::start_with(&cache, any_port())
    }

    fn start_with(first: &str, endpoint: String) -> Self {
        let process = gpus::hide(&mut Command::new("bash"))
            .args(["-c", &format!("{first}exec \"$0\" \"$@\"")])
            .arg(example("rpc_server"))
            .args(["--listen", &endpoint, "--threads", "1"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Self { process, endpoint };
        let started = Instant::now();
        server.endpoint = loop {
            if let Some(endpoint) = server.listens_at() {
                break endpoint;
            }
            assert!(server.process.try_wait().unwrap().is_none(), "the server ended");
            assert!(started.elapsed() < Duration::from_secs(20), "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        };
        server
    }

    /// Where it listens, once it does.
    #[cfg(target_os = "linux")]
    fn listens_at(&self) -> Option<String> {
        let process = self.process.id();
        let mut sockets = sockets::of(process).into_iter();
        let found = sockets.find(|socket| socket.listens && socket.is_open_in(process))?;
        Some(format!("127.0.0.1:{}", found.port))
    }

    /// Whether something was sent to it that it has not read.
    #[cfg(target_os = "linux")]
    pub fn has_unread(&self) -> bool {
        let port = self.endpoint.rsplit_once(':').unwrap().1;
        let sockets = sockets::of(self.process.id());
        let mut own = sockets.iter().filter(|socket| socket.port.to_string() == port);
        own.any(|socket| !socket.listens && socket.unread_bytes > 0)
    }

    #[cfg(not(target_os = "linux"))]
    fn listens_at(&self) -> Option<String> {
        std::net::TcpStream::connect(&self.endpoint).ok().map(|_| self.endpoint.clone())
    }

    /// The process's memory that belongs to no file, in bytes.
    #[cfg(target_os = "linux")]
    pub fn anonymous_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Stops it, or lets it go on: `STOP` or `CONT`.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
