//! Whether a context can go back to an earlier token by itself.

/// What it takes to go back in a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewind {
    /// Nothing: every token's part can be removed.
    Free,
    /// A checkpoint, beyond a window. One behind a token is also one before it.
    Window,
    /// A checkpoint of just that place, since the state of a recurrent layer has no parts.
    Exact,
}
