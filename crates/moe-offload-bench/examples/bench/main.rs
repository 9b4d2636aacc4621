//! Measures policies against each other, and writes tables and pictures. See `--help`.
//!
//! ```text
//! cargo run --release --example bench -- run --journal run.jsonl
//! cargo run --release --example bench -- report --journal run.jsonl --out report
//! cargo run --release --example bench -- tune --model FILE
//! ```

#[path = "../../../../examples/common/mod.rs"]
mod common;
mod tune;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use moe_offload_bench::{
    self as bench, Agreement, BenchError, BenchResult, Journal, ModelChoice, PolicyChoice,
    Protocol, Record, Report, Task,
};

/// The small model that comes with the repository.
fn demo() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.unwrap_or(Path::new("")).join("examples/demo-model/demo-moe.gguf")
}

/// What a report's folder has, beside pictures.
const REPORT: &str = "report.md";
const SAMPLES: &str = "samples.csv";

/// Measures policies against each other: speed, memory, quality, energy.
///
/// What each figure means is in docs/benchmarking.md.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Measure by a protocol, each load in a process of its own, and write the report
    Run(Box<RunArguments>),
    /// Write the report of a journal again
    Report(Output),
    /// Say, figure by figure, whether two runs of one protocol agree; status 1 if they do not
    Agree {
        /// The journal of the first run
        first: PathBuf,
        /// The journal of the second
        second: PathBuf,
    },
    /// Print the protocol that `run` would use, as JSON
    Protocol(Box<ProtocolArguments>),
    /// Find the fastest threads, micro-batch, load mode, operation offload and policy for this machine
    Tune(tune::Arguments),
    /// One task, read as JSON from standard input
    #[command(hide = true)]
    Task,
}

#[derive(Args)]
struct Output {
    /// The journal: a record on each line
    #[arg(long, default_value = "bench.jsonl")]
    journal: PathBuf,
    /// A folder for report.md, samples.csv and pictures
    #[arg(long)]
    out: Option<PathBuf>,
    /// A heading before the report, and what else to say there
    #[arg(long)]
    heading: Option<String>,
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    output: Output,
    /// Go on with the journal where it was interrupted
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    protocol: ProtocolArguments,
}

#[derive(Args)]
struct ProtocolArguments {
    /// A stored protocol, as `protocol` prints it; what follows changes it
    #[arg(long, value_name = "FILE")]
    protocol: Option<PathBuf>,
    /// A model file, perhaps with a name before it; may be repeated. Default: the demo model
    #[arg(long = "model", value_name = "[NAME=]FILE")]
    models: Vec<String>,
    /// A policy, `half` or `fit:N%`; may be repeated
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<PolicyChoice>,
    /// The policy that the others are compared with
    #[arg(long)]
    baseline: Option<PolicyChoice>,
    /// Only these prompts of the protocol; may be repeated
    #[arg(long = "prompt", value_name = "NAME")]
    prompts: Vec<String>,
    /// Tokens of the context; may be repeated
    #[arg(long = "context", value_name = "TOKENS", allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    contexts: Vec<u32>,
    /// Threads that compute on the CPU; may be repeated
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    threads: Vec<u32>,
    /// Tokens computed at once while a prompt is read; may be repeated
    #[arg(long = "micro-batch", value_name = "TOKENS", allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    micro_batches: Vec<u32>,
    /// How often each is measured
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u32>)]
    repetitions: Option<u32>,
    /// Most tokens of an answer
    #[arg(long, allow_negative_numbers = true, value_parser = common::whole::<u64>)]
    answer_tokens: Option<u64>,
    /// Use the devices of this RPC server; may be repeated
    #[arg(long = "rpc", value_name = "HOST:PORT")]
    rpc_servers: Vec<String>,
    /// Leave quality out
    #[arg(long)]
    no_quality: bool,
    /// Count which experts the baseline uses, in a load of its own
    #[arg(long)]
    expert_use: bool,
}

