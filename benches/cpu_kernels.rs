//! Variants of the engine's CPU backend against each other, by the type of a model's experts.
//!
//! `cargo run --release -p moe-offload-benches --features moe-offload/dynamic-backends --bin cpu-kernels --
//! BACKENDS [OPTION...]`, where BACKENDS is the folder of `libggml-cpu-*.so`, with the engine's libraries in
//! LD_LIBRARY_PATH (`scripts/cuda-check pack` collects all of these). Each measurement is a process of
//! its own that finds one variant and no other; the variants take turns, every second round backwards. The
//! model is one layer of Qwen3 30B-A3B's shape with a vocabulary of 1,024, so that nearly all the time is that of
//! experts. Leave the machine alone meanwhile.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use llama_cpp_sys_2 as llama;
use moe_offload::gguf::GgmlType;
use moe_offload_synth::{self as synth, SynthOptions};

const HELP: &str = "cpu-kernels BACKENDS [OPTION...]
  --variants LIST    by comma (all that this processor can run)
  --types LIST       types of the experts (MXFP4,Q4_K,Q8_0,IQ4_XS)
  --threads N        threads that compute (1)
  --rounds N         measurements of each (4)";

const CHILD: &str = "MOE_OFFLOAD_CPU_KERNELS_CHILD";
/// Tokens of a call of `llama_decode`, and how many calls are measured after one that is not.
const BATCHES: [(usize, usize); 2] = [(1, 64), (512, 4)];

fn main() {
    if let Ok(task) = std::env::var(CHILD) {
        return measure(&task);
    }
    let mut arguments = std::env::args().skip(1);
    let Some(backends) = arguments.next().filter(|folder| !folder.starts_with('-')) else {
        println!("{HELP}");
        return;
    };
    let mut options = BTreeMap::new();
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        options.insert(name, value);
    }
    let option = |name: &str| options.get(name).map(String::as_str);
    let scratch = tempfile::tempdir().expect("a folder for models");
    let threads = option("--threads").unwrap_or("1");
    let rounds: usize = option("--rounds").unwrap_or("4").parse().expect("a number");
    let types = option("--types").unwrap_or("MXFP4,Q4_K,Q8_0,IQ4_XS").split(',');
    let models: Vec<(&str, PathBuf)> =
        types.map(|name| (name, model(name, scratch.path()))).collect();
    let all = variants(Path::new(&backends));
    let wanted: Option<Vec<&str>> = option("--variants").map(|list| list.split(',').collect());
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted.contains(&name));
    let folders = all.iter().filter(|(name, _)| is_wanted(name));
    let folders =
        folders.map(|(name, library)| (name.as_str(), alone(name, library, scratch.path())));
    let folders: Vec<(&str, PathBuf)> = folders.collect();

    let mut found: BTreeMap<(usize, &str, &str), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        let mut turn: Vec<_> = folders.iter().collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for (variant, folder) in turn {
            for (name, model) in &models {
                let Some(rates) = run(folder, &format!("{}\n{threads}", model.display())) else {
                    break;
                };
                eprintln!("round {}: {variant}, {name}: {rates:?} tokens/s", round + 1);
                for ((tokens, _), rate) in BATCHES.iter().zip(rates) {
                    found.entry((*tokens, *variant, *name)).or_default().push(rate);
                }
            }
        }
    }
    for (tokens, _) in BATCHES {
        print(tokens, threads, &models, &folders, &mut found);
    }
}

/// One layer with experts of this type.
fn model(name: &str, folder: &Path) -> PathBuf {
    let path = folder.join(format!("{name}.gguf"));
    let experts = GgmlType::from_name(name).unwrap_or_else(|| panic!("there is no type {name}"));
    let options = SynthOptions::default().layers(1).vocab(1024).expert_type(experts);
    let family = synth::family("qwen3-30b-a3b").unwrap_or_else(|error| panic!("{error}"));
    let written = family.build(&options).and_then(|model| model.save(&path, 1, |_| {}));
    written.unwrap_or_else(|error| panic!("{error}"));
    path
}

/// The libraries of the CPU backend by the names of their variants.
fn variants(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.flatten().map(|entry| entry.path());
    let mut all: Vec<(String, PathBuf)> = paths
        .filter_map(|path| {
            let name =
                path.file_name()?.to_str()?.strip_prefix("libggml-cpu-")?.strip_suffix(".so")?;
            Some((name.to_owned(), path.canonicalize().ok()?))
        })
        .collect();
    all.sort();
    all
}

