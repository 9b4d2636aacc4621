//! Model files in the shape of published ones, with random weights.
//!
//! Memory and speed depend on a model's shape, not on the values of its weights. So where a real
//! model cannot be had, one of the same architecture, tensor names, types, sizes and vocabulary
//! size serves to plan, load and measure. What such a model says is noise. [`GgufWriter`] writes any other
//! GGUF file. The example `synth` is the program.
//!
//! ```
//! use moe_offload_synth::{self as synth, SynthOptions};
//!
//! let model = synth::family("gpt-oss-20b")?.build(&SynthOptions::tiny())?;
//! let mut file = Vec::new();
//! model.write(&mut file)?;
//! assert!(file.len() < 2_000_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod blocks;
mod families;
mod family;
mod metadata;
mod model;
mod options;
mod random;
mod tensors;
mod tiny;
mod variant;
mod vocab;
mod weights;
mod writer;

pub use moe_offload::gguf::GgmlType;
use moe_offload::{Error, Result};

pub use self::family::{
    Attention, AttentionLayers, Experts, Family, Latent, Recurrent, RecurrentKind, Window,
};
pub use self::model::{SynthModel, paths};
pub use self::options::{Scale, SynthOptions};
pub use self::writer::{GgufWriter, WriteTensor, WriteValue};

/// All known families.
pub fn families() -> impl Iterator<Item = &'static Family> {
    families::ALL.iter().copied().flatten()
}

/// The family of this name.
///
/// # Errors
/// [`Error::InvalidOption`] if there is none.
pub fn family(name: &str) -> Result<&'static Family> {
    families().find(|family| family.name == name).ok_or_else(|| Error::InvalidOption {
        option: "the architecture",
        value: format!("`{name}`"),
        expected: "one of the names that `--list` shows, such as gpt-oss-20b",
    })
}
