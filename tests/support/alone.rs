//! Tests that need a process of their own. Those of one program are threads of one process, which share its
//! memory, its devices, and all that it prints.

use std::process::Command;

/// Set where a test has its own process.
const ALONE: &str = "MOE_OFFLOAD_TEST_ALONE";

/// Runs the test that calls this again, in a process of its own, and says that there is nothing more to do; in that
/// process it does nothing. For tests of what belongs to a process.
pub fn ran_alone() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    passes(this_test().env(ALONE, "1"));
    true
}

/// This test program, to run the test that calls this and no other.
pub fn this_test() -> Command {
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--include-ignored", "--nocapture"]);
    command
}

/// The one test passes; what it says is passed on.
pub fn passes(test: &mut Command) {
    let output = test.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{}", output.status);
}
