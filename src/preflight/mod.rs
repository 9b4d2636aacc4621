//! Whether a readable file is a model for the engine, and what in it would bring the engine down.
//!
//! First what the file is for, and whether the engine knows its architecture. Then its details.
//! The engine checks much of a file itself, and its failed assertions on the calling thread become
//! errors. Checked here is what would end the process: sizes by which it divides, types for which
//! it has no code, memory out of proportion to the file, tensors that it uses but does not ask for;
//! what it would compute nonsense with: numbers that are none, weights that are not there; and what it
//! asks every file for, so that a plan says it too: keys, the vocabulary, where tensors lie, experts that are
//! whole. Everything else is left to the engine, so that no file is refused that it would run;
//! `MoeModelBuilder::dry_load` asks it.

mod architectures;
mod attention;
mod experts;
mod key_types;
mod keys;
mod names;
mod next_token;
mod numbers;
mod purpose;
mod recurrent;
mod required;
mod room;
pub mod tokenizers;
mod types;
mod vocabulary;
mod warnings;
mod whole;

pub use self::architectures::ARCHITECTURES;
use self::keys::Keys;
pub use self::purpose::purpose;
#[cfg(feature = "llama")]
pub(crate) use self::warnings::warnings_of_weights;
pub use self::warnings::{Warning, warnings};
use crate::error::{Error, ModelFault, Result};
use crate::gguf::GgufFile;

/// Refuses a file that is no model which writes text, that the engine does not know, or that it would not
/// survive. `MoeModelBuilder` does this by itself.
///
/// ```
/// use moe_offload::{GgufFile, preflight};
///
/// # use moe_offload_synth::{self as synth, SynthOptions};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("dbrx.gguf");
/// # synth::family("dbrx")?.build(&SynthOptions::tiny())?.save(&path, 1, |_| {})?;
/// let gguf = GgufFile::open(path)?;
/// preflight::check(&gguf)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::NotATextModel`] with what the file is for, [`Error::UnknownArchitecture`],
/// [`Error::UnsafeModel`] with the key or tensor, [`Error::UnfinishedFile`] for one whose end is zeros,
/// [`Error::MissingMetadata`] if it does not name its architecture; [`Error::Io`].
pub fn check(gguf: &GgufFile) -> Result<()> {
    if let Some(purpose) = purpose(gguf) {
        return Err(Error::NotATextModel { path: gguf.path().to_owned(), purpose });
    }
    architectures::check(gguf)?;
    let keys = Keys::new(gguf)?;
    let outcome = key_types::check(&keys)
        .and_then(|()| next_token::check(&keys))
        .and_then(|()| types::check(gguf))
        .and_then(|()| names::check(gguf))
        .and_then(|()| room::check(&keys))
        .and_then(|()| attention::check(&keys))
        .and_then(|()| experts::check(&keys))
        .and_then(|()| recurrent::check(&keys))
        .and_then(|()| numbers::check(&keys))
        .and_then(|()| required::check(&keys))
        .and_then(|()| whole::check(&keys))
        .and_then(|()| vocabulary::check(&keys));
    outcome.map_err(|fault| Error::UnsafeModel { path: gguf.path().to_owned(), fault })?;
    gguf.check_end()
}

/// What one check says.
type Checked = std::result::Result<(), ModelFault>;
