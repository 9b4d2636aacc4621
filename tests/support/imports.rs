//! The paths that Rust source names, read as text: imports behind every feature count, those of tests and of
//! documentation do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

pub(crate) type Module = Vec<String>;

/// What is of interest in a file.
#[derive(Clone)]
pub(crate) struct File {
    module: Module,
    /// What it names, from the root on, without tests and what is for documentation.
    paths: Vec<Module>,
    /// Modules in files of their own that are only there for tests.
    tests: Vec<Module>,
}

impl File {
    /// Of a path below `src`, and its text.
    pub(crate) fn of(path: &str, text: &str) -> Self {
        let mut module: Module = path.trim_end_matches(".rs").split('/').map(Into::into).collect();
        module.pop_if(|last| *last == "mod" || *last == "lib");
        let (tokens, tests) = without_tests(&tokens(text));
        let tests = tests.into_iter().map(|name| [&module[..], &[name]].concat()).collect();
        let paths = paths(&tokens).into_iter().map(|path| absolute(&module, path)).collect();
        Self { module, paths, tests }
    }
}

/// Every module with the paths that it names.
pub(crate) struct Tree(pub(crate) BTreeMap<Module, Vec<Module>>);

impl Tree {
    pub(crate) fn of(files: Vec<File>) -> Self {
        let tests: Vec<Module> = files.iter().flat_map(|file| file.tests.clone()).collect();
        let is_test = |file: &File| tests.iter().any(|test| file.module.starts_with(test));
        let files = files.into_iter().filter(|file| !is_test(file));
        Self(files.map(|file| (file.module, file.paths)).collect())
    }

    /// The module in which the last name of a path is defined, through re-exports.
    pub(crate) fn place(&self, path: &[String], depth: usize) -> Module {
        let known = (0..=path.len()).rev().find(|&n| self.0.contains_key(&path[..n])).unwrap_or(0);
        let (module, rest) = path.split_at(known);
        let Some(name) = rest.first().filter(|_| depth < 9) else { return module.to_vec() };
        let named = self.0.get(module).into_iter().flatten();
        let mut named = named.filter(|named| named.last() == Some(name) && **named != path);
        named.next().map_or(module.to_vec(), |path| self.place(path, depth + 1))
    }
}

/// Names, `::` and single characters, without comments, strings and lifetimes.
fn tokens(text: &str) -> Vec<String> {
    const PATTERN: &str = concat!(
        r###"//[^\n]*|(?s:/\*.*?\*/)|(?s:[bc]?r"[^"]*"|[bc]?r#".*?"#|[bc]?r##".*?"##)"###,
        r###"|[bc]?"(?s:\\.|[^"\\])*"|b?'(?:\\[^']+|\\'|[^'\\])'|'\w+|(\w+|::|\S)"###
    );
    static TOKEN: LazyLock<Regex> = LazyLock::new(|| Regex::new(PATTERN).unwrap());
    TOKEN.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str().to_owned())).collect()
}

/// The tokens without what is only there for tests or documentation, and the names of such modules.
fn without_tests(all: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < all.len() {
        let starts =
            |with: &str| with.split(' ').eq(all[at..].iter().take(with.split(' ').count()));
        let conditions = ["# [ cfg ( test )", "# [ cfg ( all ( test", "# [ cfg ( doc )"];
        if all[at] != "#" || !conditions.into_iter().any(starts) {
            kept.push(all[at].clone());
            at += 1;
            continue;
        }
        let end = |from: usize, to: &[&str]| {
            let mut depth = 0;
            (from..all.len()).find(|&i| {
                depth += i32::from(["(", "[", "{"].contains(&&*all[i]));
                depth -= i32::from([")", "]", "}"].contains(&&*all[i]));
                depth == 0 && to.contains(&&*all[i])
            })
        };
        let mut item = at;
        while all[item] == "#" {
            item = end(item, &["]"]).unwrap() + 1;
        }
        let keyword = (item..all.len()).find(|&i| ["mod", "use", "fn"].contains(&&*all[i]));
        let stops: &[&str] =
            if keyword.is_some_and(|i| all[i] == "use") { &[";"] } else { &[";", "}"] };
        at = end(item, stops).unwrap() + 1;
        modules.extend(keyword.filter(|&i| i < at && all[i] == "mod").map(|i| all[i + 1].clone()));
    }
    (kept, modules)
}

/// All paths that begin with `crate`, `self` or `super`, each name of a group by itself.
fn paths(tokens: &[String]) -> Vec<Module> {
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        let begins = ["crate", "self", "super"].contains(&&*tokens[at]) && tokens[at + 1] == "::";
        if begins && (at == 0 || tokens[at - 1] != "::") {
            branch(tokens, at, &[], &mut found);
        }
    }
    found
}

/// One branch of a path; returns where it ends.
fn branch(tokens: &[String], mut at: usize, before: &[String], found: &mut Vec<Module>) -> usize {
    let mut path = before.to_vec();
    while tokens[at] != "{" && tokens[at] != "<" {
        path.push(tokens[at].clone());
        at += 1;
        if tokens[at] != "::" {
            found.push(path);
            return if tokens[at] == "as" { at + 2 } else { at };
        }
        at += 1;
    }
    if tokens[at] == "<" {
        found.push(path);
        return at;
    }
    at += 1;
    while tokens[at] != "}" {
        at = if tokens[at] == "," { at + 1 } else { branch(tokens, at, &path, found) };
    }
    at + 1
}

fn absolute(module: &[String], path: Module) -> Module {
    let mut base = if path[0] == "crate" { Vec::new() } else { module.to_vec() };
    for name in path {
        match &*name {
            "super" => drop(base.pop()),
            "crate" | "self" | "*" => {}
            _ => base.push(name),
        }
    }
    base
}

/// All Rust files of a folder: their paths below it, and texts.
pub(crate) fn read(folder: &Path, below: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            files.extend(read(&entry.path(), &format!("{name}/")));
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            files.push((name, fs::read_to_string(entry.path()).unwrap()));
        }
    }
    files
}
