//! Talks with a model under an offload policy. See `--help`.

mod common;

use std::fmt::Display;
use std::io::{BufRead, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use moe_offload::{
    CancelHandle, Error, GenerateOptions, Message, MoeModel, OffloadPolicy, Plan, Result, Role,
    Sampling, StopReason,
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
    /// regex:PATTERN=DEVICE, joined by `;`, at the end fit, fit:BUDGET or fit:-MARGIN
    #[arg(long, default_value = "all-experts")]
    policy: OffloadPolicy,
    /// Load by a plan that `plan --freeze` stored, instead of a policy
    #[arg(long, value_name = "FILE", conflicts_with = "policy")]
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
    /// Threads that compute on the CPU
    #[arg(long)]
    threads: Option<u32>,
    /// Use the devices of this RPC server too; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    rpc: Vec<String>,
    /// How to print statistics; json goes to standard output, one line after each answer
    #[arg(long, value_enum, default_value = "table")]
    stats: StatsFormat,
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
    options(arguments, &CancelHandle::new()).sampling.validate()?;
    let mut model = load(arguments)?;
    let mut talk: Vec<Message> = arguments.system.iter().map(Message::system).collect();
    if let Some(prompt) = &arguments.prompt {
        talk.push(Message::user(prompt));
        let options = options(arguments, &CancelHandle::new());
        return answer(&mut model, &mut talk, &options, arguments.stats);
    }
    converse(&mut model, talk, arguments)
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
    if let Some(threads) = arguments.threads {
        builder = builder.threads(threads);
    }
    if let Some(path) = &arguments.plan {
        builder = builder.plan(read_plan(path)?);
    }
    for endpoint in &arguments.rpc {
        say(&format!("connecting to {endpoint} (waits while it serves another process)"));
        builder = builder.rpc_server(endpoint);
    }
    let model = builder.load();
    bar.finish_and_clear();
    let model = model?;
    say(model.plan());
    Ok(model)
}

fn read_plan(path: &Path) -> Result<Plan> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let text = std::fs::read(path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

fn options(arguments: &Arguments, cancel: &CancelHandle) -> GenerateOptions {
    let sampling = Sampling::default().temperature(arguments.temperature).seed(arguments.seed);
    let options = GenerateOptions::default().sampling(sampling).cancel(cancel);
    match arguments.max_tokens {
        Some(tokens) => options.max_tokens(tokens),
        None => options,
    }
}

/// Reads questions until the end of input, keeping the conversation.
fn converse(model: &mut MoeModel, mut talk: Vec<Message>, arguments: &Arguments) -> Result<()> {
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
        match answer(model, &mut talk, &options(arguments, &cancel), arguments.stats) {
            Ok(()) => {}
            Err(Error::Cancelled { .. }) => say(&"(stopped)"),
            // Nothing more will work.
            Err(error @ (Error::ContextLost | Error::Io { .. })) => return Err(error),
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
    if ended? == Some(StopReason::ContextFull) {
        say(&"(the context is full; --context N leaves more room)");
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
        Some(prompt) => model.generate(&prompt, options)?,
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
