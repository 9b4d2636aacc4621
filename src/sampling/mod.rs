//! How the next token is chosen: samplers as plain values, and the forms that an answer must have.

#[cfg(feature = "llama")]
mod samplers;
// Without the engine forms are only checked.
#[cfg_attr(not(feature = "llama"), allow(dead_code))]
pub(crate) mod structure;

#[cfg(feature = "llama")]
pub use self::samplers::{Dry, Mirostat, Sampling};
pub use self::structure::Structure;
