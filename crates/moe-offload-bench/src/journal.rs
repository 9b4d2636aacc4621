//! The journal of a run: a file with a record per line, which an interruption cannot spoil.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::{BenchError, BenchResult};
use super::protocol::Protocol;
use super::record::{RECORD_VERSION, Record};
use super::task::Task;

/// A run's records and the file they are kept in. Each record is on the disk before the next task
/// begins; a line that an interruption cut off is dropped, and its task done again.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    protocol: Protocol,
    records: Vec<Record>,
}

impl Journal {
    /// Begins a new file.
    ///
    /// # Errors
    /// [`BenchError::Exists`], [`BenchError::Protocol`], or what the system says.
    pub fn create(path: impl Into<PathBuf>, protocol: Protocol) -> BenchResult<Self> {
        protocol.check()?;
        let path = path.into();
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => BenchError::Exists { path: path.clone() },
            _ => BenchError::Io { action: "create", path: path.clone(), source },
        })?;
        let first = Record::Run { record_version: RECORD_VERSION, protocol: protocol.clone() };
        let mut journal = Self { path, file, protocol, records: Vec::new() };
        journal.write(&first).inspect_err(|_| {
            // Without its first line it is none. Best effort: the error says what matters.
            let _ = std::fs::remove_file(&journal.path);
        })?;
        Ok(journal)
    }

    /// Goes on with a file, whose protocol must be this one.
    ///
    /// # Errors
    /// [`BenchError::OtherRun`], [`BenchError::Record`], or what the system says.
    pub fn resume(path: impl Into<PathBuf>, protocol: Protocol) -> BenchResult<Self> {
        let path = path.into();
        let (begun, records, whole_bytes) = read(&path)?;
        if begun != protocol {
            return Err(BenchError::OtherRun { path, what: "protocol" });
        }
        let failed = |source| BenchError::Io { action: "write", path: path.clone(), source };
        let mut file = OpenOptions::new().write(true).open(&path).map_err(failed)?;
        file.set_len(whole_bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { path, file, protocol, records })
    }

    /// Reads a file for a report.
    ///
    /// # Errors
    /// [`BenchError::Record`], or what the system says.
    pub fn read(path: &Path) -> BenchResult<(Protocol, Vec<Record>)> {
        read(path).map(|(protocol, records, _)| (protocol, records))
    }

    /// What is measured.
    pub fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    /// What was measured, in order, without the first line.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether a task is done.
    pub fn is_done(&self, task: &Task) -> bool {
        let of_task = |record: &&Record| record.task().as_ref() == Some(task);
        self.records.iter().filter(of_task).any(Record::is_final)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`BenchError::OtherRun`] for an environment that is not the one the run began in, or what the
    /// system says.
    pub fn add(&mut self, record: Record) -> BenchResult<()> {
        if let Record::Environment(now) = &record {
            let begun = self.records.iter().find_map(|record| match record {
                Record::Environment(begun) => Some(begun),
                _ => None,
            });
            if let Some(what) = begun.and_then(|begun| begun.differs(now)) {
                return Err(BenchError::OtherRun { path: self.path.clone(), what });
            }
        }
        self.write(&record)?;
        self.records.push(record);
        Ok(())
    }

    fn write(&mut self, record: &Record) -> BenchResult<()> {
        let failed = |source| BenchError::Io { action: "write", path: self.path.clone(), source };
        let mut line = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).and_then(|()| self.file.sync_data()).map_err(failed)
    }
}

/// The protocol, the records, and the bytes up to the end of the last whole line.
fn read(path: &Path) -> BenchResult<(Protocol, Vec<Record>, u64)> {
    let failed = |source| BenchError::Io { action: "read", path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(failed)?;
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let mut protocol = None;
    let mut records = Vec::new();
    for (i, line) in bytes[..whole].split_inclusive(|&byte| byte == b'\n').enumerate() {
        let record = serde_json::from_slice(line);
        match record.map_err(|source| BenchError::Record {
            path: path.into(),
            line: i + 1,
            source,
        })? {
            Record::Run { protocol: begun, record_version: RECORD_VERSION } => {
                protocol = Some(begun);
            }
            Record::Run { .. } => {
                return Err(BenchError::OtherRun { path: path.into(), what: "version of records" });
            }
            record => records.push(record),
        }
    }
    let protocol = protocol
        .ok_or_else(|| BenchError::Protocol { what: "the journal has no first line".into() })?;
    Ok((protocol, records, whole as u64))
}
