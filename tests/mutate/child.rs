//! The process that may fail: one changed file after the other, each announced and reported.

use std::io::Write;
use std::path::Path;

use moe_offload::{GenerateOptions, Message, MoeModel, Sampling};

use super::mutation::{mutate, sweep};
use super::{Options, tiny};

const TOKENS: u64 = 4;

pub(crate) fn run(options: &Options) {
    let family = options.family.as_deref().unwrap();
    let file = tiny(family);
    let folder = tempfile::tempdir().unwrap();
    let end = options.only.map_or(options.mutations, |only| only + 1);
    for number in options.only.unwrap_or(options.from)..end {
        let mutation = if options.sweep {
            sweep::mutation(&file, number)
        } else {
            mutate(&file, family, options.seed, number)
        };
        tell(&format!("start {number} {}", mutation.what));
        // A file of its own: a model that could not be freed may still have the last one mapped.
        let path = folder.path().join(format!("{number}.gguf"));
        std::fs::write(&path, &mutation.file).unwrap();
        forget_peak();
        // What fails on a thread of the engine's own cannot be caught.
        let threads = options.threads.unwrap_or(if number.is_multiple_of(8) { 2 } else { 1 });
        let outcome = generate(&path, number, threads);
        std::fs::remove_file(&path).unwrap();
        tell(&format!("end {number} {} {}", peak_kib(), outcome.unwrap_or_else(|error| error)));
    }
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", line.replace(['\n', '\r'], " ")).unwrap();
    out.flush().unwrap();
}

/// An error's text without what differs from file to file: names in backticks, numbers, and all after the first words.
fn shape(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(i, part)| if i % 2 == 0 { part } else { "…" });
    let words: String = parts.collect();
    let words =
        words.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.take(8).collect::<Vec<_>>().join(" ").replace('|', "/")
}

/// Loads and generates; errors by their shapes, and what the engine could not allocate.
fn generate(path: &Path, number: u64, threads: u32) -> Result<String, String> {
    let named = |error: moe_offload::Error| {
        let text = error.to_string();
        let memory =
            ["bad_alloc", "insufficient memory", "out of memory"].iter().any(|t| text.contains(t));
        if memory { format!("MEMORY {text}") } else { format!("{} | {text}", shape(&text)) }
    };
    let builder = MoeModel::builder(path).local_devices(&[]).threads(threads);
    let mut model = builder.load().map_err(named)?;
    let sampling = if number.is_multiple_of(3) { Sampling::greedy() } else { Sampling::default() };
    let options = GenerateOptions::default().sampling(sampling).max_tokens(TOKENS);
    let _ = model.chat_prompt(&[Message::user("Hello")], &moe_offload::TemplateOptions::default());
    model
        .generate("The quick brown fox, 12 Äpfel", &options)
        .map_err(named)?
        .text()
        .map_err(named)?;
    Ok("Ok".to_owned())
}

fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}
