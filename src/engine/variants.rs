//! Which of a folder's CPU backends is used where some must not be.
//!
//! The engine takes the one that rates itself best for the processor, and knows no exceptions.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// How the libraries of the CPU backend are called, of which each folder of backends has some.
pub(super) const CPU_FILES: (&str, &str) =
    if cfg!(windows) { ("ggml-cpu", ".dll") } else { ("libggml-cpu", ".so") };

/// Names the variants that the person wants to be passed over, with commas between them.
pub(super) const VARIABLE: &str = "MOE_OFFLOAD_PASS_OVER";

/// The variants that the compiler of this build broke, with commas between them; `build.rs` found
/// out. It also holds for a folder that the person names: mostly that is where this build's libraries
/// were put, and passing over one that is whole costs little, using one that is not the process.
const BROKEN: &str = env!("MOE_OFFLOAD_BROKEN_VARIANTS");

/// What must not be used, and who says so.
#[derive(Debug, PartialEq)]
pub(super) struct PassedOver {
    names: Vec<String>,
    by_person: bool,
}

impl PassedOver {
    /// What the person says, even if that is nothing, or else what the build says.
    pub(super) fn new(named: Option<OsString>) -> Self {
        let by_person = named.is_some();
        let names = named.map_or(BROKEN.into(), |named| named.to_string_lossy().into_owned());
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self { names: names.map(str::to_owned).collect(), by_person }
    }

    pub(super) fn reason(&self) -> String {
        if self.by_person {
            format!("as {VARIABLE} says")
        } else {
            "as its AMX code would end the process: the compiler of this build drops stores".into()
        }
    }

    /// Names that no library of the folder has, if the person wrote them.
    pub(super) fn unknown(&self, folder: &Path) -> Vec<&str> {
        let there = variants(folder);
        let is_there = |name: &&String| there.iter().any(|(variant, _)| variant == *name);
        let names = self.names.iter().filter(|_| self.by_person);
        names.filter(|name| !is_there(name)).map(String::as_str).collect()
    }
}

/// The engine's choice, which must not be used, and what is used instead.
#[derive(Debug, PartialEq)]
pub(super) struct Replacement {
    pub(super) chosen: PathBuf,
    /// `None` if the processor can run no other.
    pub(super) instead: Option<PathBuf>,
}

/// What is to be replaced, if the engine would choose what is passed over. `score` rates a library
/// as the engine does: 0 if it cannot run here.
pub(super) fn replacement(
    folder: &Path,
    passed_over: &PassedOver,
    score: impl Fn(&Path) -> i32,
) -> Option<Replacement> {
    let is_out = |name: &String| passed_over.names.contains(name);
    let variants = variants(folder);
    if !variants.iter().any(|(name, _)| is_out(name)) {
        return None;
    }
    let rated: Vec<_> = variants
        .into_iter()
        .map(|(name, library)| (score(&library), is_out(&name), library))
        .filter(|(score, ..)| *score > 0)
        .collect();
    let best = |out: bool| rated.iter().filter(|row| row.1 == out).max_by_key(|row| row.0);
    let chosen = best(true)?;
    let next = best(false);
    if next.is_some_and(|next| next.0 > chosen.0) {
        return None;
    }
    let plain = folder.join([CPU_FILES.0, CPU_FILES.1].concat());
    let instead = next.map(|next| next.2.clone()).or_else(|| plain.is_file().then_some(plain));
    Some(Replacement { chosen: chosen.2.clone(), instead })
}

/// The variants of the CPU backend in a folder: their names and files.
fn variants(folder: &Path) -> Vec<(String, PathBuf)> {
    let (start, end) = CPU_FILES;
    let name_of = |path: &Path| {
        let name = path.file_name()?.to_str()?.strip_prefix(start)?.strip_prefix('-')?;
        Some(name.strip_suffix(end)?.to_owned())
    };
    let entries = folder.read_dir().into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((name_of(&entry.path())?, entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> String {
        format!("{}{name}{}", CPU_FILES.0, CPU_FILES.1)
    }

    /// What is used in a folder of these libraries, which the processor rates so.
    fn used(libraries: &[(&str, i32)], passed_over: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, _) in libraries {
            std::fs::write(folder.path().join(file(name)), "").unwrap();
        }
        let score = |library: &Path| {
            let is = |name: &str| library.ends_with(file(name));
            libraries.iter().find(|(name, _)| is(name)).map_or(0, |(_, score)| *score)
        };
        let passed_over = PassedOver::new(Some(passed_over.into()));
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        match replacement(folder.path(), &passed_over, score) {
            None => "the engine's choice".into(),
            Some(replacement) => replacement.instead.map_or("none".into(), name),
        }
    }

    #[test]
    fn the_next_best_library_takes_the_place_of_one_that_is_passed_over() {
        let all = [("-x64", 1), ("-haswell", 64), ("-zen4", 500), ("-sapphirerapids", 900)];
        assert_eq!(used(&all, "sapphirerapids"), file("-zen4"));
        assert_eq!(used(&all, "sapphirerapids, zen4"), file("-haswell"));
        assert_eq!(used(&all, "x64,haswell,zen4,sapphirerapids"), "none");
        // The engine chooses what is allowed by itself.
        assert_eq!(used(&all, ""), "the engine's choice");
        assert_eq!(used(&all, "zen4"), "the engine's choice");
        assert_eq!(used(&all, "sapphire"), "the engine's choice");
        // What cannot run here is no choice, and nothing is replaced for its sake.
        assert_eq!(
            used(&[("-x64", 1), ("-sapphirerapids", 0)], "sapphirerapids"),
            "the engine's choice"
        );
        assert_eq!(
            used(&[("-zen4", 0), ("-x64", 1), ("-sapphirerapids", 9)], "sapphirerapids"),
            file("-x64")
        );
        // One that is not made for a processor comes last.
        assert_eq!(
            used(&[("", 0), ("-zen4", 0), ("-sapphirerapids", 9)], "sapphirerapids"),
            file("")
        );
        // Of two that are rated alike, the engine may take either.
        assert_eq!(used(&[("-zen4", 9), ("-sapphirerapids", 9)], "sapphirerapids"), file("-zen4"));
    }

    #[test]
    fn the_person_has_the_last_word_about_what_is_passed_over() {
        let of_build = PassedOver::new(None);
        let names: Vec<&str> = BROKEN.split(',').filter(|name| !name.is_empty()).collect();
        assert_eq!(
            of_build,
            PassedOver { names: names.iter().map(ToString::to_string).collect(), by_person: false }
        );
        let none = PassedOver::new(Some("".into()));
        assert_eq!(none, PassedOver { names: vec![], by_person: true });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file("-zen4")), "").unwrap();
        let named = PassedOver::new(Some("zen4,zen5".into()));
        assert_eq!(named.unknown(folder.path()), ["zen5"]);
        assert!(of_build.unknown(folder.path()).is_empty());
    }
}
