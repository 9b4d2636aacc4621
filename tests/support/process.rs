//! The examples as processes, above all the RPC server that serves as a second device.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::gpus;

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

/// An RPC server in a process of its own, ended when dropped.
pub struct Server {
    process: Child,
    pub endpoint: String,
}

impl Server {
    pub fn start() -> Self {
        // Free the moment it is asked; nothing else here listens.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::start_at(format!("127.0.0.1:{port}"))
    }

    pub fn start_at(endpoint: String) -> Self {
        Self::start_with("", endpoint)
    }

    /// A server whose address space is so many bytes larger than it is at the start, at most.
    pub fn with_memory_limit(bytes: u64) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The program itself takes some hundred megabytes of address space.
        let kib = (bytes >> 10) + (150 << 10);
        Self::start_with(&format!("ulimit -v {kib}; "), format!("127.0.0.1:{port}"))
    }

    /// A server that keeps weights in this folder.
    pub fn with_cache(folder: &std::path::Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cache = format!("set -- \"$@\" --cache '{}'; ", folder.display());
        Self::start_with(&cache, format!("127.0.0.1:{port}"))
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
        while TcpStream::connect(&server.endpoint).is_err() {
            assert!(server.process.try_wait().unwrap().is_none(), "the server ended");
            assert!(started.elapsed() < Duration::from_secs(20), "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
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
