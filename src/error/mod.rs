//! The one error type of the crate.

mod faults;
mod foreign;
mod host_memory;
mod purpose;
mod words;

use std::fmt;
use std::path::PathBuf;

use thiserror::Error as ThisError;

pub use self::faults::{
    FlagFault, GgufFault, ModelFault, PolicyFault, SessionFault, TemplateFault,
};
pub use self::foreign::ForeignFile;
pub use self::host_memory::HostMemoryFault;
pub use self::purpose::FilePurpose;
pub(crate) use self::words::escaped;
use self::words::{
    at_least, because, broken, did_you_mean, free_memory, hold_back, in_one_line, list_devices,
    list_folders, make_room, near_misses, none_computes, not_a_policy, not_enough, of_server,
    same_name, smaller_micro_batch,
};
use crate::units::human_bytes;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with the cause, the value and what to do about it.
///
/// `Debug` prints the message too: a program whose `main` returns a `Result` shows its error that way.
/// The parts are the fields of the variants.
///
/// ```
/// let error = moe_offload::GgufFile::open("nowhere.gguf").unwrap_err();
/// assert!(format!("{error:?}").starts_with("cannot open `nowhere.gguf`: "));
/// assert!(matches!(error, moe_offload::Error::Io { action: "open", .. }));
/// ```
#[derive(ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The model path is an address, or a name on Hugging Face.
    #[error("there is no file `{}`, and nothing is downloaded: {how}, then give the file's path", path.display())]
    NotDownloaded {
        /// The path as given.
        path: PathBuf,
        /// How to get the file.
        how: String,
    },
    /// The model path is a directory.
    #[error("`{}` is a directory; name the .gguf file in it (of a split model, the first)", path.display())]
    IsDirectory {
        /// The path.
        path: PathBuf,
    },
    /// The model path is a pipe, a device or the like.
    #[error("`{}` is not a regular file; the engine maps models, so it needs one", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file does not begin with `GGUF`.
    #[error("`{}` is not a GGUF file: {found}", path.display(), found = escaped(.found))]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first four bytes.
        magic: [u8; 4],
        /// What it is, as far as its beginning tells.
        found: ForeignFile,
    },
    /// A GGUF file with another one behind it.
    #[error(
        "`{}` is several GGUF files in one, as when parts are joined by `cat`: another begins at byte {at}; keep the parts apart and open the first, or join them with llama.cpp's `llama-gguf-split --merge`",
        path.display()
    )]
    JoinedFiles {
        /// The file.
        path: PathBuf,
        /// Where the second begins.
        at: u64,
    },
    /// A metadata value in a type that the engine does not take; it converts none.
    #[error(
        "the engine takes the metadata `{key}` only as {expected}, and `{}` has it as {found}; convert or split the model again with llama.cpp's own tools",
        path.display(), key = escaped(.key))]
    MetadataType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value's type.
        found: &'static str,
        /// The type that the engine takes.
        expected: &'static str,
    },
    /// A tensor of a type that only a fork of llama.cpp has.
    #[error(
        "`{}` is made for {fork}, a fork of llama.cpp: its tensor `{tensor}` has the type {ggml_type} (number {id}), with which only {fork} computes; run it there, or get the model in a type of llama.cpp",
        path.display(), tensor = escaped(.tensor))]
    ForkTensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's number.
        id: u32,
        /// The type's name in the fork.
        ggml_type: &'static str,
        /// Which fork.
        fork: &'static str,
    },
    /// The file is a valid one, but no model that writes text.
    #[error("`{}` {purpose}", path.display(), purpose = escaped(.purpose))]
    NotATextModel {
        /// The file.
        path: PathBuf,
        /// What it is for.
        purpose: FilePurpose,
    },
    /// The pinned engine has no code for the model's architecture.
    #[error(
        "`{}` is of the architecture `{architecture}`, which the pinned engine (llama-cpp-sys-2 0.1.161) does not know{}; a later version of this crate may, or another file of the model",
        path.display(), did_you_mean(.near), architecture = escaped(.architecture))]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// Its architecture.
        architecture: String,
        /// Architectures of the engine with like names, the likest first.
        near: Vec<&'static str>,
    },
    /// The file ends inside its header.
    #[error("`{}` is truncated: {what} needs {needed_bytes} bytes at offset {offset}, but the file has {file_bytes}; copy or download it again", path.display())]
    TruncatedGguf {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: &'static str,
        /// Where, in bytes from the start.
        offset: u64,
        /// How many bytes it takes.
        needed_bytes: u64,
        /// The file's size.
        file_bytes: u64,
    },
    /// A tensor's data reaches past the end of the file.
    #[error("`{}` is truncated: tensor `{tensor}` ends at byte {needed_bytes}, but the file has {file_bytes}; copy or download it again", path.display(), tensor = escaped(.tensor))]
    TensorOutsideFile {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where its data ends.
        needed_bytes: u64,
        /// The file's size.
        file_bytes: u64,
    },
    /// The header contradicts the format or itself.
    #[error("`{}` is not a valid GGUF file, before byte {offset}: {fault}", path.display(), fault = escaped(.fault))]
    InvalidGguf {
        /// The file.
        path: PathBuf,
        /// How far the reader had come.
        offset: u64,
        /// What is wrong.
        fault: GgufFault,
    },
    /// The file can be read, but the engine would not survive it, or would compute wrongly with it, or not load it.
    #[error("`{}` cannot be loaded: {fault}; convert the model again, or get it from another source", path.display(), fault = escaped(.fault))]
    UnsafeModel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: ModelFault,
    },
    /// The end of the file is empty, as where room is made for a download that then does not end.
    #[error(
        "`{}` looks like a download that was not finished: from byte {at} on, tensor `{tensor}` and all after it, it holds only zeros; download it again, or let the download go on",
        path.display(), tensor = escaped(.tensor))]
    UnfinishedFile {
        /// The file.
        path: PathBuf,
        /// Where the zeros begin.
        at: u64,
        /// The tensor that begins there.
        tensor: String,
    },
    /// A file whose weights are all left out can be planned with, and nothing else.
    #[error("`{}` has no weights: all of its tensors hold only zeros, as those that `synth --no-weights` writes to plan with; load the real file", path.display())]
    EmptyWeights {
        /// The file.
        path: PathBuf,
    },
    /// A later file of a split model was given.
    #[error("`{}` is a later part of a split model; open the first: `{}`", path.display(), first.display())]
    NotFirstShard {
        /// The file given.
        path: PathBuf,
        /// The one to give.
        first: PathBuf,
    },
    /// A file of a split model is not there.
    #[error("part {number} of {count} is missing: put `{}` beside the first part", path.display())]
    MissingShard {
        /// Where it should be.
        path: PathBuf,
        /// Its number, counted from 1.
        number: u32,
        /// How many there are.
        count: u32,
    },
    /// The files of a split model do not belong together.
    #[error("`{}` does not fit the other parts of its model: {what} should be {expected}", path.display(), expected = escaped(.expected))]
    ShardMismatch {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
        /// What it should be.
        expected: String,
    },
    /// The file lacks metadata that the plan depends on.
    #[error("`{}` has no usable metadata `{key}`; convert the model again with a current converter", path.display(), key = escaped(.key))]
    MissingMetadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// The tensor table and the metadata contradict each other.
    #[error("`{}` contradicts itself: tensor `{tensor}` belongs to layer {layer}, but `{key}` is {layers}", path.display(), tensor = escaped(.tensor), key = escaped(.key))]
    LayerOutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its layer.
        layer: u32,
        /// The metadata key that counts layers.
        key: String,
        /// Its value.
        layers: u32,
    },
    /// A policy about experts was applied to a model that has none.
    #[error("`{}` ({architecture}) has no experts, so `{rule}` moves nothing; use the policy `fit` or `none`, or a `regex:` rule", path.display(), architecture = escaped(.architecture))]
    NoExperts {
        /// The file.
        path: PathBuf,
        /// Its architecture.
        architecture: String,
        /// The rule.
        rule: String,
    },
    /// The file stores one tensor per expert, as converters did before 2024.
    #[error("`{}` stores every expert as a tensor of its own (`{tensor}`), which the engine no longer runs; convert the original model again with llama.cpp's convert_hf_to_gguf.py", path.display(), tensor = escaped(.tensor))]
    LegacyExperts {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        tensor: String,
    },
    /// A policy's text does not parse.
    #[error("{}{fault}", not_a_policy(.text, .fault))]
    InvalidPolicy {
        /// The text, or the part of it that is wrong.
        text: String,
        /// What is wrong.
        fault: PolicyFault,
    },
    /// A pattern is not a regular expression.
    #[error("the pattern `{pattern}` cannot be used: {}", in_one_line(.source))]
    InvalidPattern {
        /// The pattern.
        pattern: String,
        /// Where and why.
        source: Box<regex::Error>,
    },
    /// A llama.cpp flag is unknown, or its value is missing or wrong.
    #[error("llama.cpp flag `{flag}`: {fault}")]
    InvalidFlag {
        /// The flag.
        flag: String,
        /// What is wrong.
        fault: FlagFault,
    },
    /// A rule matches no tensor of the file.
    #[error("the rule `{rule}` matches no tensor of this file{}", near_misses(.rule, .near, .layers.as_ref()))]
    NoMatch {
        /// The rule.
        rule: String,
        /// Tensor names that come near, nearest first.
        near: Vec<String>,
        /// The layers, as ranges, in which the rule would match if it named them.
        layers: Option<String>,
    },
    /// A rule counts more layers than there are.
    #[error(
        "`{rule}` asks for {requested} layers, but the model has {available} with experts; use `all-experts` or a number up to {available}"
    )]
    TooManyLayers {
        /// The rule.
        rule: String,
        /// Layers asked for.
        requested: u32,
        /// Layers that have experts.
        available: u32,
    },
    /// A rule names a layer that the model does not have.
    #[error("`{rule}` names layer {layer}, but the model has {layers} layers, numbered from 0")]
    NoSuchLayer {
        /// The rule.
        rule: String,
        /// The layer.
        layer: u32,
        /// How many there are.
        layers: u32,
    },
    /// A rule names a layer that has no experts.
    #[error("`{rule}` names layer {layer}, which has no experts; those with experts are {layers}")]
    NotAnExpertLayer {
        /// The rule.
        rule: String,
        /// The layer.
        layer: u32,
        /// The layers that have some, as ranges.
        layers: String,
    },
    /// A device of that name is not there.
    #[error("there is no device `{name}`; there {}; experts can also stay on `disk`", list_devices(.known))]
    UnknownDevice {
        /// The name.
        name: String,
        /// The devices that there are.
        known: Vec<String>,
    },
    /// A stored plan uses a device that is not there.
    #[error(
        "the plan uses the device `{name}`{}, which is not there now; there {}; {}, or plan again",
        of_server(.server.as_ref()),
        list_devices(.known),
        if server.is_some() { "load with that server, by the same address" } else { "bring it back" }
    )]
    PlannedDeviceMissing {
        /// The device's name when the plan was made.
        name: String,
        /// The address of the RPC server whose device it is.
        server: Option<String>,
        /// The devices that there are; those of servers with the address, as `RPC0 (HOST:PORT)`.
        known: Vec<String>,
    },
    /// Two devices have the same name.
    #[error("{}", same_name(.name))]
    DuplicateDevice {
        /// The name.
        name: String,
    },
    /// A plan uses more devices than the engine has room for.
    #[error(
        "the plan uses {count} devices, but the engine takes at most {most} beside the CPU; name fewer devices or servers, or let a policy keep layers off some of them"
    )]
    TooManyDevices {
        /// Devices with layers or tensors.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// An option has a value that cannot be.
    #[error("{option} is {value}, but must be {expected}")]
    InvalidOption {
        /// Which option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// More threads than CPUs that this process may use, by its affinity and its control group.
    #[error(
        "threads is {threads}, but this process may use {cpus} {}, and what has none holds up all others: the engine waits by spinning; use at most {cpus}",
        if *cpus == 1 { "CPU" } else { "CPUs" }
    )]
    TooManyThreads {
        /// How many were asked for.
        threads: usize,
        /// CPUs that the process may use.
        cpus: usize,
    },
    /// A number of bytes comes without a unit.
    #[error("`{text}` has no unit; write `{text}GiB` or `{text}MiB`, or `{text}B` for bytes")]
    NoUnit {
        /// The number.
        text: String,
    },
    /// A plan made for one file was used with another.
    #[error("this plan was made for another model file than `{}`; plan again", path.display())]
    ForeignPlan {
        /// The file it was used with.
        path: PathBuf,
    },
    /// A saved session cannot be used.
    #[error("`{}` cannot be restored: {fault}", path.display())]
    InvalidSession {
        /// The file.
        path: PathBuf,
        /// Why not.
        fault: SessionFault,
    },
    /// A file was written to, or replaced, while a model was loaded from it.
    #[error("`{}` changed while it was used; load again when it is written to no more", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
    },
    /// A part of a file was read again and was another one, though the file has the size and the time that it had.
    #[error(
        "`{}` gave other bytes than before, in {bytes} from offset {offset}, though its size and time are the same; the disk or the memory may be failing: compare the file with its source, then load again",
        path.display()
    )]
    WrongBytes {
        /// The file.
        path: PathBuf,
        /// Where the part begins.
        offset: u64,
        /// How many bytes it has.
        bytes: u64,
    },
    /// A stored plan contradicts the file or itself.
    #[error("this plan cannot be kept: {what}; plan again")]
    InvalidPlan {
        /// What is wrong.
        what: String,
    },
    /// The engine is built without something that was asked for.
    #[error("this build of the engine has no {what}; {remedy}")]
    MissingBackend {
        /// What it lacks.
        what: &'static str,
        /// How to get it.
        remedy: &'static str,
    },
    /// No folder holds the libraries of the engine's backends.
    #[error(
        "the engine has no CPU backend: there is no {file} that can be loaded in {}; put the build's backends beside the program, or name their folder in {variable}",
        list_folders(.folders)
    )]
    NoBackends {
        /// The libraries looked for.
        file: &'static str,
        /// Where they were looked for, in order.
        folders: Vec<PathBuf>,
        /// The environment variable that names another folder.
        variable: &'static str,
    },
    /// The server of an RPC device could not be reached.
    #[error("no RPC server answers at `{endpoint}`{}; start one there (`cargo run --release --example rpc_server`), or correct the address", because(.reason))]
    RpcUnreachable {
        /// Host and port.
        endpoint: String,
        /// What the engine said.
        reason: String,
    },
    /// The server of an RPC device went away while models used it.
    #[error("the RPC server at `{endpoint}` was lost{}; drop the models that use it, start it again, and load again", because(.reason))]
    RpcLost {
        /// Host and port.
        endpoint: String,
        /// What happened to the connection.
        reason: String,
    },
    /// The engine could not load the model.
    #[error("the engine could not load `{}`{}; if the file is whole, it may be made for another version of llama.cpp: convert it again, or get it from another source", path.display(), because(.reason))]
    LoadFailed {
        /// The file.
        path: PathBuf,
        /// What the engine logged.
        reason: String,
    },
    /// `fit` needs to know a device's free memory.
    #[error(
        "`fit` needs the free memory of {device}, which is not known; give it (`{device}=12GiB`), or a budget (`fit:12GiB`)"
    )]
    UnknownFreeMemory {
        /// The device.
        device: String,
    },
    /// Experts in CPU memory are to be computed on a device, and none can.
    #[error(
        "experts in CPU memory are to be computed on a device from {tokens} tokens on (`expert_offload_tokens`), but {}; leave it out",
        none_computes(.devices)
    )]
    NoOffloadDevice {
        /// From how many tokens on.
        tokens: u32,
        /// The devices that there are.
        devices: Vec<String>,
    },
    /// A device has not enough free memory for the plan. For the CPU: the system, or the process's
    /// control group, has not, a budget is smaller, or `fit:ram:` allows less.
    #[error(
        "{}: the plan needs {}, but only {} is available; {}{}",
        not_enough(.device), human_bytes(*.needed_bytes), human_bytes(*.free_bytes),
        smaller_micro_batch(*.needed_bytes, *.free_bytes, *.compute_bytes),
        make_room(.device, *.needed_bytes, .policy)
    )]
    DoesNotFit {
        /// The device.
        device: String,
        /// Bytes that the plan needs on it.
        needed_bytes: u64,
        /// Bytes that are free for a new model.
        free_bytes: u64,
        /// Bytes of those needed that are buffers for intermediate results, by a dry run or a cautious formula: about
        /// in proportion to the micro-batch. 0 where they are not known.
        compute_bytes: u64,
        /// The policy as text, whose own remedies are not recommended again; empty if not known.
        policy: String,
    },
    /// The warm-up of a load found that a device has too little memory left to compute.
    #[error(
        "`{device}` has too little memory to compute: weights, cache and buffers take {}, computing takes {}{} more, and {} may be used{}; {}",
        human_bytes(*.allocated_bytes), at_least(.reason), human_bytes(*.overhead_bytes),
        human_bytes(*.limit_bytes), because(.reason),
        hold_back(.device, *.overhead_bytes, .policy)
    )]
    NoRoomToCompute {
        /// The device.
        device: String,
        /// Bytes of weights, cache and compute buffers, by the engine's account.
        allocated_bytes: u64,
        /// Bytes that the device took beyond them, or needs at least if it ran out of memory.
        overhead_bytes: u64,
        /// Bytes that the plan held back for that.
        planned_overhead_bytes: u64,
        /// Bytes that the policy allows, or that were free.
        limit_bytes: u64,
        /// The policy as text.
        policy: String,
        /// What the engine said where the device ran out of memory; else empty.
        reason: String,
    },
    /// Loading, or generating, was cancelled.
    #[error("{operation} was cancelled")]
    Cancelled {
        /// What was going on.
        operation: &'static str,
    },
    /// The time allowed ran out before there was a result.
    #[error("{operation} took longer than its limit; allow more time, or ask for less")]
    TimedOut {
        /// What was going on.
        operation: &'static str,
    },
    /// The engine placed a tensor elsewhere than planned, or not at all.
    #[error(
        "the plan puts `{tensor}` on {planned}, but the engine put it on {actual}{}",
        broken(tensor, actual), tensor = escaped(.tensor))]
    PlanBroken {
        /// The tensor.
        tensor: String,
        /// Where the plan puts it.
        planned: String,
        /// Where it is.
        actual: String,
    },
    /// An operation of the engine failed.
    #[error("the engine could not {operation}{}", because(.reason))]
    Engine {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        reason: String,
    },
    /// What the model computed for the next token holds scores that are no numbers.
    #[error(
        "the model's scores for the next token are not numbers: a weight in the file is damaged, or what is computed in 16 bits grows too large; compare the file with its source, and if it is whole use the KV cache type f16 or f32, or another quantisation of the model"
    )]
    NotANumber,
    /// What was computed tells nothing about the next token.
    #[error(
        "the model gives every token the same score, so none can be chosen: weights in the file are missing or damaged; compare the file with its source"
    )]
    EqualScores,
    /// An earlier failure left the context in an unknown state.
    #[error("an earlier failure left this model's context unusable; load the model again")]
    ContextLost,
    /// The thread of an asynchronous model ended.
    #[error("the model's thread ended by a panic; load the model again")]
    ModelGone,
    /// The prompt has no tokens.
    #[error("the prompt is empty; there is nothing to continue")]
    EmptyPrompt,
    /// The prompt does not fit the context.
    #[error(
        "the prompt has {prompt_tokens} tokens, but the context holds {context_tokens} and one must be left for the answer; raise `context_tokens` or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens of the context.
        context_tokens: usize,
    },
    /// A number that is no token of the model.
    #[error(
        "{token} is no token of this model: its vocabulary has {vocabulary_tokens}, numbered from 0"
    )]
    UnknownToken {
        /// The number.
        token: i32,
        /// Tokens of the vocabulary.
        vocabulary_tokens: usize,
    },
    /// More tokens were to be computed than the context has room for.
    #[error(
        "{tokens} tokens were to be computed after {held_tokens}, but the context holds {context_tokens}; call `forget` first, give fewer, or raise `context_tokens`"
    )]
    NoRoomForTokens {
        /// Tokens to compute.
        tokens: usize,
        /// Tokens that are held.
        held_tokens: usize,
        /// Tokens that the context holds.
        context_tokens: usize,
    },
    /// The model file has no chat template.
    #[error(
        "the model has no chat template; format the prompt yourself and use `generate`, or give `ChatTemplate::new` the published one"
    )]
    NoChatTemplate,
    /// The chat template does not work, and the engine does not know it either.
    #[error(
        "the chat template cannot be used: {fault}; {}", fault.remedy()
    )]
    ChatTemplate {
        /// Why.
        fault: TemplateFault,
    },
    /// A grammar or a JSON schema cannot be used.
    #[error("the {what} cannot be used{}; fix it, or generate without it", because(.reason))]
    InvalidStructure {
        /// Which of the two.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A JSON schema holds what cannot be enforced.
    #[error("the JSON schema cannot be enforced: `{keyword}` at `{pointer}` {reason}")]
    InvalidSchema {
        /// Where, as a JSON pointer behind `#`.
        pointer: String,
        /// The keyword.
        keyword: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// No token goes on with the form that was asked for.
    #[error(
        "the answer `{written}` has to go on with {expected}, but no token of the vocabulary does that, or `logit_bias` bans all that do; allow other texts there, or lift the ban"
    )]
    DeadEnd {
        /// The answer so far, or its end.
        written: String,
        /// What the form demands next.
        expected: String,
    },
    /// A form can be read in too many ways at once.
    #[error(
        "the {form} can be read in too many ways at once: following it takes more than {most} {what}; {}",
        words::one_reading(form)
    )]
    AmbiguousStructure {
        /// Whether it is a `grammar` or a `JSON schema`.
        form: &'static str,
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// One of several texts that are generated together cannot go on.
    #[error("the text of prompt {prompt} (from 0): {error}")]
    OfPrompt {
        /// Its number, from 0.
        prompt: usize,
        /// Why not.
        error: Box<Error>,
    },
    /// Weights cannot be held in CPU memory as asked for.
    #[error("weights cannot be held as `{mode}`: {fault}")]
    HostMemory {
        /// The load mode.
        mode: &'static str,
        /// Why.
        fault: HostMemoryFault,
    },
    /// Experts cannot be read from disk as they are needed.
    #[error("experts cannot be paged from disk: {reason}")]
    Paging {
        /// Why.
        reason: String,
    },
    /// The memory for paged experts does not hold what is needed at once.
    #[error(
        "{} of memory for experts from disk do not hold the {} that a token needs at once; allow at least so much (`cache_bytes`), have more memory free, or put fewer tensors on `disk`",
        human_bytes(*.budget_bytes), human_bytes(*.needed_bytes)
    )]
    PagingBudget {
        /// What there is.
        budget_bytes: u64,
        /// What is needed.
        needed_bytes: u64,
    },
    /// A rule sends to disk what every token uses.
    #[error(
        "the rule `{rule}` finds no experts that can be paged from disk: only their weights can, of at least 16 KiB each; keep the rest in memory"
    )]
    NothingToPage {
        /// The rule.
        rule: String,
    },
    /// Text holds a NUL byte, which the engine cannot take.
    #[error("{what} holds a NUL byte at {position}, which the engine cannot take")]
    NulByte {
        /// Which text.
        what: &'static str,
        /// Where.
        position: usize,
    },
    /// No setting that a tuning could begin with can be loaded.
    #[error(
        "no setting to begin with can be measured: {}{}",
        reasons.join("; "),
        free_memory(*lacks_memory)
    )]
    NothingLoads {
        /// What each of them failed at.
        reasons: Vec<String>,
        /// Whether one of them did not fit a device.
        lacks_memory: bool,
    },
    /// The prompt and the answer to tune for do not fit the context.
    #[error(
        "a prompt of {prompt_tokens} and an answer of {answer_tokens} tokens do not fit a context \
        of {context_tokens}; ask for less, or for a larger context"
    )]
    TuneContext {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        answer_tokens: u32,
        /// Tokens that the context holds.
        context_tokens: u32,
    },
    /// A file that should hold tunings does not.
    #[error("`{}` does not hold tunings: {source}; remove it, or name another file", path.display())]
    TuneCache {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A callback of the caller panicked; the operation was stopped.
    #[error("the {callback} callback panicked: {message}")]
    CallbackPanicked {
        /// Which callback.
        callback: &'static str,
        /// The panic's message.
        message: String,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// The same, where it says what does not fit, of a plan by this policy.
    pub(crate) fn under(self, policy: &impl fmt::Display) -> Self {
        match self {
            Self::DoesNotFit { device, needed_bytes, free_bytes, compute_bytes, .. } => {
                let policy = policy.to_string();
                Self::DoesNotFit { device, needed_bytes, free_bytes, compute_bytes, policy }
            }
            other => other,
        }
    }
}
