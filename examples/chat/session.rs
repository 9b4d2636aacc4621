//! A conversation on disk: its messages as JSON, and beside them the model's state.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use moe_offload::{Error, Message, MoeModel, Result, Role};
use tempfile::NamedTempFile;

use crate::common::{count, say};
use crate::files::{self, Shape};

/// A larger state is written at the end only: it would hold up each question.
const STATE_EACH_TURN_BYTES: u64 = 256 << 20;

/// How a saved state begins.
const STATE_MAGIC: &[u8] = b"MOESESS";

/// Where a conversation is kept.
pub(crate) struct Session {
    messages: PathBuf,
    /// What this process last read or wrote there; `None` if there was no file. Anything else there
    /// is another program's, and not replaced.
    known: Option<Vec<u8>>,
    /// Why the state is not kept: something else has its name, or nothing can have it.
    stateless: Option<String>,
}

impl Session {
    /// Reads what is there, and tries whether it can be replaced: before a model is loaded, and long
    /// before there is an answer to lose.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Message>)> {
        let failed = |source| Error::Io { action: "keep a session in", path: path.into(), source };
        if path.as_os_str().to_string_lossy().ends_with(std::path::is_separator) {
            return Err(failed(io::Error::other(
                "only a folder's name ends like that; name a file",
            )));
        }
        let absolute = std::path::absolute(path).map_err(failed)?;
        // A link stays one: what it leads to is replaced.
        let messages = match fs::canonicalize(&absolute) {
            Ok(messages) => messages,
            Err(_) if fs::symlink_metadata(&absolute).is_err() => absolute,
            Err(error) => return Err(failed(error)),
        };
        let known = if permissions(&messages).map_err(failed)?.is_some() {
            OpenOptions::new().append(true).open(&messages).map_err(failed)?;
            Some(files::read(&messages)?)
        } else {
            None
        };
        let conversation = match &known {
            Some(bytes) if !bytes.trim_ascii().is_empty() => {
                files::json(path, bytes, Shape::Conversation, "correct it, or name another file")?
            }
            _ => Vec::new(),
        };
        temporary(&messages).map_err(|source| {
            let path = messages.parent().unwrap_or(&messages).to_owned();
            Error::Io { action: "keep a session in", path, source }
        })?;
        let mut session = Self { messages, known, stateless: None };
        session.look_at_state();
        Ok((session, conversation))
    }

    /// Tells what there is to go on with, and gives the model its state back.
    pub(crate) fn restore(&self, messages: usize, model: &mut MoeModel) {
        let path = self.messages.display();
        match messages {
            0 => say(&format!("session  {path}, a new one")),
            messages => {
                say(&format!("session  {path}, going on after {}", count(messages, "message")));
            }
        }
        let state = self.state();
        let shown = state.display();
        if let Some(reason) = &self.stateless {
            say(&format!(
                "(`{shown}` {reason}, so the whole conversation is processed again each time)"
            ));
        } else if state.exists()
            && let Err(error) = model.restore_session(&state)
        {
            say(&format!("(the whole conversation is processed again: {error})"));
        }
    }

    /// Replaces the file: whatever happens, the old or the new one is there whole. Where another
    /// program has changed it, the conversation goes on in a file of its own.
    pub(crate) fn save(&mut self, messages: &[Message]) -> Result<()> {
        let text =
            serde_json::to_vec_pretty(messages).map_err(|error| self.failed(error.into()))?;
        if self.write(&text).map_err(|source| self.failed(source))? {
            return Ok(());
        }
        let changed = self.messages.clone();
        for number in 2.. {
            self.messages = with_ending(&changed, &format!(".{number}"));
            self.known = None;
            if self.write(&text).map_err(|source| self.failed(source))? {
                break;
            }
        }
        self.look_at_state();
        say(&format!(
            "(another program has changed {}; this conversation goes on in {})",
            changed.display(),
            self.messages.display()
        ));
        Ok(())
    }

    /// Returns whether it was written: not where something is there that this process does not know.
    fn write(&mut self, text: &[u8]) -> io::Result<bool> {
        let there = permissions(&self.messages)?;
        if there.is_some() {
            let found = fs::read(&self.messages)?;
            if found == text {
                self.known = Some(found);
                return Ok(true);
            }
            if self.known.as_ref() != Some(&found) {
                return Ok(false);
            }
        }
        let mut file = temporary(&self.messages)?;
        file.as_file_mut().write_all(text)?;
        file.as_file().sync_all()?;
        let persisted = match there {
            Some(permissions) => {
                file.as_file().set_permissions(permissions)?;
                file.persist(&self.messages)
            }
            None => file.persist_noclobber(&self.messages),
        };
        match persisted {
            Ok(_) => self.known = Some(text.to_vec()),
            Err(failed) if failed.error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(failed) => return Err(failed.error),
        }
        Ok(true)
    }

    /// Writes these messages, in which the last question has no answer, beside the file, to a name that nothing
    /// has; returns that name.
    pub(crate) fn copy(&self, messages: &[Message]) -> Result<PathBuf> {
        let write = || -> io::Result<PathBuf> {
            let copy = reserve(&with_ending(&self.messages, ".unanswered"))?;
            let mut file = temporary(&self.messages)?;
            file.as_file_mut().write_all(&serde_json::to_vec_pretty(messages)?)?;
            file.persist(&copy)?;
            Ok(copy)
        };
        write().map_err(|source| self.failed(source))
    }

    /// Renames the file to a name that nothing has, once all of the conversation is in it; returns
    /// that name, or `None` if nothing was said yet.
    pub(crate) fn set_aside(&mut self, messages: &[Message]) -> Result<Option<PathBuf>> {
        let is_empty = !messages.iter().any(|message| message.role == Role::User);
        if self.known.is_none() && is_empty {
            return Ok(None);
        }
        self.save(messages)?;
        let rename = || -> io::Result<PathBuf> {
            let old = reserve(&with_ending(&self.messages, ".old"))?;
            fs::rename(&self.messages, &old).inspect_err(|_| {
                // Best effort: it is empty, and the error says what matters.
                let _ = fs::remove_file(&old);
            })?;
            Ok(old)
        };
        let old = rename().map_err(|source| {
            let path = self.messages.clone();
            Error::Io { action: "rename", path, source }
        })?;
        self.known = None;
        Ok(Some(old))
    }

    /// Writes the model's state too, unless something else has its name.
    pub(crate) fn save_state(&self, model: &mut MoeModel) -> Result<()> {
        if self.stateless.is_some() {
            return Ok(());
        }
        let state = self.state();
        let failed = |source| Error::Io { action: "write", path: state.clone(), source };
        let kept = state_permissions(&state).map_err(failed)?;
        // In a folder that only this user may enter, until the permissions are what they should be.
        let folder = state.parent().unwrap_or(&state);
        let folder = tempfile::Builder::new()
            .prefix(".chat-")
            .tempdir_in(folder)
            .map_err(|error| failed(without_its_name(error)))?;
        let new = folder.path().join("state");
        model.save_session(&new).map_err(|error| match error {
            Error::Io { source, .. } => failed(source),
            error => error,
        })?;
        let replace = || -> io::Result<()> {
            let permissions = match kept {
                Some(permissions) => permissions,
                None => temporary(&state)?.as_file().metadata()?.permissions(),
            };
            fs::set_permissions(&new, permissions)?;
            fs::rename(&new, &state)
        };
        replace().map_err(failed)
    }

    /// The same between two questions, unless it would take long.
    pub(crate) fn save_small_state(&self, model: &mut MoeModel) -> Result<()> {
        if state_bytes(model) > STATE_EACH_TURN_BYTES { Ok(()) } else { self.save_state(model) }
    }

    /// Whether the state can be kept under its name.
    fn look_at_state(&mut self) {
        self.stateless = match state_permissions(&self.state()) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Some("is not a saved state, and left as it is".to_owned())
            }
            Err(error) => Some(format!("cannot be kept: {error}")),
        };
    }

    pub(crate) fn state(&self) -> PathBuf {
        with_ending(&self.messages, ".state")
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io { action: "write", path: self.messages.clone(), source }
    }
}