fn main() {
    let arguments: Arguments = common::arguments_of_writer();
    let Some(what) = arguments.what else {
        common::fail(&format!("a command is needed: {}; see --help", commands().join(", ")))
    };
    let done = match what {
        What::Run(arguments) => run(&arguments),
        What::Report(output) => report(&output),
        What::Agree { first, second } => agree(&first, &second),
        What::Protocol(arguments) => print_protocol(&arguments),
        What::Tune(arguments) => {
            tune::run(&arguments).map_err(BenchError::from).and_then(|text| print(&text))
        }
        What::Task => task(),
    };
    if let Err(error) = done {
        common::fail_by(&error);
    }
}

/// The names of those that a person can give.
fn commands() -> Vec<String> {
    let all = Arguments::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

fn run(arguments: &RunArguments) -> BenchResult<()> {
    let path = &arguments.output.journal;
    let protocol = protocol(&arguments.protocol)?;
    let scratch = path.with_extension("scratch");
    let resumes = arguments.resume && path.exists();
    check_places(&arguments.output, (!resumes).then_some(&scratch))?;
    let protocol = worth_measuring(protocol, path)?;
    let mut journal =
        if resumes { Journal::resume(path, protocol)? } else { Journal::create(path, protocol)? };
    std::fs::create_dir_all(&scratch).map_err(|source| io("create", &scratch, source))?;
    let protocol = journal.protocol().clone();
    let bar = ProgressBar::new(1);
    let template = "{bar:30} {pos}/{len} {elapsed} (left: {eta}) {msg}";
    bar.set_style(ProgressStyle::with_template(template).expect("is valid"));
    let done = bench::run(
        &mut journal,
        |task| in_child(&protocol, task, &scratch),
        |progress| {
            bar.set_length(progress.all as u64);
            bar.set_position(progress.done as u64);
            bar.set_message(progress.next.as_ref().map_or(String::new(), Task::to_string));
        },
    );
    bar.finish_and_clear();
    done?;
    // Baselines are large and belong to this run alone.
    std::fs::remove_dir_all(&scratch).map_err(|source| io("remove", &scratch, source))?;
    report(&arguments.output)
}

/// What would be refused in the end is refused before anything is measured. `scratch` is to be a new folder,
/// as it is removed with all that is in it.
fn check_places(output: &Output, scratch: Option<&PathBuf>) -> BenchResult<()> {
    if let Some(scratch) = scratch {
        if output.journal.exists() {
            return Err(BenchError::Exists { path: output.journal.clone() });
        }
        if scratch.exists() {
            return Err(io("create", scratch, common::exists()));
        }
    }
    let Some(folder) = &output.out else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|source| io("create", folder, source))?;
    check_own(folder)?;
    for name in [REPORT, SAMPLES] {
        let path = folder.join(name);
        match OpenOptions::new().append(true).open(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(io("write", &path, source));
            }
            _ => {}
        }
    }
    tempfile::tempfile_in(folder).map(drop).map_err(|source| io("write to", folder, source))
}

/// A report replaces an earlier one, and nothing else: one has samples beside it.
fn check_own(folder: &Path) -> BenchResult<()> {
    let is_ours = std::fs::read_to_string(folder.join(SAMPLES))
        .is_ok_and(|samples| samples.lines().next() == Some(Report::CSV_HEADER));
    match [REPORT, SAMPLES].map(|name| folder.join(name)).into_iter().find(|path| path.is_file()) {
        Some(path) if !is_ours => Err(io("write", &path, common::exists())),
        _ => Ok(()),
    }
}

