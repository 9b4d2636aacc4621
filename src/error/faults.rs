//! What exactly is wrong with a header, a policy or a flag.

use thiserror::Error as ThisError;

use crate::units::GgmlType;

/// What is wrong with a GGUF header.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what each field is
pub enum GgufFault {
    #[error("it is big-endian; convert it with llama.cpp's gguf_convert_endian.py")]
    BigEndian,
    #[error("version {version} of the format is not supported, only 2 and 3")]
    UnsupportedVersion { version: u32 },
    #[error("{count} tensors, more than {max}")]
    TooManyTensors { count: u64, max: u64 },
    #[error("{count} metadata pairs, more than {max}")]
    TooMuchMetadata { count: u64, max: u64 },
    #[error("the header is larger than {max} bytes")]
    HeaderTooLarge { max: u64 },
    #[error("{what} has {bytes} bytes, more than {max}")]
    StringTooLong { what: &'static str, bytes: u64, max: u64 },
    #[error("{what} is not UTF-8")]
    InvalidUtf8 { what: &'static str },
    #[error("{what} is empty")]
    EmptyName { what: &'static str },
    #[error("the metadata key `{key}` occurs twice")]
    DuplicateKey { key: String },
    #[error("the metadata `{key}` has the unknown type {id}")]
    UnknownValueType { key: String, id: u32 },
    #[error("the metadata `{key}` is an array of arrays, which the engine does not read")]
    NestedArray { key: String },
    #[error("the array `{key}` claims {len} elements")]
    ArrayTooLong { key: String, len: u64 },
    #[error("general.alignment is {value}; it must be a power of two, at most 1 GiB")]
    BadAlignment { value: String },
    #[error("the tensor name `{tensor}` occurs twice")]
    DuplicateTensor { tensor: String },
    #[error("tensor `{tensor}` has {dimensions} dimensions, more than 4")]
    BadDimensions { tensor: String, dimensions: u32 },
    #[error("tensor `{tensor}` has the type {id}, which the pinned engine does not know")]
    UnknownTensorType { tensor: String, id: u32 },
    #[error("tensor `{tensor}` of type {ggml_type} has the impossible shape {shape:?}")]
    BadShape { tensor: String, shape: Vec<u64>, ggml_type: GgmlType },
    #[error("tensor `{tensor}` starts at {data_offset}, not a multiple of {alignment}")]
    Misaligned { tensor: String, data_offset: u64, alignment: u64 },
    #[error("the data of tensors `{tensor}` and `{other}` overlap")]
    Overlap { tensor: String, other: String },
    #[error("the files of the model together have more than {max} bytes of tensors")]
    ModelTooLarge { max: u64 },
}

/// What in a readable file the engine would not survive, or compute wrongly with.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say what each field is
pub enum ModelFault {
    #[error("tensor `{tensor}` is of type {ggml_type}, but the engine needs {expected} there")]
    TensorType { tensor: String, ggml_type: GgmlType, expected: &'static str },
    #[error("the tensors have {count} different names besides their layers, more than {max}")]
    TooManyNames { count: usize, max: usize },
    #[error("there is no tensor `{tensor}`, which `{needed_by}` needs beside it")]
    MissingTensor { tensor: String, needed_by: String },
    #[error(
        "layer {layer} has no tensor `{tensor}`, though layer {other} has one; the engine would compute without it"
    )]
    MissingInLayer { tensor: String, layer: u64, other: u64 },
    #[error("`{key}` is 0 or missing, and the engine divides by it")]
    Zero { key: String },
    #[error("`{key}` comes to {value}, but the file's tensors allow no more than {limit}")]
    TooLarge { key: String, value: u64, limit: u64 },
    #[error("`{key}` is {value}, but the engine has room for no more than {most}")]
    NoRoom { key: String, value: u64, most: u64 },
    #[error("`{key}` is {value}, but must be even")]
    Odd { key: String, value: u64 },
    #[error(
        "`{key}` is {value}, but must be {expected}; with it the engine would compute nonsense"
    )]
    BadNumber { key: String, value: String, expected: &'static str },
    #[error(
        "tensor `{tensor}` holds a weight that is {value}; with it the engine would compute nonsense"
    )]
    BadWeight { tensor: String, value: String },
    #[error("`{key}` is {value}, no multiple of `{divisor_key}`, which is {divisor}")]
    NotDivisible { key: String, value: u64, divisor_key: String, divisor: u64 },
    #[error("`{key}` is {value} of {layers} layers, which leaves none to write text with")]
    NoLayersLeft { key: String, value: u64, layers: u64 },
    #[error(
        "`{key}` is {value}, which counts layer {layer} among those that predict further tokens, but it is an ordinary one (it has `{tensor}` and no `nextn` tensor) and the engine would leave it out"
    )]
    NotForPrediction { key: String, value: u64, layer: u64, tensor: String },
    #[error(
        "layer {layer} has no tensor `{tensor}`; without it the engine takes the file for a draft head, and would compute without whatever else is missing"
    )]
    OptionalLayers { tensor: String, layer: u64 },
    #[error("`{key}` is {found}, but the engine takes only {expected}")]
    KeyType { key: String, found: &'static str, expected: &'static str },
    #[error("`{key}` is a list of {length}, but the file has {layers} layers")]
    ListLength { key: String, length: u64, layers: u64 },
    #[error("there is no `{key}`, which the engine needs")]
    MissingKey { key: String },
    #[error("there is no tensor `{tensor}`, which every model of this architecture has")]
    NoTensor { tensor: String },
    #[error("layer {layer} has no tensors, but `{key}` is {layers}")]
    NoLayer { layer: u64, key: String, layers: u64 },
    #[error(
        "tensor `{tensor}` has the shape {shape:?}, of which one side must be {expected} by `{by}`"
    )]
    WrongShape { tensor: String, shape: Vec<u64>, expected: u64, by: String },
    #[error(
        "the data of tensor `{tensor}` begins at byte {offset}, but what is before it ends at {expected}: the table lacks a tensor, or has one in another shape or order"
    )]
    Gap { tensor: String, offset: u64, expected: u64 },
    #[error("`{key}` is `{value}`, which the pinned engine does not know; it knows {known}")]
    UnknownValue { key: String, value: String, known: String },
    #[error("`{key}` is a list of {length}, but there are {tokens} tokens")]
    TooShort { key: String, length: u64, tokens: u64 },
    #[error("the vocabulary has {tokens} tokens, but the token embedding has {rows} rows")]
    WrongVocabulary { tokens: u64, rows: u64 },
    #[error("tokens {other} and {id} of the vocabulary are both `{text}`")]
    DuplicateToken { text: String, id: u64, other: u64 },
    #[error(
        "token {id} of the vocabulary has a NUL, up to which the engine reads it, and is then `{text}`, as token {other} is"
    )]
    CutToken { text: String, id: u64, other: u64 },
    #[error("all {tokens} tokens of the vocabulary are empty")]
    NoTexts { tokens: u64 },
    #[error(
        "its `tokenizer.ggml.model` is `{model}`, so it has no vocabulary, and neither prompt nor answer can be a text"
    )]
    NoVocabulary { model: String },
    #[error(
        "its `tokenizer.ggml.model` makes no tokens of the text `{text}` ({reason}), as where the vocabulary is another tokenizer's"
    )]
    UnfitTokenizer { text: &'static str, reason: String },
}

