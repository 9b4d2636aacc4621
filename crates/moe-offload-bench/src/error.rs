//! What can go wrong while measuring.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error as ThisError;

/// Everything that can go wrong while measuring or reporting. `Debug` prints the message, as that of
/// [`Error`](moe_offload::Error) does.
#[derive(ThisError)]
#[non_exhaustive]
pub enum BenchError {
    /// The crate or the engine refused.
    #[error(transparent)]
    Model(#[from] moe_offload::Error),
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A protocol that cannot be run.
    #[error("this protocol cannot be run: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
    /// A name of a policy that is none.
    #[error("`{text}` is not a policy of the bench: {reason}")]
    PolicyName {
        /// The text.
        text: String,
        /// Why.
        reason: String,
    },
    /// A journal holds a line that is no record.
    #[error("`{}` line {line} is no record: {source}", path.display())]
    Record {
        /// The journal.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A journal belongs to another protocol, machine, build or model file.
    #[error(
        "`{}` was begun with another {what}; samples of both cannot be compared, so begin a new file",
        path.display()
    )]
    OtherRun {
        /// The journal.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A journal exists, and neither resuming nor replacing was asked for.
    #[error("`{}` exists; resume it, or name another file", path.display())]
    Exists {
        /// The journal.
        path: PathBuf,
    },
    /// A task could not be started or did not answer.
    #[error("the task `{task}` did not end as it should: {reason}")]
    Task {
        /// The task.
        task: String,
        /// What happened.
        reason: String,
    },
    /// Two journals whose figures must not be compared.
    #[error(
        "the two journals are not known to have the same {what}; compare runs of one protocol on one \
        machine"
    )]
    NotComparable {
        /// What differs, or is not noted in one of them.
        what: &'static str,
    },
    /// The model computed something that is no number.
    #[error("the model's logits are not all numbers")]
    NotANumber,
    /// The baseline's logits do not belong to this comparison.
    #[error("`{}` does not hold a baseline of this text and vocabulary", path.display())]
    OtherBaseline {
        /// The file.
        path: PathBuf,
    },
    /// A picture could not be drawn.
    #[error("cannot draw a picture: {reason}")]
    Picture {
        /// Why.
        reason: String,
    },
}

impl fmt::Debug for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Shorthand for results of the bench.
pub type BenchResult<T> = Result<T, BenchError>;
