//! What a readable header may still hold that would bring the engine down.
//!
//! The engine checks much of a file itself, and its failed assertions on the calling thread become
//! errors. Checked here is what would end the process: sizes by which it divides, types for which
//! it has no code, memory out of proportion to the file, tensors that it uses but does not ask for.
//! Everything else is left to the engine, so that no file is refused that it would run.

mod attention;
mod experts;
mod keys;
mod names;
mod norms;
mod recurrent;
mod required;
mod room;
mod types;
mod vocabulary;

use self::keys::Keys;
use crate::error::{Error, ModelFault, Result};
use crate::gguf::GgufFile;

/// Refuses a file that the engine would not survive. `MoeModelBuilder`
/// does this by itself.
///
/// ```
/// use moe_offload::synth::{self, SynthOptions};
/// use moe_offload::{GgufFile, preflight};
///
/// let mut file = Vec::new();
/// synth::family("dbrx")?.build(&SynthOptions::tiny())?.write(&mut file)?;
/// let gguf = GgufFile::read(&file[..], file.len() as u64, "dbrx.gguf")?;
/// preflight::check(&gguf)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::UnsafeModel`] with the key or tensor, [`Error::MissingMetadata`] if the file does not
/// name its architecture.
pub fn check(gguf: &GgufFile) -> Result<()> {
    let keys = Keys::new(gguf)?;
    let outcome = types::check(gguf)
        .and_then(|()| names::check(gguf))
        .and_then(|()| room::check(&keys))
        .and_then(|()| attention::check(&keys))
        .and_then(|()| experts::check(&keys))
        .and_then(|()| recurrent::check(&keys))
        .and_then(|()| norms::check(&keys))
        .and_then(|()| vocabulary::check(&keys))
        .and_then(|()| required::check(&keys));
    outcome.map_err(|fault| Error::UnsafeModel { path: gguf.path().to_owned(), fault })
}

/// What one check says.
type Checked = std::result::Result<(), ModelFault>;