/// What is wrong with a policy's text.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum PolicyFault {
    /// The text, or a part between two semicolons, is empty.
    #[error("there is an empty rule; write `none` for no offloading")]
    Empty,
    /// No policy has this name.
    #[error(
        "no such rule; there are none, all-experts, first-layers:N, last-layers:N, layers:0-3,7 (each also with =DEVICE or =disk), regex:PATTERN=DEVICE, fit, fit:SIZE, fit:SIZE,ram:SIZE and fit:SIZE,cache-to-host,fewer-layers"
    )]
    UnknownRule,
    /// A number of layers is missing or no positive number.
    #[error("it needs a number of layers from 1 up, as in `first-layers:12`")]
    BadLayerCount,
    /// A set of layers does not parse.
    #[error("it needs layer numbers and ranges, the smaller number first, as in `layers:0-3,7`")]
    BadLayerSet,
    /// A regular expression comes without a device, or with an empty pattern.
    #[error("it needs a pattern and a device, as in `regex:ffn_up_exps=cpu`")]
    BadRegexRule,
    /// A device name is empty, has white space around it, or holds `;`, `=` or a comma.
    #[error(
        "a device's name has 1 to 255 bytes, no white space around it, and no `;`, `=` or `,` in it; `cpu`, `gpu` and `disk` mean something else"
    )]
    BadDevice,
    /// The limit of `fit` does not parse.
    #[error(
        "`fit` takes a budget or a margin, then what it may give up, as in `fit:10GiB`, `fit:-1GiB`, `fit:cache-to-host`, `fit:10GiB,ram:24GiB` or `fit:10GiB,cache-to-host,fewer-layers,smaller-context:2048`"
    )]
    BadFit,
    /// A size comes without a unit.
    #[error(
        "`{number}` has no unit; write `{number}GiB` or `{number}MiB`, or `{number}B` for bytes"
    )]
    NoUnit {
        /// The number.
        number: String,
    },
    /// A size does not parse.
    #[error("the size `{size}` {reason}")]
    BadSize {
        /// The size.
        size: String,
        /// What is wrong with it, and what to write.
        reason: &'static str,
    },
    /// The limit of CPU memory does not parse, or comes twice.
    #[error("`ram:` takes one size, as in `fit:10GiB,ram:24GiB` or `fit:ram:24GiB`")]
    BadRam,
    /// A limit of CPU memory stands where no `fit` is.
    #[error(
        "`ram:` belongs to `fit`, as in `fit:10GiB,ram:24GiB` or `fit:ram:24GiB`; beside rules with `=disk` the memory for experts is an option of paging (`cache_bytes`)"
    )]
    RamWithoutFit,
    /// `fit` stands before other rules.
    #[error("`fit` decides over all experts that are left, so it must be the last rule")]
    FitNotLast,
    /// `none` stands in a list of rules.
    #[error("`none` cannot be combined with other rules; leave it out")]
    NoneInList,
}

