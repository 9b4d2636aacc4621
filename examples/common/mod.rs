//! What the examples have in common: one clear line and status 1 for every error.

use std::fmt::Display;

use clap::Parser;

/// The command line, or one line on standard error and status 1.
pub(crate) fn arguments<A: Parser>() -> A {
    A::try_parse().unwrap_or_else(|error| {
        if error.use_stderr() {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            // Lists of what is missing come on lines of their own.
            let rest = text.lines().skip(1).take_while(|line| line.starts_with("  "));
            let rest: Vec<&str> = rest.map(str::trim).collect();
            let line = format!("{line} {}", rest.join(" "));
            fail(&format!("{}; see --help", line.trim_start_matches("error: ").trim_end()));
        }
        error.exit()
    })
}

/// Ends the program with one line on standard error and status 1.
pub(crate) fn fail(error: &dyn Display) -> ! {
    fail_with(1, error)
}

/// The same with another status.
pub(crate) fn fail_with(status: i32, error: &dyn Display) -> ! {
    use std::io::Write;
    // With standard error closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {}", error.to_string().replace('\n', " "));
    std::process::exit(status);
}

/// What is left of an error in writing output: none if the reader went away (`… | head`).
#[allow(dead_code)] // not every example prints much
pub(crate) fn unless_closed(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    })
}
