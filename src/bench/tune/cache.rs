//! Tunings in a file, so that one question is measured once.

use std::path::Path;

use super::search::{Limits, Stop};
use super::tuning::{TUNING_VERSION, TuneKey, Tuning};
use crate::bench::error::{BenchError, BenchResult};

/// What the file holds for this question: found by the same rules, and if by too little time, not by
/// less than there is now.
pub(super) fn find(path: &Path, key: &TuneKey, limits: &Limits) -> BenchResult<Option<Tuning>> {
    let fits = |tuning: &Tuning| {
        let had_time = tuning.found.stop != Stop::Time || tuning.limits.seconds >= limits.seconds;
        let rules = |limits: &Limits| (limits.pairs, limits.gain.to_bits());
        tuning.key.is_for(key) && had_time && rules(&tuning.limits) == rules(limits)
    };
    let found = read(path)?.into_iter().rfind(fits);
    Ok(found.map(|tuning| Tuning { is_cached: true, ..tuning }))
}

/// Puts it in the place of what the file holds for the same question. The file is whole at any time.
pub(super) fn keep(path: &Path, tuning: &Tuning) -> BenchResult<()> {
    let mut all = read(path)?;
    all.retain(|other| !other.key.is_for(&tuning.key));
    all.push(tuning.clone());
    let failed = |source| BenchError::Io { action: "write", path: path.to_owned(), source };
    let text = serde_json::to_vec_pretty(&all).map_err(|error| failed(error.into()))?;
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, text).and_then(|()| std::fs::rename(&part, path)).map_err(failed)
}

/// Those of this version; a file that is not there holds none.
fn read(path: &Path) -> BenchResult<Vec<Tuning>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(BenchError::Io { action: "read", path: path.to_owned(), source });
        }
    };
    let bad = |source| BenchError::TuneCache { path: path.to_owned(), source };
    let all: Vec<serde_json::Value> = serde_json::from_slice(&text).map_err(bad)?;
    let of_now = all.into_iter().filter(|one| one["version"] == TUNING_VERSION);
    of_now.map(|one| serde_json::from_value(one).map_err(bad)).collect()
}
