//! The person at the terminal, or whatever is on standard input instead.

use std::io::{BufRead, ErrorKind, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use moe_offload::{CancelHandle, Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::common::{fail, say, visible};

/// No question is longer; a device may never end.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Where questions come from.
pub(crate) struct Terminal {
    /// `None` where standard input is no terminal.
    editor: Option<DefaultEditor>,
    /// What Ctrl-C stops.
    current: Arc<Mutex<CancelHandle>>,
}

/// Whether there are arrow keys that bring back what was typed.
static HAS_EDITOR: AtomicBool = AtomicBool::new(false);

pub(crate) fn has_editor() -> bool {
    HAS_EDITOR.load(Ordering::Relaxed)
}

/// How to get back a question that was dropped, after a clause.
pub(crate) fn to_get_back() -> &'static str {
    if has_editor() { ", press ↑ to get it back" } else { "" }
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let current = Arc::new(Mutex::new(CancelHandle::new()));
        let mut terminal = Self { editor: None, current };
        if !std::io::stdin().is_terminal() {
            return terminal;
        }
        // The editor takes the signal for itself when it is made, so it is made before the handler.
        // While it reads a line, Ctrl-C is a key and no signal.
        terminal.editor = DefaultEditor::new().ok();
        HAS_EDITOR.store(terminal.editor.is_some(), Ordering::Relaxed);
        let current = Arc::clone(&terminal.current);
        // Where Ctrl-C cannot be caught it ends the program, as it would anyway.
        let _ = ctrlc::set_handler(move || {
            if let Ok(cancel) = current.lock() {
                cancel.cancel();
            }
        });
        terminal
    }

    /// Says what a person can do; `history` is what the arrow keys bring back.
    pub(crate) fn welcome<'a>(&mut self, history: impl Iterator<Item = &'a str>) {
        if self.editor.is_none() {
            return;
        }
        for question in history {
            self.remember(question);
        }
        say(&"Ctrl-C stops an answer, Ctrl-D ends, /help lists more.");
    }

    /// The next line, and what stops the answer to it; `None` at the end of input.
    pub(crate) fn read(&mut self) -> Option<(String, CancelHandle)> {
        // In force before the line is: Ctrl-C right after Enter is meant for the answer.
        let cancel = CancelHandle::new();
        if let Ok(mut current) = self.current.lock() {
            *current = cancel.clone();
        }
        let Some(editor) = &mut self.editor else {
            let mut line = Vec::new();
            let mut input = std::io::stdin().lock().take(MAX_LINE_BYTES + 1);
            let count = input.read_until(b'\n', &mut line).ok()?;
            if count as u64 > MAX_LINE_BYTES {
                fail(
                    &"a line of standard input has more than 64 MiB; a question ends with its line",
                );
            }
            return (count > 0).then(|| (String::from_utf8_lossy(&line).into_owned(), cancel));
        };
        match editor.readline("> ") {
            Ok(line) => {
                self.remember(&line);
                Some((line, cancel))
            }
            Err(ReadlineError::Interrupted) => {
                say(&"(Ctrl-D ends)");
                Some((String::new(), cancel))
            }
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                say(
                    &"(what was typed is no text in UTF-8, so it was dropped; set the terminal to UTF-8)",
                );
                Some((String::new(), cancel))
            }
            Err(_) => None,
        }
    }

    fn remember(&mut self, line: &str) {
        if let Some(editor) = &mut self.editor {
            let _ = editor.add_history_entry(line);
        }
    }
}

/// Writes to standard output at once, without what could control a terminal if it is one. A reader who went away ends the program quietly.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let text = if out.is_terminal() { visible(text) } else { text.into() };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(source) => Err(Error::Io { action: "write", path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}
