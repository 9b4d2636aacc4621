//! Tunings in a file, so that one question is measured once.

use std::path::{Path, PathBuf};

use super::key::TuneKey;
use super::search::{Limits, Stop};
use super::tuning::{TUNING_VERSION, Tuning};
use crate::error::{Error, Result};

/// What the file holds for this question and still holds: found by the same rules, and if by too little
/// time, not by less than there is now.
pub(super) fn find(path: &Path, key: &TuneKey, limits: &Limits) -> Result<Option<Tuning>> {
    let fits = |tuning: &Tuning| {
        let had_time = tuning.found.stop != Stop::Time || tuning.limits.seconds >= limits.seconds;
        tuning.key.is_for(key)
            && had_time
            && rules(&tuning.limits) == rules(limits)
            && tuning.holds(key)
    };
    let found = read(path)?.into_iter().rfind(fits);
    Ok(found.map(|tuning| Tuning { is_cached: true, ..tuning }))
}

/// Puts it in the place of what the file holds for the same question, unless that is a better answer:
/// one that was not cut short, or not as early. The file is whole at any time.
pub(super) fn keep(path: &Path, tuning: &Tuning) -> Result<()> {
    let mut all = read(path)?;
    let is_better = |other: &Tuning| {
        let had_more =
            other.found.stop != Stop::Time || other.limits.seconds > tuning.limits.seconds;
        other.key.is_for(&tuning.key)
            && had_more
            && rules(&other.limits) == rules(&tuning.limits)
            && other.holds(&tuning.key)
    };
    // What does not hold for its own question is never given out.
    let is_useless = !tuning.holds(&tuning.key);
    if is_useless || (tuning.found.stop == Stop::Time && all.iter().any(is_better)) {
        return Ok(());
    }
    all.retain(|other| !other.key.is_for(&tuning.key));
    all.push(tuning.clone());
    let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(&all).map_err(|error| failed(error.into()))?;
    let part = part(path);
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, path))
        .inspect_err(|_| {
            // Best effort: the error says what matters.
            let _ = std::fs::remove_file(&part);
        })
        .map_err(failed)
}

/// Whether something can be kept there, so that it is known before minutes are spent on it.
pub(super) fn check(path: &Path) -> Result<()> {
    read(path)?;
    let part = part(path);
    std::fs::write(&part, "")
        .and_then(|()| std::fs::remove_file(&part))
        .map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}

/// Where the next version of the file is written, by this process alone.
fn part(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    part.into()
}

/// What answers must have in common beside the question.
fn rules(limits: &Limits) -> (u32, u64) {
    (limits.pairs, limits.gain.to_bits())
}

/// Those of this version; a file that is not there holds none.
fn read(path: &Path) -> Result<Vec<Tuning>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Error::Io { action: "read", path: path.to_owned(), source });
        }
    };
    let bad = |source| Error::TuneCache { path: path.to_owned(), source };
    let all: Vec<serde_json::Value> = serde_json::from_slice(&text).map_err(bad)?;
    let of_now = all.into_iter().filter(|one| one["version"] == TUNING_VERSION);
    of_now.map(|one| serde_json::from_value(one).map_err(bad)).collect()
}
