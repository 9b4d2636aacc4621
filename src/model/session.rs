//! Conversations on disk: the KV state with the tokens that it belongs to.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::prefix_cache::PrefixCache;
use crate::context::ContextOptions;
use crate::engine::{Context, REVISION, Token};
use crate::error::{Error, Result, SessionFault};
use crate::plan::Plan;

/// The first bytes of a session file. What follows: the head's length (4 bytes) and the head (JSON),
/// the tokens (4 bytes each), the state, and a BLAKE3 checksum of all before it (32 bytes).
const MAGIC: [u8; 8] = *b"MOESESS1";
const MAX_HEAD_BYTES: u32 = 1 << 16;
const CHECKSUM_BYTES: usize = 32;

/// What a session is bound to.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    engine: String,
    /// Of the model file, see [`Plan`].
    fingerprint: String,
    context: ContextOptions,
    tokens: u64,
    state_bytes: u64,
}

/// Writes to a file beside `path`, then renames it, so that there is never half a session.
pub(crate) fn save(
    path: &Path,
    plan: &Plan,
    prefix_cache: &PrefixCache,
    context: &mut Context,
) -> Result<()> {
    let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
    check_place(path).map_err(failed)?;
    let state = if prefix_cache.tokens().is_empty() { Vec::new() } else { context.state()? };
    let head = Head {
        engine: REVISION.to_owned(),
        fingerprint: plan.model().fingerprint.clone(),
        context: plan.context().clone(),
        tokens: prefix_cache.tokens().len() as u64,
        state_bytes: state.len() as u64,
    };
    let head = serde_json::to_vec(&head).map_err(|error| failed(error.into()))?;
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let write = || -> std::io::Result<()> {
        let mut out =
            Hashing { inner: BufWriter::new(File::create(&part)?), hasher: blake3::Hasher::new() };
        out.write_all(&MAGIC)?;
        out.write_all(&u32::try_from(head.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        out.write_all(&head)?;
        for token in prefix_cache.tokens() {
            out.write_all(&token.to_le_bytes())?;
        }
        out.write_all(&state)?;
        let checksum = *out.hasher.finalize().as_bytes();
        out.inner.write_all(&checksum)?;
        out.inner.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|source| {
        // Best effort: the error says what matters.
        let _ = std::fs::remove_file(&part);
        failed(source)
    })
}

/// Nothing is there, or a session, or an empty file: the name that is mistyped may be a model's.
fn check_place(path: &Path) -> std::io::Result<()> {
    let Ok(there) = File::open(path) else { return Ok(()) };
    let mut start = Vec::new();
    let is_file = there.metadata()?.is_file();
    if is_file && there.take(MAGIC.len() as u64).read_to_end(&mut start)? > 0 && start != MAGIC {
        let reason = "it is there already and no session of this crate, so it is not replaced";
        return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, reason));
    }
    Ok(())
}

/// Reads and checks all of a session before the engine sees any of it.
pub(crate) fn restore(
    path: &Path,
    plan: &Plan,
    prefix_cache: &mut PrefixCache,
    context: &mut Context,
) -> Result<()> {
    let (tokens, state) = read(path, plan)?;
    prefix_cache.replace(Vec::new());
    if tokens.is_empty() {
        return context.truncate(0, None).map(|_| ());
    }
    context.set_state(&state)?;
    prefix_cache.replace(tokens);
    Ok(())
}

fn read(path: &Path, plan: &Plan) -> Result<(Vec<Token>, Vec<u8>)> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::UnexpectedEof => invalid(path, SessionFault::Truncated),
        _ => Error::Io { action: "read", path: path.to_owned(), source },
    };
    let file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let mut source = Hashing { inner: BufReader::new(file), hasher: blake3::Hasher::new() };
    let mut start = [0; 12];
    source.read_exact(&mut start).map_err(failed)?;
    let head_bytes = start.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    if start[..8] != MAGIC || head_bytes > MAX_HEAD_BYTES {
        return Err(invalid(path, SessionFault::NotASession));
    }
    let mut head = vec![0; head_bytes as usize];
    source.read_exact(&mut head).map_err(failed)?;
    let head: Head =
        serde_json::from_slice(&head).map_err(|_| invalid(path, SessionFault::NotASession))?;
    check(path, plan, &head)?;
    // Only then are lengths believed, and only if the file has them.
    let expected = [head.tokens.saturating_mul(4), head.state_bytes, CHECKSUM_BYTES as u64]
        .into_iter()
        .fold(12 + u64::from(head_bytes), u64::saturating_add);
    if file_bytes != expected {
        return Err(invalid(path, SessionFault::Truncated));
    }
    let mut take = |bytes: u64| -> Result<Vec<u8>> {
        let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(0)];
        source.read_exact(&mut buffer).map_err(failed)?;
        Ok(buffer)
    };
    let tokens = take(head.tokens * 4)?;
    let state = take(head.state_bytes)?;
    let mut checksum = [0; CHECKSUM_BYTES];
    source.inner.read_exact(&mut checksum).map_err(failed)?;
    if source.hasher.finalize() != blake3::Hash::from_bytes(checksum) {
        return Err(invalid(path, SessionFault::Damaged));
    }
    let tokens = tokens.as_chunks::<4>().0.iter().map(|bytes| Token::from_le_bytes(*bytes));
    Ok((tokens.collect(), state))
}

fn check(path: &Path, plan: &Plan, head: &Head) -> Result<()> {
    let fault = if head.fingerprint != plan.model().fingerprint {
        SessionFault::OtherModel
    } else if head.engine != REVISION {
        SessionFault::OtherEngine { engine: head.engine.clone() }
    } else if !plan.context().holds_state_of(&head.context)
        || head.tokens > u64::from(plan.context_tokens())
    {
        SessionFault::OtherContext
    } else {
        return Ok(());
    };
    Err(invalid(path, fault))
}

fn invalid(path: &Path, fault: SessionFault) -> Error {
    Error::InvalidSession { path: path.to_owned(), fault }
}

/// Reads or writes, and hashes what went through.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..bytes]);
        Ok(bytes)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let bytes = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..bytes]);
        Ok(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
