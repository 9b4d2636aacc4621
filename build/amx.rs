//! Whether a compiler keeps the stores that fill an AMX tile configuration.
//!
//! Some declare `_tile_loadconfig` to read 8 bytes of the 64 that the processor reads, and then drop
//! the stores to the others as dead: the first use of the tiles is an illegal instruction. No list
//! of versions says which do, so a few lines are compiled and what comes out is looked at. Nothing
//! is run, so that this holds for cross compilers, too.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const PROBE: &str = include_str!("amx_probe.cpp");

/// What a compiler does with a tile configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tiles {
    /// With these flags it makes no AMX code.
    Absent,
    /// The processor reads what was stored.
    Kept,
    /// Stores are missing.
    Dropped,
    /// It could not be asked; the reason is its own.
    Unknown(String),
}

/// What a person can do about a compiler that drops stores.
pub(crate) const REMEDY: &str = "To keep AMX, use a compiler that keeps them (such as Clang 16: CXX = \
    \"clang++\" and CC = \"clang\") or, with GCC, CXXFLAGS = \"-fno-tree-dse -fno-dse\" and the same in \
    CFLAGS, under [env] in your .cargo/config.toml, and run `cargo clean -p llama-cpp-sys-2`";

/// What is to be done about the AMX code of a build.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is none, or it works.
    Usable,
    /// These variants of the CPU backend must not be used.
    PassOver { variants: Vec<String>, why: String },
    /// The program itself has it, and it does not work.
    Refuse,
}

/// Judges a build by the variables in CMake's cache and ggml's list of variants (its
/// `src/CMakeLists.txt`).
pub(crate) fn verdict<'a>(value: impl Fn(&str) -> Option<&'a str>, list: &str) -> Verdict {
    const TILES: [(&str, &str); 2] =
        [("GGML_AMX_TILE", "-mamx-tile"), ("GGML_AMX_INT8", "-mamx-int8")];
    let is_on = |option| value(option).is_some_and(is_on);
    let compiler = Path::new(value("CMAKE_CXX_COMPILER").unwrap_or("c++"));
    let native = ("GGML_NATIVE", "-march=native");
    let for_all = [native, TILES[0], TILES[1]].into_iter().filter(|(option, _)| is_on(option));
    let mut flags = flags(&value);
    flags.extend(for_all.map(|(_, flag)| flag.to_owned()));
    match tiles(compiler, &flags) {
        Tiles::Dropped => return Verdict::Refuse,
        Tiles::Kept => return Verdict::Usable,
        Tiles::Absent | Tiles::Unknown(_) => {}
    }
    let variants =
        if is_on("GGML_CPU_ALL_VARIANTS") { variants_with_tiles(list) } else { Vec::new() };
    if variants.is_empty() {
        return Verdict::Usable;
    }
    flags.extend(TILES.map(|(_, flag)| flag.to_owned()));
    let why = match tiles(compiler, &flags) {
        Tiles::Absent | Tiles::Kept => return Verdict::Usable,
        Tiles::Dropped => "the compiler drops the stores that set AMX up".to_owned(),
        Tiles::Unknown(why) => format!("the compiler could not be asked about it ({why})"),
    };
    Verdict::PassOver { variants, why }
}

/// Whether CMake takes a value for true.
pub(crate) fn is_on(value: &str) -> bool {
    ["ON", "1", "TRUE", "YES"].contains(&value.to_uppercase().as_str())
}

/// The flags that CMake gives the compiler for all C++ code of ggml.
fn flags<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    let build_type = value("CMAKE_BUILD_TYPE").unwrap_or_default().to_uppercase();
    let lists = ["CMAKE_CXX_FLAGS".to_owned(), format!("CMAKE_CXX_FLAGS_{build_type}")];
    let flags = lists.iter().filter_map(|list| value(list)).flat_map(str::split_whitespace);
    flags.chain(["-std=gnu++17"]).map(str::to_owned).collect()
}

/// The variants of the CPU backend that have AMX code, as ggml's own build file lists them.
fn variants_with_tiles(list: &str) -> Vec<String> {
    let lines = list.lines().filter(|line| line.contains("AMX_TILE"));
    let names = lines.filter_map(|line| {
        line.trim().strip_prefix("ggml_add_cpu_backend_variant(")?.split_whitespace().next()
    });
    names.map(str::to_owned).collect()
}

/// Asks `compiler`, which takes its arguments as GCC and Clang do, how it treats tiles when called
/// with `flags`.
pub(crate) fn tiles(compiler: &Path, flags: &[String]) -> Tiles {
    match judge(compiler, flags) {
        Ok(tiles) => tiles,
        Err(reason) => Tiles::Unknown(reason),
    }
}

fn judge(compiler: &Path, flags: &[String]) -> Result<Tiles, String> {
    let plain = assembly(compiler, flags, 32, 8)?;
    if plain.contains("moe_without_tiles") {
        return Ok(Tiles::Absent);
    }
    // A value that makes no difference to what is compiled was not stored.
    let kept =
        plain != assembly(compiler, flags, 48, 8)? && plain != assembly(compiler, flags, 32, 16)?;
    Ok(if kept { Tiles::Kept } else { Tiles::Dropped })
}

/// The assembly of the probe, which says nothing of how the compiler was called.
fn assembly(compiler: &Path, flags: &[String], first: u8, last: u8) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", compiler.display());
    let mut child = Command::new(compiler)
        .args(flags)
        .args(["-w", "-g0", "-fno-lto", "-x", "c++", "-S", "-o", "-"])
        .args([format!("-DFIRST={first}"), format!("-DLAST={last}"), "-".to_owned()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // A compiler that does not read the text says why when it ends.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(PROBE.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let line = words.lines().find(|line| line.contains("error")).or(words.lines().next());
    Err(format!("{}: {}", compiler.display(), line.unwrap_or("it failed without a word")))
}
