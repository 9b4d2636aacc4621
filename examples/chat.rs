//! Talks with a model under an offload policy. See `--help`.

mod common;
#[path = "common/speed.rs"]
mod speed;

use std::fmt::Display;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use moe_offload::{
    CancelHandle, Error, GenerateOptions, Message, MoeModel, OffloadPolicy, Overflow, Plan, Result,
    Role, Sampling, StopReason, Structure,
};
use rustyline::error::ReadlineError;

/// The small model that comes with the repository.
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");

/// Talks with a mixture-of-experts model whose experts are placed by a policy.
///
/// Without --prompt it holds a conversation: Ctrl-C stops an answer, Ctrl-D ends.
/// The answer goes to standard output, everything else to standard error.
#[derive(Parser)]
struct Arguments {
    /// The model, a GGUF file; of a split model the first. Default: the demo model
    #[arg(long, default_value = DEMO, hide_default_value = true)]
    model: PathBuf,
    /// Where tensors go: none, all-experts, first-layers:N, last-layers:N, layers:0-3,7 or
    /// regex:PATTERN, each followed by =DEVICE, =cpu or =disk (=cpu is the default but for regex),
    /// joined by `;`, at the end fit, fit:BUDGET or fit:-MARGIN, with what it may give up and how
    /// much CPU memory it may use before experts stay on disk:
    /// fit:10GiB,cache-to-host,fewer-layers,ram:24GiB
    #[arg(long, default_value_t)]
    policy: OffloadPolicy,
    /// Load by a plan that `plan --freeze` stored, instead of a policy; its context is the plan's
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["policy", "context", "micro_batch", "no_operation_offload"])]
    plan: Option<PathBuf>,
    /// Answer this and end
    #[arg(long)]
    prompt: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long)]
    system: Option<String>,
    /// Tokens that prompt and answer can have together
    #[arg(long)]
    context: Option<u32>,
    /// Most tokens of an answer
    #[arg(long)]
    max_tokens: Option<u64>,
    /// 0 for always the likeliest token, higher for more variety
    #[arg(long, default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,
    /// The same seed gives the same answer
    #[arg(long, default_value_t = 0)]
    seed: u32,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Answer with JSON that this schema allows
    #[arg(long, value_name = "FILE", conflicts_with = "grammar")]
    json_schema: Option<PathBuf>,
    /// Answer with a text of this grammar (GBNF)
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Longest time of an answer
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<u64>,
    /// A variable of the chat template, such as `enable_thinking=false`; may be repeated
    #[arg(long, value_name = "NAME=JSON", value_parser = variable)]
    template: Vec<(String, serde_json::Value)>,
    #[command(flatten)]
    speed: speed::SpeedArguments,
    /// Go on with the conversation in this file (JSON) if it is there, and save it at the end, with
    /// the model's state beside it (`.state`), so that nothing of it is read again
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
    /// Use the devices of this RPC server too; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    rpc: Vec<String>,
    /// How to print statistics; json goes to standard output, one line after each answer
    #[arg(long, value_enum, default_value = "table")]
    stats: StatsFormat,
}

/// How tokens are chosen, apart from temperature and seed.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArguments {
    #[arg(long, help = "Only so many of the likeliest tokens; 0 for all")]
    top_k: Option<u32>,
    #[arg(long, help = "Only the likeliest tokens of together this probability")]
    top_p: Option<f32>,
    #[arg(long, help = "Only tokens at least this fraction as likely as the likeliest")]
    min_p: Option<f32>,
    #[arg(long, help = "Only the most typical tokens of together this probability")]
    typical_p: Option<f32>,
    #[arg(long, help = "How often XTC leaves out the likeliest of several good tokens")]
    xtc: Option<f32>,
    #[arg(long, help = "Divides the score of tokens that occurred lately")]
    repeat_penalty: Option<f32>,
    #[arg(long, help = "Taken from the score of a token for each time it occurred lately")]
    frequency_penalty: Option<f32>,
    #[arg(long, help = "Taken from the score of tokens that occurred lately")]
    presence_penalty: Option<f32>,
    #[arg(long, help = "Strength of DRY, against repeating sequences")]
    dry: Option<f32>,
    #[arg(long, help = "Mirostat 1 or 2 instead of cutting off unlikely tokens")]
    mirostat: Option<u8>,
}

