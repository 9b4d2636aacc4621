//! What a file is that was given as a model and is no GGUF file.

use thiserror::Error as ThisError;

/// What a file is that does not begin with `GGUF`, as far as its first bytes tell.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum ForeignFile {
    /// What `git clone` leaves of a large file where Git LFS is not installed.
    #[error(
        "it is a Git LFS pointer, a few lines that stand for the real file{}; fetch that with `git lfs pull`, or download it",
        of_size(*.bytes)
    )]
    LfsPointer {
        /// The real file's size.
        bytes: Option<u64>,
    },
    /// A download that went wrong.
    #[error(
        "it is a web page (`{beginning}`): the download gave that in place of the file, as where it needs a login; download the file itself"
    )]
    WebPage {
        /// Its first line.
        beginning: String,
    },
    /// The format of Hugging Face.
    #[error(
        "it is a safetensors file; convert its model with llama.cpp's convert_hf_to_gguf.py, or get it as GGUF"
    )]
    Safetensors,
    /// Also a checkpoint of `PyTorch`.
    #[error(
        "it is a zip archive, or a PyTorch checkpoint, which is one; unpack it, or convert the model with llama.cpp's convert_hf_to_gguf.py"
    )]
    Zip,
    /// Another archive or compressed file.
    #[error("it is packed ({format}); unpack it first")]
    Packed {
        /// Which format.
        format: &'static str,
    },
    /// The formats of llama.cpp before August 2023.
    #[error(
        "it is a GGML file, the format before GGUF, which the engine no longer reads; get the model as GGUF"
    )]
    Ggml,
    /// Room that was made for a download that was not finished.
    #[error("it begins with zeros, as a download does that was not finished; download it again")]
    Zeros,
    /// Something else that is known.
    #[error("it is {format}")]
    Known {
        /// What it is.
        format: &'static str,
    },
    /// Any other text.
    #[error("it is text, which begins `{beginning}`")]
    Text {
        /// Its first line, cut where it is long.
        beginning: String,
    },
    /// None of these.
    #[error("it begins with the bytes {beginning:02x?}, not with `GGUF`")]
    Other {
        /// Its first bytes.
        beginning: Vec<u8>,
    },
}

fn of_size(bytes: Option<u64>) -> String {
    bytes.map(|bytes| format!(" of {bytes} bytes")).unwrap_or_default()
}
