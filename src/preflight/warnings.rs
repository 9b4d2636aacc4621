//! What is more likely a mistake than meant, though the engine runs it.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Result, escaped};
use crate::gguf::{GgufFile, Value};

/// A model or setting that runs, and is probably not what somebody wanted. `MoeModel::warnings` has those of a
/// loaded model; print them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// The context is longer than what the model was trained for.
    LongContext {
        /// Tokens of the context.
        context_tokens: u32,
        /// Tokens of the training, as the file says.
        trained_tokens: u64,
    },
    /// Parts of the file were never written, as where room is made for a download that does not end. Known on
    /// Linux, where the file system tells.
    NeverWritten {
        /// The file.
        path: PathBuf,
        /// Bytes of the first gap.
        bytes: u64,
        /// Where it begins, from the file's beginning.
        at: u64,
        /// The first tensor of which something is missing.
        tensor: String,
    },
    /// The chat template writes a marker that the vocabulary does not have as one token, as where it is of another
    /// model, or the token's type is wrong.
    SplitMarker {
        /// Such as `<|im_start|>`.
        marker: String,
        /// Into how many tokens it is split.
        tokens: usize,
    },
    /// Matrices and norms that hold only zeros at their beginning, in their middle and at their end.
    ZeroTensors {
        /// The first of them.
        tensor: String,
        /// How many there are.
        count: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongContext { context_tokens, trained_tokens } => write!(
                f,
                "the model was trained for {trained_tokens} tokens; in a context of {context_tokens} what comes after \
                 them may make no sense"
            ),
            Self::NeverWritten { path, bytes, at, tensor } => write!(
                f,
                "`{}` was not written whole: {bytes} bytes are missing from byte {at} on, in tensor `{}`; unless it is \
                 a copy that leaves zeros out, download it again, or let the download go on",
                path.display(),
                escaped(tensor)
            ),
            Self::SplitMarker { marker, tokens } => write!(
                f,
                "the chat template writes `{}`, which the model reads as {tokens} tokens of plain text: the template or \
                 the vocabulary is another model's, or the token's type in the file is wrong",
                escaped(marker)
            ),
            Self::ZeroTensors { tensor, count } => {
                let tensor = escaped(tensor);
                let which = match count {
                    0 | 1 => format!("tensor `{tensor}` holds"),
                    2 => format!("tensor `{tensor}` and another one hold"),
                    _ => format!("tensor `{tensor}` and {} others hold", count - 1),
                };
                write!(
                    f,
                    "{which} only zeros, as far as was sampled; unless the model is made so, a part of the file is \
                     missing: compare it with its source"
                )
            }
        }
    }
}

/// What a file and a context of so many tokens give reason to doubt, without looking at the weights.
///
/// ```
/// use moe_offload::GgufFile;
/// use moe_offload::preflight::{self, Warning};
///
/// # use moe_offload_synth::{self as synth, SynthOptions};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("dbrx.gguf");
/// # synth::family("dbrx")?.build(&SynthOptions::tiny())?.save(&path, 1, |_| {})?;
/// let gguf = GgufFile::open(path)?;
/// assert!(preflight::warnings(&gguf, 128)?.is_empty());
/// let warnings = preflight::warnings(&gguf, 1 << 20)?;
/// assert!(matches!(warnings[..], [Warning::LongContext { .. }]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if the file cannot be opened any more.
pub fn warnings(gguf: &GgufFile, context_tokens: u32) -> Result<Vec<Warning>> {
    let trained = gguf.hyper_parameter("context_length").and_then(Value::as_u64);
    let long = trained
        .filter(|&trained| u64::from(context_tokens) > trained)
        .map(|trained_tokens| Warning::LongContext { context_tokens, trained_tokens });
    let gaps = gguf.gaps()?.into_iter().map(|gap| Warning::NeverWritten {
        path: gap.path.to_owned(),
        bytes: gap.bytes.end - gap.bytes.start,
        at: gap.bytes.start,
        tensor: gap.tensor.to_owned(),
    });
    Ok(long.into_iter().chain(gaps).collect())
}

/// The same with a look at the weights, for a file that is loaded: a page of each matrix, and all norms, are read.
#[cfg(feature = "llama")]
pub(crate) fn warnings_of_weights(gguf: &GgufFile, context_tokens: u32) -> Result<Vec<Warning>> {
    let mut warnings = warnings(gguf, context_tokens)?;
    let zeros = gguf.zero_tensors()?;
    if let Some(first) = zeros.first() {
        let tensor = first.name.clone();
        warnings.push(Warning::ZeroTensors { tensor, count: zeros.len() });
    }
    Ok(warnings)
}
