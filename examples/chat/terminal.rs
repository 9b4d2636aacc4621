//! The person at the terminal, or whatever is on standard input instead.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moe_offload::{CancelHandle, Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::common::{fail, say, visible};
use crate::files;

/// No question is longer; a device may never end.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// What errors call it.
const INPUT: &str = "standard input";
/// `rustyline` edits no lines in terminals that call themselves so.
const WITHOUT_EDITOR: [&str; 3] = ["dumb", "cons25", "emacs"];
/// An interrupt this long before the program has the line came right after Enter, and is meant for the
/// answer. An older one came before the question was sent, and is meant for nothing.
const RIGHT_AFTER_ENTER: Duration = Duration::from_millis(100);

/// Where questions come from.
pub(crate) struct Terminal {
    /// `None` where nothing edits lines: standard input is no terminal, or one that can do little.
    editor: Option<DefaultEditor>,
    /// Standard input is a terminal.
    has_person: bool,
    /// Lines that were read without an editor.
    lines: u64,
    /// What Ctrl-C stops.
    current: Arc<Mutex<Current>>,
}

/// What an interrupt is for.
#[derive(Default)]
struct Current {
    cancel: CancelHandle,
    pressed: Option<Instant>,
    /// A line is waited for without an editor, to which Ctrl-C would be a key and no signal.
    is_at_prompt: bool,
}

/// What comes of waiting for a line.
pub(crate) enum Line {
    Text(String),
    /// An interrupt.
    Nothing,
    /// It could not be read as text, and that was told.
    Dropped,
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
        let current = Arc::new(Mutex::new(Current::default()));
        let has_person = io::stdin().is_terminal();
        let mut terminal = Self { editor: None, has_person, lines: 0, current };
        if !has_person {
            return terminal;
        }
        // The editor takes the signal for itself when it is made, so it is made before the handler.
        // While it reads a line, Ctrl-C is a key and no signal.
        terminal.editor = can_edit().then(DefaultEditor::new).and_then(std::result::Result::ok);
        HAS_EDITOR.store(terminal.editor.is_some(), Ordering::Relaxed);
        let current = Arc::clone(&terminal.current);
        // Where Ctrl-C cannot be caught it ends the program, as it would anyway.
        let _ = ctrlc::set_handler(move || interrupt(&mut locked(&current)));
        terminal
    }

    /// Whether a person is there who reads what is said.
    pub(crate) fn has_person(&self) -> bool {
        self.has_person
    }

    /// Says what a person can do; `history` is what the arrow keys bring back.
    pub(crate) fn welcome<'a>(&mut self, history: impl Iterator<Item = &'a str>) {
        if !self.has_person {
            return;
        }
        for question in history {
            self.remember(question);
        }
        say(&"Ctrl-C stops an answer, Ctrl-D ends, /help lists more.");
    }

    /// The next line; `None` at the end of input.
    pub(crate) fn read(&mut self) -> Result<Option<Line>> {
        // In force before the line is: Ctrl-C right after Enter is meant for the answer.
        let is_at_prompt = self.has_person && self.editor.is_none();
        *locked(&self.current) = Current { is_at_prompt, ..Current::default() };
        let line = if self.editor.is_some() { self.edited_line() } else { self.plain_line() };
        let mut current = locked(&self.current);
        current.is_at_prompt = false;
        if current.pressed.is_some_and(|at| at.elapsed() > RIGHT_AFTER_ENTER) {
            *current = Current::default();
        }
        drop(current);
        line
    }

    /// What stops the answer to the line that was read last.
    pub(crate) fn cancel(&self) -> CancelHandle {
        locked(&self.current).cancel.clone()
    }

    fn edited_line(&mut self) -> Result<Option<Line>> {
        let Some(editor) = &mut self.editor else { return Ok(None) };
        match editor.readline("> ") {
            Ok(line) => {
                self.remember(&line);
                Ok(Some(Line::Text(line)))
            }
            Err(ReadlineError::Interrupted) => {
                say(&HOW_TO_LEAVE);
                Ok(Some(Line::Nothing))
            }
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                Ok(Some(self.drop_line()))
            }
            Err(ReadlineError::Eof) => Ok(None),
            Err(ReadlineError::Io(error)) => Err(unreadable(error)),
            Err(error) => Err(unreadable(io::Error::other(error.to_string()))),
        }
    }

    fn plain_line(&mut self) -> Result<Option<Line>> {
        if self.has_person {
            print("> ")?;
        }
        let mut line = Vec::new();
        let mut input = io::stdin().lock().take(MAX_LINE_BYTES + 1);
        let count = input.read_until(b'\n', &mut line).map_err(unreadable)?;
        if count as u64 > MAX_LINE_BYTES {
            fail(&"a line of standard input has more than 64 MiB; a question ends with its line");
        }
        if count == 0 {
            return Ok(None);
        }
        self.lines += 1;
        // As files have it.
        let text = if self.lines == 1 { files::plain(Path::new(INPUT), &line)? } else { &line };
        Ok(Some(match std::str::from_utf8(text) {
            Ok(text) => Line::Text(text.to_owned()),
            Err(_) => self.drop_line(),
        }))
    }

    /// Says that a line is no text.
    fn drop_line(&self) -> Line {
        if self.has_person {
            say(
                &"(what was typed is no text in UTF-8, so it was dropped; set the terminal to UTF-8)",
            );
        } else {
            say(&format!(
                "error: line {} of {INPUT} is no text in UTF-8, so it was dropped",
                self.lines
            ));
        }
        Line::Dropped
    }

    fn remember(&mut self, line: &str) {
        if let Some(editor) = &mut self.editor {
            let _ = editor.add_history_entry(line);
        }
    }
}

const HOW_TO_LEAVE: &str = "(Ctrl-D ends)";

/// Stops the answer. At a prompt there is none, and nothing else would say that the key did something.
fn interrupt(current: &mut Current) {
    current.pressed = Some(Instant::now());
    current.cancel.cancel();
    if current.is_at_prompt {
        // Behind the `^C` that the terminal shows. What cannot be written now cannot be later either.
        let _ = print("\n");
        say(&HOW_TO_LEAVE);
        let _ = print("> ");
    }
}

fn locked(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

fn can_edit() -> bool {
    let term = std::env::var("TERM").unwrap_or_default();
    !WITHOUT_EDITOR.iter().any(|name| name.eq_ignore_ascii_case(&term))
}

fn unreadable(source: io::Error) -> Error {
    Error::Io { action: "read", path: INPUT.into(), source }
}

/// Writes to standard output at once, without what could control a terminal if it is one. A reader who went away ends the program quietly.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let text = if out.is_terminal() { visible(text) } else { text.into() };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(source) => Err(Error::Io { action: "write", path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}
