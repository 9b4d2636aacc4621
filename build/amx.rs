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
