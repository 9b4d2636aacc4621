//! The engine's process-wide state, and where its backends are.

use std::env;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use once_cell::sync::OnceCell;

use super::call::{guarded, path_string};
use super::variants::{self, CPU_FILES, PassedOver};
use super::{ffi, logs};
use crate::error::{Error, Result};

/// Names the folder with the libraries of the engine's backends.
const VARIABLE: &str = "MOE_OFFLOAD_BACKENDS";

const CPU_PATTERN: &str = if cfg!(windows) { "ggml-cpu*.dll" } else { "libggml-cpu*.so" };

static READY: OnceCell<()> = OnceCell::new();

/// Makes the engine ready: backends, log, assertions. Cheap after the first time.
pub(super) fn init() -> Result<()> {
    READY
        .get_or_try_init(|| {
            let built = ffi::BACKENDS_DIR.map(PathBuf::from);
            let folder = match built {
                Some(built) => {
                    Some(find(candidates(env::var_os(VARIABLE), env::current_exe().ok(), built))?)
                }
                None => None, // the backends are part of this program
            };
            let cpu_library = folder.as_deref().map(cpu_library).transpose()?.flatten();
            let folder_string = folder.as_deref().map(path_string).transpose()?;
            let library_string = cpu_library.as_deref().map(path_string).transpose()?;
            let pointer = |string: &Option<CString>| {
                string.as_ref().map_or(std::ptr::null(), |string| string.as_ptr())
            };
            // SAFETY: `on_log` is a plain function without state, callable from every thread for
            // ever; the strings live during the call.
            guarded(|message| unsafe {
                let (folder, library) = (pointer(&folder_string), pointer(&library_string));
                ffi::moe_init(Some(logs::on_log), folder, library, message)
            })
            .map_err(|failure| match &folder {
                Some(folder) if failure.is_missing() => no_backends(vec![folder.clone()]),
                _ => failure.into_error("start"),
            })
        })
        .copied()
}

/// The CPU backend to use if the engine must not choose by itself.
fn cpu_library(folder: &Path) -> Result<Option<PathBuf>> {
    let passed_over = PassedOver::new(env::var_os(variants::VARIABLE));
    for name in passed_over.unknown(folder) {
        let (variable, folder) = (variants::VARIABLE, folder.display());
        tracing::warn!(target: "moe_offload", "{variable} names {name}, of which {folder} has no library");
    }
    let Some(replacement) = variants::replacement(folder, &passed_over, score) else {
        return Ok(None);
    };
    let (chosen, reason) = (replacement.chosen.display(), passed_over.reason());
    let Some(library) = replacement.instead else {
        tracing::warn!(target: "moe_offload", "{chosen} is passed over, {reason}, and there is no other");
        return Err(no_backends(vec![folder.to_owned()]));
    };
    tracing::warn!(target: "moe_offload", "{chosen} is passed over, {reason}; {} is used", library.display());
    Ok(Some(library))
}

/// How well a library suits the processor; 0 if it cannot be used here.
fn score(library: &Path) -> i32 {
    let Ok(path) = path_string(library) else { return 0 };
    let mut score = 0;
    // SAFETY: the string lives during the call, and so does the number, which only the call writes.
    let rated = guarded(|message| unsafe {
        ffi::moe_backend_score(path.as_ptr(), &raw mut score, message)
    });
    rated.map_or(0, |()| score)
}

/// The folders to look in, in order: the one that the person names and no other, or else the
/// program's own and then the build's.
fn candidates(
    named: Option<std::ffi::OsString>,
    program: Option<PathBuf>,
    built: PathBuf,
) -> Vec<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return vec![named.into()];
    }
    let own = program.and_then(|program| program.parent().map(Path::to_owned));
    own.into_iter().chain([built]).collect()
}

/// The first of these folders that has a CPU backend. Nothing is mixed from two: backends of
/// different builds do not fit together.
fn find(folders: Vec<PathBuf>) -> Result<PathBuf> {
    match folders.iter().find(|folder| has_cpu_backend(folder)) {
        Some(folder) => Ok(folder.clone()),
        None => Err(no_backends(folders)),
    }
}

fn has_cpu_backend(folder: &Path) -> bool {
    let (start, end) = CPU_FILES;
    let Ok(entries) = folder.read_dir() else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(start) && name.ends_with(end)
    })
}

fn no_backends(folders: Vec<PathBuf>) -> Error {
    Error::NoBackends { file: CPU_PATTERN, folders, variable: VARIABLE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_looked_for_where_the_person_says_then_beside_the_program() {
        let scratch = tempfile::tempdir().unwrap();
        let [own, built, named] = ["own", "built", "named"].map(|name| {
            let folder = scratch.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            folder
        });
        let program = || Some(own.join("program"));
        let search = |named: Option<&Path>| {
            find(candidates(named.map(Into::into), program(), built.clone()))
        };
        let add = |folder: &Path| {
            let (start, end) = CPU_FILES;
            std::fs::write(folder.join(format!("{start}-x64{end}")), "").unwrap();
        };

        let error = search(None).unwrap_err();
        assert!(
            matches!(&error, Error::NoBackends { folders, .. } if *folders == [own.clone(), built.clone()]),
            "{error}"
        );
        add(&built);
        assert_eq!(search(None).unwrap(), built);
        assert_eq!(search(Some(Path::new(""))).unwrap(), built);
        add(&own);
        assert_eq!(search(None).unwrap(), own);
        // What was asked for is not silently replaced by something else.
        let error = search(Some(&named)).unwrap_err();
        assert!(error.to_string().contains("MOE_OFFLOAD_BACKENDS"), "{error}");
        add(&named);
        assert_eq!(search(Some(&named)).unwrap(), named);
    }
}