/// Without a device policies place nothing differently, and what they would differ by is chance: then one
/// of them is measured, and those that leave experts on disk.
fn worth_measuring(mut protocol: Protocol, journal: &Path) -> BenchResult<Protocol> {
    let folder = journal.parent().unwrap_or(journal);
    let Record::Environment(here) = in_child(&protocol, &Task::Environment, folder)? else {
        return Ok(protocol);
    };
    let baseline = protocol.baseline.clone();
    let differs = |policy: &PolicyChoice| *policy == baseline || !policy.needs_device();
    if here.devices.is_empty() && !protocol.policies.iter().all(differs) {
        protocol.policies.retain(differs);
        let measured: Vec<&str> = protocol.policies.iter().map(PolicyChoice::as_str).collect();
        common::say(&format!(
            "there is no device but the CPU, so policies place nothing differently: measuring only {} \
             (--rpc HOST:PORT adds a device)",
            measured.join(", ")
        ));
    }
    Ok(protocol)
}

fn protocol(arguments: &ProtocolArguments) -> BenchResult<Protocol> {
    let models = arguments.models.iter().map(|text| model(text)).collect::<Vec<_>>();
    let mut protocol = match &arguments.protocol {
        Some(path) => {
            let text = std::fs::read(path).map_err(|source| io("read", path, source))?;
            serde_json::from_slice(&text).map_err(|error| {
                let reason = common::of_json(&error);
                io("read", path, std::io::Error::new(ErrorKind::InvalidData, reason))
            })?
        }
        None => Protocol::new(vec![model(&demo().to_string_lossy())]),
    };
    let replace = |these: &mut Vec<u32>, with: &[u32]| {
        if !with.is_empty() {
            *these = with.to_vec();
        }
    };
    replace(&mut protocol.context_tokens, &arguments.contexts);
    replace(&mut protocol.threads, &arguments.threads);
    replace(&mut protocol.micro_batch_tokens, &arguments.micro_batches);
    if !models.is_empty() {
        protocol.models = models;
    }
    if !arguments.policies.is_empty() {
        protocol.policies.clone_from(&arguments.policies);
    }
    if !arguments.rpc_servers.is_empty() {
        protocol.rpc_servers.clone_from(&arguments.rpc_servers);
    }
    if !arguments.prompts.is_empty() {
        let known = std::mem::take(&mut protocol.prompts);
        let names: Vec<&str> = known.iter().map(|prompt| prompt.name.as_str()).collect();
        if let Some(name) = arguments.prompts.iter().find(|name| !names.contains(&name.as_str())) {
            let what = format!("it has no prompt `{name}`, only {}", names.join(", "));
            return Err(BenchError::Protocol { what });
        }
        let wanted = |prompt: &bench::Prompt| arguments.prompts.contains(&prompt.name);
        protocol.prompts = known.into_iter().filter(wanted).collect();
    }
    if let Some(baseline) = &arguments.baseline {
        protocol.baseline.clone_from(baseline);
    }
    protocol.repetitions = arguments.repetitions.unwrap_or(protocol.repetitions);
    protocol.answer_tokens = arguments.answer_tokens.unwrap_or(protocol.answer_tokens);
    protocol.expert_use |= arguments.expert_use;
    protocol.quality = protocol.quality.filter(|_| !arguments.no_quality);
    protocol.check().map(|()| protocol)
}

fn model(text: &str) -> ModelChoice {
    if let Some((name, path)) = text.split_once('=') {
        return ModelChoice { name: name.to_owned(), path: path.into() };
    }
    let path = PathBuf::from(text);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    ModelChoice { name, path }
}

/// This program again, with the task on its standard input and the record on its standard output.
fn in_child(protocol: &Protocol, task: &Task, scratch: &Path) -> BenchResult<Record> {
    let failed = |reason: String| BenchError::Task { task: task.to_string(), reason };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut child = Command::new(program)
        .arg("task")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let input = serde_json::to_vec(&(protocol, task, scratch)).expect("plain data");
    // Dropped at once, so that the child sees its end; it reads all before it writes.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(&input)).transpose();
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    let record = serde_json::from_slice(&output.stdout);
    if let (true, Ok(_), Ok(record)) = (output.status.success(), written, record) {
        return Ok(record);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(failed(format!("{}: {}", output.status, last.trim_start_matches("error: "))))
}

fn task() -> BenchResult<()> {
    let here = Path::new("standard input");
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).map_err(|source| io("read", here, source))?;
    let (protocol, task, scratch): (Protocol, Task, PathBuf) =
        serde_json::from_slice(&input).map_err(|error| io("read", here, error.into()))?;
    let record = bench::measure(&protocol, &task, &scratch)?;
    print(&serde_json::to_string(&record).expect("plain data"))
}

