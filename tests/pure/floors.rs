//! The floors of `src`: which module may import from which, and that none import each other in a circle.
//! The source is read as text, so that imports behind every feature count.

#[path = "../support/imports.rs"]
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use self::imports::{File, Module, Tree, read};

/// The modules of `src`, the lowest floor first. Each may import from floors below its own.
const FLOORS: [&[&str]; 12] = [
    &["units", "device"],
    &["error"],
    &["context", "limits"],
    &["gguf"],
    &["experts"],
    &["preflight", "policy"],
    &["plan"],
    &["paging", "chat", "sampling"],
    &["engine"],
    &["model"],
    &["load", "generate"],
    &["tune"],
];

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Who imports whom among the modules of each parent. What a parent holds is open to its children.
fn neighbours(tree: &Tree) -> BTreeMap<Module, Graph> {
    let mut all: BTreeMap<Module, Graph> = BTreeMap::new();
    for (module, paths) in &tree.0 {
        for path in paths {
            let place = tree.place(path, 0);
            let common = std::iter::zip(module, &place).take_while(|(a, b)| a == b).count();
            if let (Some(from), Some(to)) = (module.get(common), place.get(common)) {
                let graph = all.entry(module[..common].to_vec()).or_default();
                graph.entry(from.clone()).or_default().insert(to.clone());
            }
        }
    }
    all
}

/// What is wrong with a tree.
fn faults(tree: &Tree) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().position(|floor| floor.contains(&name));
    let mut faults = Vec::new();
    // The root only passes on what rooms have; what comes of it is not to be seen from here.
    for (module, paths) in tree.0.iter().filter(|(module, _)| !module.is_empty()) {
        let of_root = paths.iter().filter(|path| tree.place(path, 0).is_empty());
        faults.extend(
            of_root.map(|path| format!("{} takes {} from the root", module[0], path.join("::"))),
        );
    }
    for (parent, graph) in neighbours(tree) {
        for (from, to) in graph.iter().filter(|_| parent.is_empty()) {
            let is_below =
                |to: &str| floor(to).zip(floor(from)).is_some_and(|(to, from)| to < from);
            let above = to.iter().filter(|to| !is_below(to));
            faults.extend(above.map(|to| format!("{from} imports {to}")));
        }
        let found = circle(graph);
        faults.extend(
            found.map(|circle| {
                format!("a circle in `{}`: {}", parent.join("::"), circle.join(", "))
            }),
        );
    }
    faults
}

/// A circle, in the order in which its modules import each other.
fn circle(mut graph: Graph) -> Option<Vec<String>> {
    // What imports nothing that is left is in none.
    let leads = |to: &BTreeSet<String>, graph: &Graph| {
        to.iter().find(|to| graph.contains_key(*to)).cloned()
    };
    while let Some((name, _)) = graph.iter().find(|(_, to)| leads(to, &graph).is_none()) {
        graph.remove(&name.clone());
    }
    let mut way = vec![graph.keys().next()?.clone()];
    loop {
        let next = leads(&graph[way.last()?], &graph)?;
        if let Some(start) = way.iter().position(|name| *name == next) {
            return Some(way.split_off(start));
        }
        way.push(next);
    }
}

/// The real source: path, text and what was found in it.
static SOURCE: LazyLock<Vec<(String, String, File)>> = LazyLock::new(|| {
    let files = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "");
    let found = |(path, text): (String, String)| {
        let file = File::of(&path, &text);
        (path, text, file)
    };
    files.into_iter().map(found).collect()
});

/// The real source with more text before that of some files.
fn source_with(planted: &[(&str, &str)]) -> Tree {
    let file = |(path, text, file): &(String, String, File)| {
        let more = planted.iter().find(|(at, _)| at == path);
        more.map_or(file.clone(), |(_, more)| File::of(path, &format!("{more}\n{text}")))
    };
    Tree::of(SOURCE.iter().map(file).collect())
}

fn faults_with(planted: &[(&str, &str)]) -> Vec<String> {
    faults(&source_with(planted))
}

#[test]
fn every_import_goes_down_and_nothing_goes_round() {
    assert_eq!(faults_with(&[]), [""; 0]);
}

#[test]
fn the_reader_sees_what_is_there() {
    let tree = source_with(&[]);
    let modules: BTreeSet<&str> =
        tree.0.keys().filter_map(|module| Some(&**module.first()?)).collect();
    assert_eq!(modules, FLOORS.concat().into_iter().collect());
    let all = neighbours(&tree);
    assert!(all[&Module::new()]["load"].contains("engine"));
    let design = fs::read_to_string("docs/design.md").unwrap();
    for floor in FLOORS {
        let row = format!("| `{}` |", floor.join("`, `"));
        assert!(design.contains(&row), "docs/design.md has no row {row}");
    }
}

#[test]
fn planted_imports_of_a_higher_floor_are_found() {
    for planted in [
        "use crate::plan::Plan;",
        "pub(crate) use crate::{\n    error::Error,\n    plan::{self as p, Plan},\n};",
        "fn f() { let _ = crate::plan::solve::<u8>; }",
        "use crate::Plan;",
        "use super::plan;",
        "/* it's */ type P = super::plan::Plan; // \"",
        "#[cfg(any(feature = \"llama\", test))]\nuse crate::plan::Plan;",
    ] {
        let faults = faults_with(&[("units/mod.rs", planted)]);
        assert!(faults.contains(&"units imports plan".to_owned()), "{planted}: {faults:?}");
    }
    let faults = faults_with(&[("units/mod.rs", "use crate::memory::Verification;")]);
    assert_eq!(faults, ["units takes memory::Verification from the root"]);
    let faults = faults_with(&[("load/trial.rs", "use crate::generate::Generation;")]);
    assert_eq!(faults, ["load imports generate"], "of the same floor");
    let faults = faults_with(&[("chat/jinja.rs", "use super::super::engine::Context;")]);
    assert_eq!(faults.first().map(String::as_str), Some("chat imports engine"));
}

#[test]
fn planted_circles_are_found() {
    let faults = faults_with(&[("units/mod.rs", "use crate::error::Error;")]);
    assert!(faults.contains(&"a circle in ``: error, units".to_owned()), "{faults:?}");
    let faults = faults_with(&[
        ("policy/layers.rs", "use super::fit::Fit;"),
        ("policy/fit.rs", "use super::LayerSet;"),
    ]);
    assert_eq!(faults, ["a circle in `policy`: fit, layers"], "through a re-export");
    let faults = faults_with(&[("engine/rpc/link.rs", "use crate::engine::weights::Weights;")]);
    assert!(faults[0].contains("a circle in `engine`: "), "{faults:?}");
}

#[test]
fn what_is_no_import_is_none() {
    for planted in [
        "// use crate::plan::Plan;\n/* crate::plan::Plan */ /// [`crate::plan::Plan`]",
        "const A: &str = \"crate::plan::Plan\"; const B: &str = r#\"\"crate::plan::Plan\"#; const C: char = '\"';",
        "#[cfg(doc)]\nuse crate::plan::{Plan, Picture};",
        "#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::plan::Plan; fn f() {} }",
        "#[cfg(all(test, feature = \"llama\"))]\npub(crate) fn f() -> crate::plan::Plan { g() }",
        "#[cfg(test)]\nmod ggml_type;",
    ] {
        let of_type = (
            "units/ggml_type.rs",
            if planted.ends_with("type;") { "use crate::plan::Plan;" } else { "" },
        );
        assert_eq!(faults_with(&[("units/mod.rs", planted), of_type]), [""; 0], "{planted}");
    }
}
