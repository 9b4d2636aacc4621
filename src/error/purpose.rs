//! What a GGUF file is for that is no model which writes text.

use thiserror::Error as ThisError;

/// What a GGUF file is for, if it is no model that writes text.
///
/// Printed, it goes on after the file's name: "… is a projector, …".
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum FilePurpose {
    /// `general.type` is `mmproj`, or the architecture `clip`.
    #[error(
        "is a projector (general.type `mmproj`, architecture `clip`): it turns images or sound into what a text model reads; give the text model's own file"
    )]
    Projector,
    /// `general.type` is `adapter`.
    #[error(
        "is an adapter (general.type `adapter`, kind `{kind}`), which only changes another model; give that model, or merge the two with llama.cpp's llama-export-lora and give the result"
    )]
    Adapter {
        /// `lora`, `control vector` or what else the file says.
        kind: String,
    },
    /// `general.type` is `imatrix`.
    #[error(
        "is an importance matrix (general.type `imatrix`), which llama-quantize uses to choose how exactly weights are kept; give the model itself"
    )]
    ImportanceMatrix,
    /// A tokenizer without tensors.
    #[error("holds only a vocabulary and no weights; use the full model file instead")]
    Vocabulary,
    /// Neither a tokenizer nor tensors.
    #[error("holds no weights at all; copy or download it again, or give the model itself")]
    NoWeights,
    /// Diffusion over pixels.
    #[error(
        "is a model of images or video (architecture `{architecture}`), which writes no text; stable-diffusion.cpp or ComfyUI-GGUF run such files"
    )]
    Images {
        /// The architecture, or the beginning of its tensors' names where it has none.
        architecture: String,
    },
    /// Only layers that guess further tokens, or an architecture made of them.
    #[error(
        "is a draft head (architecture `{architecture}`): it guesses tokens ahead for its main model and has no layers to write text with by itself; give the main model's file"
    )]
    DraftHead {
        /// The architecture.
        architecture: String,
    },
    /// A text becomes a vector, or a score.
    #[error(
        "is a model for embeddings or ranking (architecture `{architecture}`{}), which writes no text; llama.cpp's llama-embedding runs it",
        said_by(.key.as_ref())
    )]
    Embeddings {
        /// The architecture.
        architecture: String,
        /// The metadata key that says so, where it is not the architecture by itself.
        key: Option<String>,
    },
    /// A text is made of noise, all tokens at once.
    #[error(
        "is a diffusion model (architecture `{architecture}`), which does not write one token after the other; llama.cpp's llama-diffusion-cli runs it"
    )]
    Diffusion {
        /// The architecture.
        architecture: String,
    },
    /// One half reads, the other writes.
    #[error(
        "is an encoder-decoder model (architecture `{architecture}`), which rewrites a text that it has read as a whole, as for translation, and goes on with no prompt; llama.cpp's llama-cli runs it"
    )]
    EncoderDecoder {
        /// The architecture.
        architecture: String,
    },
    /// Its tokens are sound.
    #[error(
        "is a part of a model for speech (architecture `{architecture}`), whose tokens are sound and no text; llama.cpp's llama-tts runs such models"
    )]
    Speech {
        /// The architecture.
        architecture: String,
    },
    /// It scores given answers.
    #[error(
        "is a model that decides between given answers (architecture `{architecture}`) and writes no text"
    )]
    Decisions {
        /// The architecture.
        architecture: String,
    },
}

fn said_by(key: Option<&String>) -> String {
    key.map(|key| format!(", by its `{key}`")).unwrap_or_default()
}