/// About how large the model's state is.
pub(crate) fn state_bytes(model: &MoeModel) -> u64 {
    let stats = model.stats();
    let cache: u64 = stats.devices.iter().map(|device| device.context_bytes).sum();
    let used = u128::from(stats.prompt_tokens + stats.generated_tokens);
    let tokens = u128::from(model.plan().context_tokens()).max(1);
    u64::try_from(u128::from(cache) * used / tokens).unwrap_or(u64::MAX)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A file beside `path` that nobody else knows or may read; it is gone when dropped.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(path);
    tempfile::Builder::new().prefix(".chat-").tempfile_in(folder).map_err(without_its_name)
}

/// What the system said of a temporary file, whose name tells nobody anything.
fn without_its_name(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" at path ") {
        Some((reason, _)) => io::Error::new(error.kind(), reason),
        None => error,
    }
}

/// Makes an empty file with this name, or with the first number behind it that is free.
fn reserve(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.to_owned();
    let mut number = 1;
    loop {
        match OpenOptions::new().write(true).create_new(true).open(&name) {
            Ok(_) => return Ok(name),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                number += 1;
                name = with_ending(path, &format!(".{number}"));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The permissions of a file that may be replaced; `None` if there is none.
fn permissions(path: &Path) -> io::Result<Option<Permissions>> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !found.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if found.permissions().readonly() {
        return Err(io::Error::new(ErrorKind::PermissionDenied, "it is read-only"));
    }
    Ok(Some(found.permissions()))
}

/// The same of a saved state; an error for anything else.
fn state_permissions(path: &Path) -> io::Result<Option<Permissions>> {
    let Some(permissions) = permissions(path)? else { return Ok(None) };
    let mut start = [0; STATE_MAGIC.len()];
    let is_state = File::open(path)?.read_exact(&mut start).is_ok() && start == STATE_MAGIC;
    let foreign = || io::Error::new(ErrorKind::InvalidData, "it is not a saved state");
    is_state.then_some(Some(permissions)).ok_or_else(foreign)
}
