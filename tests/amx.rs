//! Compilers that drop stores to an AMX tile configuration are found out.
#![cfg(all(target_arch = "x86_64", not(target_env = "msvc")))]
#![allow(missing_docs)]

use std::path::Path;

#[path = "../build/amx.rs"]
mod amx;

use amx::{Tiles, tiles};

fn compiler() -> std::path::PathBuf {
    std::env::var_os("CXX").unwrap_or_else(|| "c++".into()).into()
}

fn judged(flags: &[&str]) -> Tiles {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    tiles(&compiler(), &flags)
}

/// A folder with an `immintrin.h` whose `_tile_loadconfig` is declared to read so many bytes.
fn declared_to_read(bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "#define __AMX_TILE__ 1\n#define __AMX_INT8__ 1\n\
         struct read_by_processor {{ char bytes[{bytes}]; }};\n\
         inline void _tile_loadconfig(const void * config) {{\n\
             __asm__ volatile (\"ldtilecfg\\t%0\" :: \"m\" (*(const read_by_processor *) config));\n\
         }}\n"
    );
    std::fs::write(folder.path().join("immintrin.h"), text).unwrap();
    folder
}

/// Whatever compiler there is: the headers are what a compiler with and without the fault has.
#[test]
fn a_header_that_declares_too_few_bytes_is_found_out() {
    for (bytes, expected) in [(8, Tiles::Dropped), (64, Tiles::Kept)] {
        let folder = declared_to_read(bytes);
        let include = format!("-I{}", folder.path().display());
        for level in ["-O2", "-O3"] {
            assert_eq!(judged(&[&include, level]), expected, "{bytes} bytes, {level}");
        }
    }
    // Without optimisation nothing is dropped.
    let folder = declared_to_read(8);
    assert_eq!(judged(&[&format!("-I{}", folder.path().display()), "-O0"]), Tiles::Kept);
}

/// The installed compiler: with its own header, the answer is that of a search of the header.
#[test]
fn the_installed_compiler_is_judged_by_its_own_header() {
    let amx = ["-O3", "-DNDEBUG", "-fPIC", "-march=x86-64", "-mamx-tile", "-mamx-int8"];
    assert_eq!(judged(&amx[..4]), Tiles::Absent);
    let found = judged(&amx);
    assert!(matches!(found, Tiles::Kept | Tiles::Dropped), "{found:?}");
    // Debug information names the flags, which is no difference.
    assert_eq!(judged(&[&amx[..], &["-g"]].concat()), found);
    // What cures the fault is seen.
    if found == Tiles::Dropped {
        assert_eq!(judged(&[&amx[..], &["-fno-tree-dse", "-fno-dse"]].concat()), Tiles::Kept);
        assert_eq!(judged(&[&amx[..], &["-fno-tree-dse"]].concat()), Tiles::Dropped);
    }
}

#[test]
fn what_cannot_be_asked_is_unknown() {
    let nothing = tiles(Path::new("/there/is/no/compiler"), &[]);
    assert!(matches!(&nothing, Tiles::Unknown(why) if why.contains("no/compiler")), "{nothing:?}");
    let refused = judged(&["-mno-such-option"]);
    assert!(
        matches!(&refused, Tiles::Unknown(why) if why.contains("no-such-option")),
        "{refused:?}"
    );
}
