//! Giving out the tasks of a protocol.

use std::time::Instant;

use super::error::BenchResult;
use super::expected;
use super::journal::Journal;
use super::record::Record;
use super::task::Task;

/// How far a run is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Tasks that are done.
    pub done: usize,
    /// All tasks.
    pub all: usize,
    /// The next one; `None` at the end.
    pub next: Option<Task>,
}

/// Does what the journal lacks, in order. `execute` does one task, for instance by
/// [`measure`](super::measure()) in a child process; what it fails at is noted, and the run goes on.
///
/// What explicit policies have to put on the devices is computed here, not by whoever executes, so
/// that a policy that does nothing is found.
///
/// # Errors
/// What keeping the journal returns, and what `execute` returns for [`Task::Environment`].
pub fn run(
    journal: &mut Journal,
    mut execute: impl FnMut(&Task) -> BenchResult<Record>,
    mut on_progress: impl FnMut(&Progress),
) -> BenchResult<()> {
    let tasks = journal.protocol().tasks();
    let all = tasks.len();
    for (done, task) in tasks.iter().enumerate() {
        on_progress(&Progress { done, all, next: Some(task.clone()) });
        // The environment is looked at anew, so that a run is not resumed in another one.
        if journal.is_done(task) && *task != Task::Environment {
            continue;
        }
        let started = Instant::now();
        let outcome = execute(task);
        let task_seconds = started.elapsed().as_secs_f64();
        let record = match outcome {
            Err(error) if *task == Task::Environment => return Err(error),
            Err(error) => Record::Failed { task: task.clone(), reason: error.to_string() },
            Ok(Record::Speed(mut speed)) => {
                let protocol = journal.protocol();
                speed.expected = expected::weights(protocol, &speed.setting, &speed.devices)?;
                speed.task_seconds = task_seconds;
                Record::Speed(speed)
            }
            Ok(record) => record,
        };
        journal.add(record)?;
    }
    on_progress(&Progress { done: all, all, next: None });
    Ok(())
}