impl SamplingArguments {
    fn sampling(&self) -> Sampling {
        let mut sampling = Sampling::default();
        let mut set = |value: Option<f32>, field: fn(&mut Sampling) -> &mut f32| {
            if let Some(value) = value {
                *field(&mut sampling) = value;
            }
        };
        set(self.top_p, |sampling| &mut sampling.top_p);
        set(self.min_p, |sampling| &mut sampling.min_p);
        set(self.typical_p, |sampling| &mut sampling.typical_p);
        set(self.xtc, |sampling| &mut sampling.xtc_probability);
        set(self.repeat_penalty, |sampling| &mut sampling.repeat_penalty);
        set(self.frequency_penalty, |sampling| &mut sampling.frequency_penalty);
        set(self.presence_penalty, |sampling| &mut sampling.presence_penalty);
        set(self.dry, |sampling| &mut sampling.dry.get_or_insert_default().multiplier);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        if let Some(version) = self.mirostat {
            sampling.mirostat.get_or_insert_default().version = version;
        }
        sampling
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum StatsFormat {
    Table,
    Json,
    None,
}

fn main() {
    if let Err(error) = run(&common::arguments()) {
        common::fail(&error);
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let options = options(arguments)?;
    let mut model = load(arguments)?;
    let mut talk: Vec<Message> = arguments.system.iter().map(Message::system).collect();
    if let Some(path) = arguments.session.as_ref().filter(|path| path.exists()) {
        talk = read_json(path)?;
        // Without its state the conversation is only read again.
        if let Err(error) = model.restore_session(path.with_extension("state")) {
            say(&format!("reading the conversation again: {error}"));
        }
    }
    if let Some(prompt) = &arguments.prompt {
        talk.push(Message::user(prompt));
        answer(&mut model, &mut talk, &options, arguments.stats)?;
    } else {
        converse(&mut model, &mut talk, &options, arguments.stats)?;
    }
    if let Some(path) = &arguments.session {
        let failed = |source| Error::Io { action: "write", path: path.clone(), source };
        let text = serde_json::to_vec_pretty(&talk).map_err(|error| failed(error.into()))?;
        std::fs::write(path, text).map_err(failed)?;
        model.save_session(path.with_extension("state"))?;
    }
    Ok(())
}

fn load(arguments: &Arguments) -> Result<MoeModel> {
    let bar = ProgressBar::new(1000);
    bar.set_style(ProgressStyle::with_template("loading  {bar:40} {percent} %").expect("is valid"));
    let progress = bar.clone();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 1000
    let mut builder = MoeModel::builder(&arguments.model)
        .policy(arguments.policy.clone())
        .on_progress(move |done| progress.set_position((done * 1000.0) as u64));
    if let Some(tokens) = arguments.context {
        builder = builder.context_tokens(tokens);
    }
    builder = arguments.speed.apply(builder);
    if let Some(path) = &arguments.plan {
        builder = builder.plan(read_json::<Plan>(path)?);
    }
    for endpoint in &arguments.rpc {
        say(&format!("connecting to {endpoint} (waits while it serves another process)"));
        builder = builder.rpc_server(endpoint);
    }
    let model = builder.load();
    bar.finish_and_clear();
    let model = model?;
    say(model.plan());
    if let Some(note) = arguments.speed.note(&model) {
        say(&note);
    }
    Ok(model)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

fn options(arguments: &Arguments) -> Result<GenerateOptions> {
    let sampling = arguments.sampling.sampling();
    let mut options = GenerateOptions::default()
        .sampling(sampling.temperature(arguments.temperature).seed(arguments.seed));
    options.max_tokens = arguments.max_tokens;
    options.max_time = arguments.max_seconds.map(Duration::from_secs);
    options.stop.clone_from(&arguments.stop);
    options.overflow = Overflow::DropOldestTurns;
    options.template.variables.extend(arguments.template.iter().cloned());
    if let Some(path) = &arguments.json_schema {
        options.structure = Some(Structure::JsonSchema(read_json(path)?));
    }
    if let Some(path) = &arguments.grammar {
        let failed = |source| Error::Io { action: "read", path: path.clone(), source };
        let grammar = std::fs::read_to_string(path).map_err(failed)?;
        options.structure = Some(Structure::Grammar(grammar));
    }
    options.validate()?;
    Ok(options)
}

/// A value that is not JSON counts as a text.
fn variable(text: &str) -> Result<(String, serde_json::Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("it needs NAME=JSON")?;
    let json = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), json))
}

/// Reads questions until the end of input, keeping the conversation.
fn converse(
    model: &mut MoeModel,
    talk: &mut Vec<Message>,
    options: &GenerateOptions,
    stats: StatsFormat,
) -> Result<()> {
    let is_person = std::io::stdin().is_terminal();
    let current = Arc::new(Mutex::new(CancelHandle::new()));
    let mut editor = None;
    if is_person {
        let for_signal = current.clone();
        // Where Ctrl-C cannot be caught it ends the program, as it would anyway.
        let _ = ctrlc::set_handler(move || {
            if let Ok(cancel) = for_signal.lock() {
                cancel.cancel();
            }
        });
        editor = rustyline::DefaultEditor::new().ok();
        say(&"Ctrl-C stops an answer, Ctrl-D ends.");
    }
    while let Some(question) = read_line(editor.as_mut()) {
        let question = question.trim();
        if question.is_empty() {
            continue;
        }
        let cancel = CancelHandle::new();
        if let Ok(mut current) = current.lock() {
            *current = cancel.clone();
        }
        talk.push(Message::user(question));
        match answer(model, talk, &options.clone().cancel(&cancel), stats) {
            Ok(()) => {}
            Err(Error::Cancelled { .. }) => say(&"(stopped)"),
            // Nothing more will work.
            Err(
                error @ (Error::ContextLost
                | Error::Io { .. }
                | Error::FileChanged { .. }
                | Error::WrongBytes { .. }
                | Error::Paging { .. }),
            ) => return Err(error),
            Err(error) => {
                say(&format!("error: {error}"));
            }
        }
        // A question without an answer is forgotten.
        talk.pop_if(|message| message.role == Role::User);
    }
    Ok(())
}

/// A line from the terminal's editor, or from standard input where that is no terminal.
fn read_line(editor: Option<&mut rustyline::DefaultEditor>) -> Option<String> {
    let Some(editor) = editor else {
        let mut line = Vec::new();
        let count = std::io::stdin().lock().read_until(b'\n', &mut line).ok()?;
        return (count > 0).then(|| String::from_utf8_lossy(&line).into_owned());
    };
    match editor.readline("> ") {
        Ok(line) => {
            let _ = editor.add_history_entry(&line);
            Some(line)
        }
        Err(ReadlineError::Interrupted) => {
            say(&"(Ctrl-D ends)");
            Some(String::new())
        }
        Err(_) => None,
    }
}

/// Answers the last message and adds the answer to the conversation.
fn answer(
    model: &mut MoeModel,
    talk: &mut Vec<Message>,
    options: &GenerateOptions,
    stats: StatsFormat,
) -> Result<()> {
    let mut text = String::new();
    let ended = write_answer(model, talk, options, &mut text);
    if ended.is_ok() || !text.is_empty() {
        talk.push(Message::assistant(&text));
        print("\n")?;
    }
    match ended? {
        Some(StopReason::ContextFull) => {
            say(&"(the context is full; --context N leaves more room)");
        }
        Some(reason) if options.structure.is_some() && !reason.is_complete() => {
            say(&"(the answer was cut off, so it has not the whole form that was asked for)");
        }
        _ => {}
    }
    match stats {
        StatsFormat::Table => say(&format!("\n{}\n", model.stats())),
        StatsFormat::Json => {
            let stats = serde_json::to_string(&model.stats()).expect("statistics are plain");
            print(&format!("{stats}\n"))?;
        }
        StatsFormat::None => {}
    }
    Ok(())
}

fn write_answer(
    model: &mut MoeModel,
    talk: &mut Vec<Message>,
    options: &GenerateOptions,
    text: &mut String,
) -> Result<Option<StopReason>> {
    let prompt = fitting_prompt(model, talk, options)?;
    let mut generation = match prompt {
        Some(prompt) => {
            // What is for messages is done already.
            let (overflow, template) = Default::default();
            model.generate(&prompt, &GenerateOptions { overflow, template, ..options.clone() })?
        }
        None => model.chat(talk, options)?,
    };
    for piece in &mut generation {
        let piece = piece?;
        print(&piece)?;
        text.push_str(&piece);
    }
    Ok(generation.stop_reason())
}

/// Writes to standard output at once. A reader who went away ends the program quietly.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(source) => Err(Error::Io { action: "write", path: "standard output".into(), source }),
        Ok(()) => Ok(()),
    }
}

/// To the person; with standard error closed to nobody.
fn say(text: &dyn Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Drops the oldest turns until half of the context is left for the answer. `None` if the messages
/// can be given to `chat`; a plain prompt for a model without a chat template.
fn fitting_prompt(
    model: &MoeModel,
    talk: &mut Vec<Message>,
    options: &GenerateOptions,
) -> Result<Option<String>> {
    let room = model.plan().context_tokens() as usize / 2;
    loop {
        let prompt = match model.chat_prompt(talk, &options.template) {
            Err(Error::NoChatTemplate) => {
                say(&"(the model has no chat template: plain text)");
                return Ok(talk.last().map(|message| message.content.clone()));
            }
            prompt => prompt?,
        };
        let first = talk.iter().position(|message| message.role != Role::System);
        let Some(first) = first.filter(|first| talk.len() > first + 2) else {
            return Ok(None);
        };
        if model.count_tokens(&prompt)? <= room {
            return Ok(None);
        }
        talk.drain(first..first + 2);
        say(&"(the oldest question and answer were forgotten to make room)");
    }
}
