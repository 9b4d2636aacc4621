//! Compilers that drop stores to an AMX tile configuration are found out.

use std::path::Path;

#[path = "../../build/amx.rs"]
mod build_amx;

use build_amx::{REMEDY, Tiles, Verdict, is_on, tiles, verdict};

/// Clang believes no header that an instruction reads so little.
fn compiler() -> std::path::PathBuf {
    "g++".into()
}

fn judged(flags: &[&str]) -> Tiles {
    let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
    tiles(&compiler(), &flags)
}

/// A folder with an `immintrin.h` whose `_tile_loadconfig` is declared to read so many bytes.
fn declared_to_read(bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "struct read_by_processor {{ char bytes[{bytes}]; }};\n\
         inline void _tile_loadconfig(const void * config) {{\n\
             __asm__ volatile (\"ldtilecfg\\t%0\" :: \"m\" (*(const read_by_processor *) config));\n\
         }}\n"
    );
    std::fs::write(folder.path().join("immintrin.h"), text).unwrap();
    folder
}

/// Whichever GCC there is: the headers are what a compiler with and without the fault has.
#[test]
fn a_header_that_declares_too_few_bytes_is_found_out() {
    for (bytes, expected) in [(8, Tiles::Dropped), (64, Tiles::Kept)] {
        let folder = declared_to_read(bytes);
        let include = format!("-I{}", folder.path().display());
        for level in ["-O2", "-O3"] {
            let flags = [&include, level, "-mamx-tile", "-mamx-int8"];
            assert_eq!(judged(&flags), expected, "{bytes} bytes, {level}");
            assert_eq!(judged(&flags[..2]), Tiles::Absent);
        }
    }
    // Without optimisation nothing is dropped.
    let folder = declared_to_read(8);
    let include = format!("-I{}", folder.path().display());
    assert_eq!(judged(&[&include, "-O0", "-mamx-tile", "-mamx-int8"]), Tiles::Kept);
}

/// With its own header, whether it has the fault or not.
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

const LIST: &str = "
        ggml_add_cpu_backend_variant(zen4           SSE42 AVX AVX512_BF16)
        if (NOT MSVC)
            # MSVC doesn't support AMX
            ggml_add_cpu_backend_variant(sapphirerapids SSE42 AVX512_BF16 AMX_TILE AMX_INT8)
        endif()
";

/// The verdict on a build with these variables and a header that declares so many bytes.
fn verdict_on(bytes: usize, variables: &[(&str, &str)]) -> Verdict {
    let folder = declared_to_read(bytes);
    let include = format!("-I{}", folder.path().display());
    let compiler = compiler();
    let value = |name: &str| match name {
        "CMAKE_CXX_COMPILER" => compiler.to_str(),
        "CMAKE_CXX_FLAGS" => Some(include.as_str()),
        "CMAKE_BUILD_TYPE" => Some("Release"),
        "CMAKE_CXX_FLAGS_RELEASE" => Some("-O3 -DNDEBUG"),
        _ => variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| *value),
    };
    verdict(value, LIST)
}

#[test]
fn a_build_is_used_in_part_or_refused_where_its_compiler_breaks_amx() {
    let libraries = [("GGML_CPU_ALL_VARIANTS", "ON")];
    let found = verdict_on(8, &libraries);
    assert!(
        matches!(&found, Verdict::PassOver { variants, .. } if variants == &["sapphirerapids"]),
        "{found:?}"
    );
    assert_eq!(verdict_on(64, &libraries), Verdict::Usable);
    // Inside the program, or in all libraries alike.
    let inside = [("GGML_AMX_TILE", "ON"), ("GGML_AMX_INT8", "ON")];
    assert_eq!(verdict_on(8, &inside), Verdict::Refuse);
    assert_eq!(verdict_on(8, &[&libraries[..], &inside].concat()), Verdict::Refuse);
    assert_eq!(verdict_on(64, &inside), Verdict::Usable);
    assert_eq!(verdict_on(8, &[]), Verdict::Usable);
    // Where the compiler cannot be asked, what may be broken is not used, what must be there is.
    let none = |name: &str| match name {
        "CMAKE_CXX_COMPILER" => Some("/there/is/no/compiler"),
        "GGML_CPU_ALL_VARIANTS" => Some("ON"),
        _ => None,
    };
    assert!(matches!(verdict(none, LIST), Verdict::PassOver { .. }));
    assert_eq!(verdict(|name| none(name).filter(|value| !is_on(value)), LIST), Verdict::Usable);
    assert!(REMEDY.contains("-fno-tree-dse -fno-dse") && REMEDY.contains("clang++"));
}