/// Of a run that was interrupted, or whose journal was cut.
fn say_what_is_missing(protocol: &Protocol, records: &[Record], journal: &Path) {
    let is_done = |task: &Task| {
        records.iter().any(|record| record.task().as_ref() == Some(task) && record.is_final())
    };
    let tasks = protocol.tasks();
    let missing = tasks.iter().filter(|task| !is_done(task)).count();
    if missing > 0 {
        common::say(&format!(
            "{missing} of {} tasks are not in {}, so the report lacks them; `bench run --resume` goes on with them",
            tasks.len(),
            journal.display()
        ));
    }
}

fn report(output: &Output) -> BenchResult<()> {
    let (protocol, records) = Journal::read(&output.journal)?;
    say_what_is_missing(&protocol, &records, &output.journal);
    let report = Report::new(protocol, records);
    let mut text = output.heading.as_ref().map_or(String::new(), |text| format!("{text}\n\n"));
    let pictures = report.pictures()?;
    if let Some(folder) = &output.out {
        std::fs::create_dir_all(folder).map_err(|source| io("create", folder, source))?;
        check_own(folder)?;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|source| io("write", &path, source))
        };
        for (name, svg) in &pictures {
            write(name, svg)?;
        }
        text.push_str(&report.markdown());
        if !pictures.is_empty() {
            text.push_str("## Pictures\n\n");
        }
        for name in pictures.keys() {
            let title = name.trim_end_matches(".svg");
            text.extend(["![", title, "](", name, ")\n"]);
        }
        write(SAMPLES, &report.csv())?;
        write(REPORT, &text)?;
        let names = pictures.keys().map(String::as_str);
        let names: Vec<&str> = [REPORT, SAMPLES].into_iter().chain(names).collect();
        common::say(&format!("written to {}: {}", folder.display(), names.join(", ")));
    } else {
        print(&format!("{text}{}", report.markdown()))?;
    }
    match report.faults() {
        [] => Ok(()),
        [first, ..] => Err(BenchError::Task {
            task: "report".to_owned(),
            reason: format!("{} faults, first: {first}", report.faults().len()),
        }),
    }
}

fn agree(first: &Path, second: &Path) -> BenchResult<()> {
    let ((protocol, ours), (other, theirs)) = (Journal::read(first)?, Journal::read(second)?);
    let agreement = Agreement::of((&protocol, &ours), (&other, &theirs))?;
    let (judged, apart) = agreement.counts();
    // A single sample says nothing of how much a figure varies.
    if apart == 0 && protocol.repetitions < 2 && !agreement.missing.is_empty() {
        common::fail(
            &"too few samples to compare: both runs have one repetition; run them with --repetitions 2 or more",
        );
    }
    print(agreement.to_string().trim_end())?;
    if agreement.agree() {
        return Ok(());
    }
    let reason = format!("{apart} of {judged} figures differ, {} missing", agreement.missing.len());
    Err(BenchError::Task { task: "agree".to_owned(), reason })
}

fn print_protocol(arguments: &ProtocolArguments) -> BenchResult<()> {
    print(&serde_json::to_string_pretty(&protocol(arguments)?).expect("plain data"))
}

fn print(text: &str) -> BenchResult<()> {
    let written = writeln!(std::io::stdout(), "{text}");
    common::unless_closed(written).map_err(|error| io("write", Path::new("standard output"), error))
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> BenchError {
    BenchError::Io { action, path: path.to_owned(), source }
}
