//! Whether a value satisfies a schema, where those who check it may disagree.

/// Whether a value satisfies a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    No,
    /// Those who check it need not agree.
    Unknown,
    Yes,
}

impl Fit {
    pub(super) fn of(is_so: bool) -> Self {
        if is_so { Self::Yes } else { Self::No }
    }
}
