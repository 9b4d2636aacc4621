//! What is seen of the minutes in which llama.cpp is compiled: `scripts/with-progress`.

use std::fs::File;
use std::process::{Command, Output};

/// Runs the script with a shell's lines in place of cargo, and returns what it says and its status. In
/// them `$1` is a folder as CMake leaves it, and `saw TEXT` waits until the script has said so.
fn with_progress(instead_of_cargo: &str) -> (Output, String) {
    let target = tempfile::tempdir().unwrap();
    let build = target.path().join("release/build/llama-cpp-sys-2-0123/out/build");
    std::fs::create_dir_all(build.join("src")).unwrap();
    let commands = r#"[{"file": "a.c"},
        {"file": "b.c"},
        {"file": "c.c"},
        {"file": "d.c"}]"#;
    std::fs::write(build.join("compile_commands.json"), commands).unwrap();
    let said = target.path().join("said");
    // A minute: a bound against hanging.
    let saw = r#"saw() { for _ in $(seq 600); do grep -q "$1" "$said" && return; sleep 0.1; done; exit 99; }"#;
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/with-progress"))
        .args(["bash", "-c", &format!("said=$2\n{saw}\n{instead_of_cargo}"), "bash"])
        .args([&build, &said])
        .env("CARGO_TARGET_DIR", target.path())
        .stderr(File::create(&said).unwrap())
        .output()
        .unwrap();
    (output, std::fs::read_to_string(&said).unwrap())
}

#[test]
fn a_log_has_how_many_files_are_compiled() {
    let (output, said) = with_progress(
        "echo '   Compiling llama-cpp-sys-2 v0.0.0' >&2
        sleep 1.1; touch $1/src/a.c.o; saw '1 of 4'; touch $1/b.c.o $1/c.c.o; saw '3 of 4'
        echo 'warning: slow' >&2; echo 'the program itself'; exit 7",
    );
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert_eq!(output.stdout, b"the program itself\n");
    let lines: Vec<&str> = said.lines().collect();
    let [first, quarter, most, warning] = lines[..] else { panic!("{said}") };
    assert!(first.starts_with("Compiling llama.cpp"), "{said}");
    assert!(quarter.starts_with("llama.cpp: 1 of 4 files (25 %)"), "{said}");
    assert!(most.starts_with("llama.cpp: 3 of 4 files (75 %)"), "{said}");
    assert_eq!(warning, "warning: slow");
}

#[test]
fn nothing_is_said_where_nothing_is_compiled() {
    // An object of an earlier build.
    let (output, said) =
        with_progress("touch -t 200001010000 $1/a.c.o; sleep 1.5; echo '    Finished x' >&2");
    assert!(output.status.success() && said.is_empty(), "{said}");
}