/// What is wrong with a llama.cpp flag.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum FlagFault {
    /// Not one of the flags that place tensors.
    #[error("is not one of --cpu-moe, --n-cpu-moe N, --n-cpu-ffn N and -ot PATTERN=DEVICE")]
    Unknown,
    /// A flag for the draft model of speculative decoding.
    #[error(
        "is for a draft model, and none is loaded here; leave it out, or give the flag without `draft` for the model itself"
    )]
    DraftModel,
    /// A flag that takes no value has one.
    #[error("takes no value, not `{value}`")]
    NoValue {
        /// The value.
        value: String,
    },
    /// The value is missing.
    #[error("needs a value")]
    MissingValue,
    /// Not a number of layers.
    #[error("needs a number of layers from 0 to 65535, not `{value}`")]
    BadNumber {
        /// The value.
        value: String,
    },
    /// Not of the form pattern=device.
    #[error(
        "needs PATTERN=DEVICE, not `{value}`; as in llama.cpp commas divide the list, so no pattern can hold one"
    )]
    BadOverride {
        /// The value.
        value: String,
    },
}

/// What is wrong with a chat template, or with a conversation for it.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum TemplateFault {
    /// The template itself refuses the conversation.
    #[error("it refuses this conversation: {message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// It does not parse.
    #[error("it does not parse{}: {reason}", at(*.line))]
    Syntax {
        /// The line, from 1.
        line: Option<usize>,
        /// What is wrong there.
        reason: String,
    },
    /// It failed on this conversation.
    #[error("it failed{}: {reason}", at(*.line))]
    Failed {
        /// The line, from 1.
        line: Option<usize>,
        /// What went wrong there.
        reason: String,
    },
    /// Its text is the same whatever the last question is, so that the model would answer something else.
    #[error("it leaves out the question with which the conversation ends")]
    WithoutQuestion,
    /// It does more work than any conversation of this size should need.
    #[error("it does not end in reasonable time")]
    TooMuchWork,
    /// Its text is too long.
    #[error("it has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is read.
        max: usize,
    },
}

impl TemplateFault {
    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::Raised { .. } => {
                "change the conversation, or format the prompt yourself and use `generate`"
            }
            Self::Failed { .. } => {
                "change the conversation or the template's variables, give `ChatTemplate::new` the published template, or format the prompt yourself and use `generate`"
            }
            _ => {
                "no conversation will do: get the model from another source, give `ChatTemplate::new` the published template, or format the prompt yourself and use `generate`"
            }
        }
    }
}

fn at(line: Option<usize>) -> String {
    line.map(|line| format!(" in line {line}")).unwrap_or_default()
}

/// Why a saved session cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum SessionFault {
    /// It begins as no session does.
    #[error("it is no session of this crate")]
    NotASession,
    /// It was saved with another model file.
    #[error("it belongs to another model file; load that one")]
    OtherModel,
    /// It was saved with another engine, which may write states differently.
    #[error("it was saved with {engine}; read the conversation again instead")]
    OtherEngine {
        /// That engine.
        engine: String,
    },
    /// The context has other sizes or types.
    #[error("its context had other sizes or types; load the model with the same ones")]
    OtherContext,
    /// It is shorter, or longer, than it says.
    #[error("it has not the length that it says")]
    Truncated,
    /// Its checksum is wrong.
    #[error("it was changed after it was saved")]
    Damaged,
}