/// A folder of backends that has no other.
fn alone(name: &str, library: &Path, scratch: &Path) -> PathBuf {
    let folder = scratch.join(name);
    std::fs::create_dir(&folder).expect("a new folder");
    let link = folder.join(format!("libggml-cpu-{name}.so"));
    std::fs::copy(library, link).expect("can be copied");
    folder
}

/// Tokens per second for each batch; `None` where the processor cannot run the variant, or it is passed over.
fn run(folder: &Path, task: &str) -> Option<Vec<f64>> {
    let output = Command::new(std::env::current_exe().expect("known"))
        .env(CHILD, task)
        .env("MOE_OFFLOAD_BACKENDS", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let rates: Vec<f64> =
        said.lines().filter_map(|line| line.strip_prefix("rate ")?.parse().ok()).collect();
    (output.status.success() && rates.len() == BATCHES.len()).then_some(rates)
}

/// A table of medians, with the fastest variant of each type in bold.
fn print(
    tokens: usize,
    threads: &str,
    models: &[(&str, PathBuf)],
    folders: &[(&str, PathBuf)],
    found: &mut BTreeMap<(usize, &str, &str), Vec<f64>>,
) {
    let mut median = |variant: &str, name: &str| {
        let (_, rates) = found.iter_mut().find(|(key, _)| **key == (tokens, variant, name))?;
        rates.sort_by(f64::total_cmp);
        Some(rates[rates.len() / 2])
    };
    let names: Vec<&str> = models.iter().map(|(name, _)| *name).collect();
    println!(
        "\n| {tokens} token(s) at once, {threads} thread(s): tokens/s | {} |",
        names.join(" | ")
    );
    println!("| --- |{}", " ---: |".repeat(names.len()));
    let table: Vec<(&str, Vec<Option<f64>>)> = folders
        .iter()
        .map(|(variant, _)| (*variant, names.iter().map(|name| median(variant, name)).collect()))
        .collect();
    for (variant, row) in &table {
        let cell = |(i, rate): (usize, &Option<f64>)| {
            let Some(rate) = *rate else { return "–".to_owned() };
            let best = table.iter().filter_map(|(_, row)| row[i]).fold(0.0, f64::max);
            if rate >= best { format!("**{rate:.1}**") } else { format!("{rate:.1}") }
        };
        let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
        println!("| `{variant}` | {} |", cells.join(" | "));
    }
}

/// In a process of its own.
fn measure(task: &str) {
    let (model, threads) = task.split_once('\n').expect("a task");
    let threads = threads.parse().expect("a number");
    // Starts the engine with the folder's backends.
    moe_offload::devices().unwrap_or_else(|error| panic!("{error}"));
    let path = CString::new(model).expect("no NUL");
    // SAFETY: plain calls in the order that llama.h asks for; everything lives until the process ends.
    unsafe {
        let mut params = llama::llama_model_default_params();
        params.n_gpu_layers = 0;
        let model = llama::llama_model_load_from_file(path.as_ptr(), params);
        assert!(!model.is_null());
        let mut params = llama::llama_context_default_params();
        (params.n_ctx, params.n_batch, params.n_ubatch) = (1024, 512, 512);
        (params.n_threads, params.n_threads_batch) = (threads, threads);
        let context = llama::llama_init_from_model(model, params);
        assert!(!context.is_null());
        for (tokens, calls) in BATCHES {
            // Different tokens, so that they choose different experts.
            let mut batch: Vec<i32> = (0..1024).map(|i| i * 7 % 1000 + 3).take(tokens).collect();
            let mut times = Vec::new();
            for call in 0..=calls {
                llama::llama_memory_clear(llama::llama_get_memory(context), true);
                batch.rotate_left(1);
                if tokens == 1 {
                    batch[0] = i32::try_from(call * 13 % 1000 + 3).expect("small");
                }
                let started = Instant::now();
                let size = i32::try_from(tokens).expect("small");
                let status = llama::llama_decode(
                    context,
                    llama::llama_batch_get_one(batch.as_mut_ptr(), size),
                );
                llama::llama_synchronize(context);
                assert_eq!(status, 0);
                times.push(started.elapsed().as_secs_f64());
            }
            let mut times = times.split_off(1);
            times.sort_by(f64::total_cmp);
            println!("rate {}", tokens as f64 / times[times.len() / 2]);
        }
    }
}
