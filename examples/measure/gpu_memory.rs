//! What this process takes of a GPU's memory by the driver's account, and another process that takes some.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::common;

/// Bytes of GPU memory that this process takes, of all GPUs together, as `nvidia-smi` counts: what CUDA takes
/// for itself is among them. `None` where it cannot be asked, or does not know this process.
pub(super) fn of_this_process() -> Option<u64> {
    let query = ["--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"];
    let output = Command::new("nvidia-smi").args(query).output().ok()?;
    let own = std::process::id().to_string();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().filter_map(|line| line.split_once(','));
    let mib = lines
        .filter(|(pid, _)| pid.trim() == own)
        .filter_map(|(_, mib)| mib.trim().parse::<u64>().ok());
    mib.reduce(|a, b| a + b).map(|mib| mib << 20)
}

/// Each GPU with its memory and driver, as `nvidia-smi` tells.
pub(super) fn cards() -> Vec<String> {
    let query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let output = Command::new("nvidia-smi").args(query).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let lines = said.unwrap_or_default();
    lines
        .lines()
        .map(|line| line.trim().replace(", ", "; driver ").replacen("; driver ", ", ", 1))
        .collect()
}

/// A process that holds a GPU's memory as long as this lives.
pub(super) struct Holder(Child);

impl Holder {
    /// Returns when it has taken all but so many bytes. Ends the program where it cannot.
    pub(super) fn start(program: &Path, leave_free: u64) -> Self {
        let started = Command::new(program)
            .arg(leave_free.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => common::fail(&format!("cannot start {}: {error}", program.display())),
        };
        let mut line = String::new();
        let said = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        if !matches!(said, Some(Ok(1..))) {
            common::fail(&format!("{} took no memory", program.display()));
        }
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Its input ends, and with it the process.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
