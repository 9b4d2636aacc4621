//! What the pinned engine's source says, read where cargo keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use regex::Regex;

/// The folder `src` of llama.cpp in the package that this crate is built with.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(find)
}

fn find() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let engine = packages.iter().find(|package| package["name"] == "llama-cpp-sys-2").unwrap();
    let manifest = Path::new(engine["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().join("llama.cpp/src")
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(folder().join(path)).unwrap()
}

/// All first groups that a pattern finds.
pub fn all(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// What stands between `start` and the next `end`.
pub fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap();
    rest.split_once(end).unwrap().0
}

/// The name of each architecture, by the engine's constant without `LLM_ARCH_`.
pub fn names() -> &'static BTreeMap<String, String> {
    static NAMES: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    NAMES.get_or_init(read_names)
}

fn read_names() -> BTreeMap<String, String> {
    let source = read("llama-arch.cpp");
    let table = between(&source, "LLM_ARCH_NAMES", "};");
    let pattern = Regex::new(r#"LLM_ARCH_([A-Z0-9_]+), *"([^"]+)""#).unwrap();
    pattern.captures_iter(table).map(|found| (found[1].into(), found[2].into())).collect()
}

/// The names of the constants in a piece of source.
pub fn named_in(source: &str) -> BTreeSet<String> {
    let names = names();
    all(r"case LLM_ARCH_([A-Z0-9_]+):", source)
        .iter()
        .map(|constant| names[constant].clone())
        .collect()
}

/// The architectures that a class of `src/models` runs, its subclasses' included.
pub fn run_by(class: &str) -> BTreeSet<String> {
    let header = read("models/models.h");
    let subclass = format!(r"struct llama_model_([a-z0-9_]+) : public llama_model_{class} ");
    let mut classes = all(&subclass, &header);
    classes.insert(class.to_owned());
    let (model, names) = (read("llama-model.cpp"), names());
    let of_class = |class: &String| {
        let pattern = format!(r"case LLM_ARCH_([A-Z0-9_]+):[ \n]*return new llama_model_{class}\(");
        all(&pattern, &model)
    };
    classes.iter().flat_map(of_class).map(|constant| names[&constant].clone()).collect()
}
