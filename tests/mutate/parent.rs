//! Watches the child: what it was at when it ended, or how long nothing came from it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::Options;

const HANG: Duration = Duration::from_secs(10);
/// More for a file of one megabyte is out of proportion.
const MOST_KIB: u64 = 1 << 20;
/// The child's address space, so that an absurd allocation fails instead of taking the machine.
const ADDRESS_SPACE_KIB: u64 = 8 << 20;

#[derive(Default)]
pub(crate) struct Outcomes {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) exceptions: u64,
}

struct Watched {
    child: Child,
    lines: Receiver<String>,
    log: std::path::PathBuf,
}

impl Watched {
    fn start(options: &Options, family: &str, from: u64, log: std::path::PathBuf) -> Self {
        let limit = format!("ulimit -c 0; ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.arg("-c").arg(limit).arg(std::env::current_exe().unwrap());
        command.args(["--child", "--family", family, "--seed", &options.seed.to_string()]);
        command.args(["--mutations", &options.mutations.to_string(), "--from", &from.to_string()]);
        if let Some(threads) = options.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if options.sweep {
            command.arg("--sweep");
        }
        if let Some(only) = options.only {
            command.args(["--only", &only.to_string()]);
        }
        let errors = std::fs::File::create(&log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(errors).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, log }
    }

    fn last_words(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().rev().take(6).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All mutations of one family; a fresh child after each exception.
pub(crate) fn run(options: &Options, family: &str) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let folder = tempfile::tempdir().unwrap();
    let mut next = options.from;
    while next < options.mutations {
        let log = folder.path().join("log");
        let mut watched = Watched::start(options, family, next, log);
        match watch(&mut watched, options, family, &mut outcomes) {
            Some(failed) if options.only.is_none() => next = failed + 1,
            _ => break,
        }
    }
    println!(
        "{family}: {} files, {} exceptions",
        outcomes.counts.values().sum::<u64>(),
        outcomes.exceptions
    );
    outcomes
}

impl Outcomes {
    fn count(&mut self, outcome: &str) {
        *self.counts.entry(outcome.to_owned()).or_insert(0) += 1;
    }

    fn exception(&mut self, at: &At<'_>, kind: &str, words: &str) {
        self.exceptions += 1;
        self.count(&format!("exception: {kind}"));
        let At { family, series, number, what } = at;
        println!("EXCEPTION {kind}: --family {family} {series} --only {number}: {what}: {words}");
    }
}

/// Which mutation the child is at.
struct At<'a> {
    family: &'a str,
    series: String,
    number: u64,
    what: String,
}

/// Counts what the child reports; the number at which it failed, if it did.
fn watch(
    watched: &mut Watched,
    options: &Options,
    family: &str,
    outcomes: &mut Outcomes,
) -> Option<u64> {
    let series =
        if options.sweep { "--sweep".to_owned() } else { format!("--seed {}", options.seed) };
    let mut at = At { family, series, number: options.from, what: String::new() };
    loop {
        match watched.lines.recv_timeout(HANG) {
            Ok(line) => {
                let mut words = line.splitn(3, ' ');
                let is_start = words.next() == Some("start");
                at.number = words.next().and_then(|n| n.parse().ok()).unwrap_or(at.number);
                let rest = words.next().unwrap_or_default();
                if is_start {
                    rest.clone_into(&mut at.what);
                    continue;
                }
                let (peak, outcome) = rest.split_once(' ').unwrap_or(("0", rest));
                if options.verbose || options.only.is_some() {
                    println!("{} {peak} KiB: {}: {outcome}", at.number, at.what);
                }
                if peak.parse().is_ok_and(|peak: u64| peak > MOST_KIB) {
                    outcomes.exception(&at, "memory used", &format!("{peak} KiB, {outcome}"));
                } else if let Some(text) = outcome.strip_prefix("MEMORY ") {
                    outcomes.exception(&at, "memory wanted", text);
                } else {
                    outcomes.count(outcome.split(" | ").next().unwrap_or_default());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                outcomes.exception(&at, "hang", "");
                return Some(at.number);
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = watched.child.wait().unwrap();
                if status.success() {
                    return None;
                }
                outcomes.exception(&at, &status.to_string(), &watched.last_words());
                return Some(at.number);
            }
        }
    }
}
