//! What the examples have in common: one clear line and status 1 for every error.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
#[cfg(unix)]
use std::sync::Arc;

use clap::Parser;
use moe_offload::preflight::Warning;

/// The command line, or one line on standard error and status 1.
pub(crate) fn arguments<A: Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        if error.use_stderr() {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            // Lists of what is missing come on lines of their own.
            let rest = text.lines().skip(1).take_while(|line| line.starts_with("  "));
            let rest: Vec<&str> = rest.map(str::trim).collect();
            let line = in_options(&format!("{line} {}", rest.join(" ")));
            fail(&format!("{}; see --help", line.trim_start_matches("error: ").trim_end()));
        }
        error.exit()
    })
}

/// The same of a program that writes files: one that grows beyond `ulimit -f` is an error of writing it then.
/// Not taken, the signal ends the program without a word.
#[allow(dead_code)] // not every example writes one
pub(crate) fn arguments_of_writer<A: Parser>() -> A {
    #[cfg(unix)]
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
    arguments()
}

/// Ends the program with one line on standard error and status 1.
pub(crate) fn fail(error: &dyn Display) -> ! {
    fail_with(1, error)
}

/// The same with another status.
pub(crate) fn fail_with(status: i32, error: &dyn Display) -> ! {
    say(&format!("error: {}", error.to_string().replace('\n', " ")));
    std::process::exit(status);
}

/// The same for an error of the library.
#[allow(dead_code)] // not every example has nothing to add
pub(crate) fn fail_by(error: &(dyn Error + 'static)) -> ! {
    fail(&words(error))
}

/// To the person; with standard error closed to nobody.
pub(crate) fn say(text: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "{}", visible(&text.to_string()));
}

/// Says what runs and is probably a mistake.
#[allow(dead_code)] // not every example has a model
pub(crate) fn warn(warnings: &[Warning]) {
    for warning in warnings {
        say(&format!("warning: {warning}"));
    }
}

/// Writes a result to a file, all of it or nothing. Nothing is replaced: a name that is mistyped may be a
/// model's. A pipe or a device is written to.
#[allow(dead_code)] // not every example writes one
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return options.write(true).open(path)?.write_all(bytes);
    }
    let new = options.write(true).create_new(true).open(path);
    let mut file = new.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(),
        _ => error,
    })?;
    file.write_all(bytes).inspect_err(|_| {
        // Best effort: the error says what matters.
        let _ = std::fs::remove_file(path);
    })
}

/// Why a result is not written over a file.
#[allow(dead_code)] // not every example writes one
pub(crate) fn exists() -> io::Error {
    let reason = "it is there already, and nothing is replaced; name another file, or remove it";
    io::Error::new(ErrorKind::AlreadyExists, reason)
}

/// The text without what could control a terminal: files and models of strangers have words in it.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let controls = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(controls) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if controls(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// A whole number that is not negative, in its digits alone.
#[allow(dead_code)] // not every example asks for one
pub(crate) fn whole<N: TryFrom<u64>>(text: &str) -> Result<N, String> {
    let bits = std::mem::size_of::<N>() * 8;
    let most = u64::MAX >> (64 - bits);
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_digits).and_then(|n: u64| N::try_from(n).ok());
    let written = |factor: u64, ending: &str| {
        let digits = text.strip_suffix(ending).filter(|_| !ending.is_empty())?;
        digits.parse::<u64>().ok()?.checked_mul(factor)
    };
    let meant = written(1024, "k").or_else(|| written(1024, "K")).or_else(|| written(1 << 20, "M"));
    number.ok_or_else(|| match meant {
        Some(meant) if meant <= most => format!("write it in digits: {meant}"),
        _ if most == u64::MAX => "it must be a whole number from 0 up, in digits alone".to_owned(),
        _ => format!("it must be a whole number from 0 to {most}, in digits alone"),
    })
}

/// So many of them: `1 token`, `2 tokens`.
#[allow(dead_code)] // not every example counts
pub(crate) fn count(number: impl Display, one: &str) -> String {
    let number = number.to_string();
    let ending = if number == "1" { "" } else { "s" };
    format!("{number} {one}{ending}")
}

/// The library's names of settings, and the options of the examples that set them.
const OPTIONS: [(&str, &str); 21] = [
    ("answer_tokens", "--answer-tokens"),
    ("cache_bytes", "--expert-cache"),
    ("context_tokens", "--context"),
    ("device_overhead", "--overhead"),
    ("dry.multiplier", "--dry"),
    ("expert_offload_tokens", "--expert-offload-tokens"),
    ("frequency_penalty", "--frequency-penalty"),
    ("kv_type", "--kv-type"),
    ("load_mode", "--load-mode"),
    ("micro_batch_tokens", "--micro-batch"),
    ("min_p", "--min-p"),
    ("mirostat.version", "--mirostat"),
    ("prompt_tokens", "--prompt-tokens"),
    ("presence_penalty", "--presence-penalty"),
    ("repack", "--no-repack"),
    ("repeat_penalty", "--repeat-penalty"),
    ("temperature", "--temperature"),
    ("threads", "--threads"),
    ("top_p", "--top-p"),
    ("typical_p", "--typical-p"),
    ("xtc_probability", "--xtc"),
];

/// An error of the library in words that a person at the command line can act on. What is wrong with a file is
/// told in the file's own words.
pub(crate) fn words(error: &(dyn Error + 'static)) -> String {
    let is_of_file = |source: &(dyn Error + 'static)| {
        source.is::<io::Error>() || source.is::<serde_json::Error>()
    };
    let text = error.to_string();
    if error.source().is_some_and(is_of_file) { text } else { in_options(&text) }
}

/// What is wrong with JSON, without names that only the source has.
#[allow(dead_code)] // not every example reads some
pub(crate) fn of_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((before, name)) = text.split_once("expected struct ") else { return text };
    let after = name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
    format!("{before}expected an object{after}")
}

/// Settings by the names of their options.
fn in_options(error: &str) -> String {
    let is_border = |c: char| " `(),;:".contains(c);
    let translate = |piece: &str| {
        let word = piece.trim_end_matches(is_border);
        match OPTIONS.iter().find(|(field, _)| *field == word) {
            Some((_, option)) => format!("{option}{}", &piece[word.len()..]),
            None => piece.to_owned(),
        }
    };
    error.split_inclusive(is_border).map(translate).collect()
}

/// What is left of an error in writing output: none if the reader went away (`… | head`).
#[allow(dead_code)] // not every example prints much
pub(crate) fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}
