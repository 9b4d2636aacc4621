//! A conversation on disk: its messages as JSON, and beside them the model's state.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use moe_offload::{Error, Message, MoeModel, Result};

use crate::arguments::read_json;

/// A larger state is written at the end only: it would hold up each question.
const STATE_EACH_TURN_BYTES: u64 = 256 << 20;

/// Where a conversation is kept.
pub(crate) struct Session {
    messages: PathBuf,
    state: PathBuf,
}

impl Session {
    /// Reads what is there, and tries whether it can be replaced: before a model is loaded, and long
    /// before there is an answer to lose.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Message>)> {
        let state = path.with_extension("state");
        if state == path {
            return Err(Error::InvalidOption {
                option: "--session",
                value: path.display().to_string(),
                expected: "a name that does not end in `.state`, where the model's state goes",
            });
        }
        let failed = |source| Error::Io { action: "keep a session in", path: path.into(), source };
        let absolute = std::path::absolute(path).map_err(failed)?;
        // A link stays one: what it leads to is replaced.
        let messages = fs::canonicalize(&absolute).unwrap_or(absolute);
        let known = if messages.exists() { read_json(&messages)? } else { Vec::new() };
        let session = Self { state: messages.with_extension("state"), messages };
        let part = session.part();
        File::create(&part).and_then(|_| fs::remove_file(&part)).map_err(|source| {
            let path = session.messages.parent().unwrap_or(&session.messages).to_owned();
            Error::Io { action: "keep a session in", path, source }
        })?;
        Ok((session, known))
    }

    /// The file of the messages.
    pub(crate) fn path(&self) -> &Path {
        &self.messages
    }

    /// Gives the model its state back; returns why it has to read the conversation again.
    pub(crate) fn restore(&self, model: &mut MoeModel) -> Option<Error> {
        if self.state.exists() { model.restore_session(&self.state).err() } else { None }
    }

    /// Replaces the file: whatever happens, the old or the new one is there whole.
    pub(crate) fn save(&self, messages: &[Message]) -> Result<()> {
        let part = self.part();
        let write = || -> std::io::Result<()> {
            let text = serde_json::to_vec_pretty(messages)?;
            let mut file = File::create(&part)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&part, &self.messages)
        };
        write().map_err(|source| {
            // Best effort: the error says what matters.
            let _ = fs::remove_file(&part);
            Error::Io { action: "write", path: self.messages.clone(), source }
        })
    }

    /// Renames the file; returns its new name, or `None` if there is none yet.
    pub(crate) fn set_aside(&self) -> Result<Option<PathBuf>> {
        let mut name = self.messages.as_os_str().to_owned();
        name.push(".old");
        let old = PathBuf::from(name);
        match fs::rename(&self.messages, &old) {
            Ok(()) => Ok(Some(old)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { action: "rename", path: self.messages.clone(), source }),
        }
    }

    /// Writes the model's state too.
    pub(crate) fn save_state(&self, model: &mut MoeModel) -> Result<()> {
        model.save_session(&self.state)
    }

    /// The same between two questions, unless it would take long.
    pub(crate) fn save_small_state(&self, model: &mut MoeModel) -> Result<()> {
        let stats = model.stats();
        let cache: u64 = stats.devices.iter().map(|device| device.context_bytes).sum();
        let used = u128::from(stats.prompt_tokens + stats.generated_tokens);
        let tokens = u128::from(model.plan().context_tokens()).max(1);
        if u128::from(cache) * used / tokens > u128::from(STATE_EACH_TURN_BYTES) {
            return Ok(());
        }
        self.save_state(model)
    }

    fn part(&self) -> PathBuf {
        let mut name = self.messages.as_os_str().to_owned();
        name.push(".part");
        name.into()
    }
}
