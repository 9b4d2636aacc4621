//! `generate()` against a bare loop of engine calls that does the same work on the same file:
//! decode a token, sample the next, turn it into text.
//!
//! Pairs in one process, A B A B, so that a drifting machine hits both alike. The bare loop against
//! a second bare loop shows how far two equal things differ here. `llama-cpp-2` does the same work
//! with one thread, and once more as both libraries come, each with threads of its own choice.
//!
//! Then a vocabulary as large as GPT-OSS's on two layers that take little time, where whatever is done
//! with each score shows; greedy, and with the usual samplers against the engine's own chain.
//!
//! `cargo run --release -p moe-offload-benches --bin generate-loop [-- --pairs N] [--model FILE]`;
//! a model takes the place of the one with the large vocabulary. With `--experts-on-cpu` the model's experts are in
//! CPU memory, and the crate's defaults are compared with the best of what a person can set by hand.

mod bare;
mod by_hand;

use std::path::Path;
use std::time::{Duration, Instant};

use bare::{Bare, Run, Settings};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use moe_offload::{GenerateOptions, MoeModel, Sampling};
use moe_offload_synth::{self as synth, SynthOptions};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo-model/demo-moe.gguf");
const PROMPT: &str =
    "<|im_start|>user\nTell me a story about a dragon<|im_end|>\n<|im_start|>assistant\n";
const CONTEXT: u32 = 512;
const TOKENS: u64 = 400;
/// As in GPT-OSS.
const WORDS: u32 = 201_088;
/// A token with so many scores takes longer.
const FEWER_TOKENS: u64 = 64;
/// Tokens where each library has its own threads: theirs are four, and on fewer cores a token can take
/// a hundred times as long.
const FEW_TOKENS: u64 = 24;
/// Runs of each side in one pair.
const REPEATS: usize = 4;

/// The same loop with `llama-cpp-2`: text, and the time from the first token to the last.
fn theirs(model: &LlamaModel, context: &mut LlamaContext<'_>, tokens: u64) -> (String, Duration) {
    let vocab = model.vocab();
    let mut sampler = LlamaSampler::greedy();
    context.clear_kv_cache();
    let prompt = vocab.tokenize(PROMPT.as_bytes(), true, true);
    let first = i32::try_from(prompt.len()).expect("short");
    let mut batch = LlamaBatch::new(prompt.len(), 1);
    batch.add_sequence(&prompt, 0, false).expect("room");
    context.decode(&mut batch).expect("decodes");
    let mut token = sampler.sample(context, batch.n_tokens() - 1);
    let started = Instant::now();
    let (mut text, mut last) = (Vec::new(), started);
    for (i, position) in (0..tokens).zip(first..) {
        text.extend(vocab.token_to_piece(token, false, None));
        if i + 1 == tokens || vocab.is_eog(token) {
            break;
        }
        batch.clear();
        batch.add(token, position, &[0], true).expect("room");
        context.decode(&mut batch).expect("decodes");
        token = sampler.sample(context, 0);
        last = Instant::now();
    }
    (String::from_utf8_lossy(&text).into_owned(), last - started)
}

fn ours(model: &mut MoeModel, prompt: &str, tokens: u64, sampling: &Sampling) -> Run {
    // What the context holds of the prompt would not be read again.
    model.forget().expect("can be emptied");
    let options = GenerateOptions::default().sampling(sampling.clone()).max_tokens(tokens);
    let text = model.generate(prompt, &options).expect("starts").text().expect("generates");
    let stats = model.stats();
    let tokens = stats.generated_tokens;
    let rate = stats.decode_tokens_per_second.expect("several tokens");
    Run {
        text,
        tokens,
        first_token: Duration::from_secs_f64(stats.first_token_seconds.expect("a token")),
        decode: Duration::from_secs_f64((tokens - 1) as f64 / rate),
    }
}

/// Seconds for each token after the first.
fn per_token(run: &Run) -> f64 {
    run.decode.as_secs_f64() / (run.tokens - 1) as f64
}

fn first_token(run: &Run) -> f64 {
    run.first_token.as_secs_f64()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs both sides so many times, turn by turn and each first as often as the other; prints the
/// median of the ratios pair by pair, with the middle half.
fn compare(name: &str, pairs: usize, mut a: impl FnMut() -> f64, mut b: impl FnMut() -> f64) {
    let (mut first, mut second, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let (mut x, mut y) = (0.0, 0.0);
        for turn in 0..REPEATS {
            if (pair + turn) % 2 == 0 {
                x += a();
                y += b();
            } else {
                y += b();
                x += a();
            }
        }
        first.push(x / REPEATS as f64);
        second.push(y / REPEATS as f64);
        ratios.push(x / y);
    }
    let (x, y, middle) = (median(&mut first), median(&mut second), median(&mut ratios));
    let (low, high) = (ratios[pairs / 4], ratios[pairs * 3 / 4]);
    println!("{name:38} {:9.2} {:9.2}   {middle:.4}   ({low:.4} to {high:.4})", x * 1e6, y * 1e6);
}

fn head(title: &str) {
    println!("{title}");
    println!(
        "{:38} {:>9} {:>9}   ratio (median of pairs, middle half)",
        "µs per token", "first", "second"
    );
}

/// The demo model, whose tokens take some tenths of a millisecond.
fn demo_model(pairs: usize) {
    let load = || MoeModel::builder(DEMO).context_tokens(CONTEXT);
    let mut model = load().threads(1).load().expect("loads");
    let mut at_defaults = load().load().expect("loads");
    let plain = Settings::plain(CONTEXT);
    let (mut bare, mut other) = (Bare::load(DEMO, plain), Bare::load(DEMO, plain));
    let backend = LlamaBackend::init().expect("starts");
    let wrapped = LlamaModel::load_from_file(&backend, DEMO, &LlamaModelParams::default());
    let wrapped = wrapped.expect("loads");
    let context = |params| wrapped.new_context(&backend, params).expect("has room");
    let mut their_defaults = context(LlamaContextParams::default());
    let mut one_thread =
        context(LlamaContextParams::default().with_n_threads(1).with_n_threads_batch(1));

    let greedy = Sampling::greedy();
    let our_time = |model: &mut MoeModel, tokens| per_token(&ours(model, PROMPT, tokens, &greedy));
    let expected = ours(&mut model, PROMPT, TOKENS, &greedy);
    let (same, tokens) = ("all sides must do the same work", expected.tokens);
    assert_eq!(bare.generate(PROMPT, TOKENS).text, expected.text, "{same}");
    assert_eq!(theirs(&wrapped, &mut one_thread, tokens).0, expected.text, "{same}");
    let few = ours(&mut at_defaults, PROMPT, FEW_TOKENS, &greedy);
    assert_eq!(theirs(&wrapped, &mut their_defaults, few.tokens).0, few.text, "{same}");
    head(&format!("demo model: {tokens} tokens, {pairs} pairs of {REPEATS} runs, one thread"));
    let bare_time = |side: &mut Bare| per_token(&side.generate(PROMPT, TOKENS));
    compare("bare against bare", pairs, || bare_time(&mut other), || bare_time(&mut bare));
    compare(
        "generate() against bare",
        pairs,
        || our_time(&mut model, TOKENS),
        || bare_time(&mut bare),
    );
    let steps = (tokens - 1) as f64;
    compare(
        "generate() against llama-cpp-2",
        pairs,
        || our_time(&mut model, TOKENS),
        || theirs(&wrapped, &mut one_thread, tokens).1.as_secs_f64() / steps,
    );
    let steps = (few.tokens - 1) as f64;
    compare(
        "the same, each with its own threads",
        (pairs / 10).max(2),
        || our_time(&mut at_defaults, FEW_TOKENS),
        || theirs(&wrapped, &mut their_defaults, few.tokens).1.as_secs_f64() / steps,
    );
}

/// A model in which the work on each token's scores shows.
fn large_vocabulary(path: &Path, pairs: usize) {
    let prompt = "Once upon a time there was a dragon who counted. ".repeat(8);
    let load = || MoeModel::builder(path).context_tokens(CONTEXT).threads(1);
    let mut model = load().load().expect("loads");
    let path = path.to_str().expect("plain text");
    let plain = Settings::plain(CONTEXT);
    let (mut bare, mut other) = (Bare::load(path, plain), Bare::load(path, plain));
    for (name, sampling) in [("greedy", Sampling::greedy()), ("sampled", Sampling::default())] {
        bare.sample_by(&sampling);
        other.sample_by(&sampling);
        let expected = bare.generate(&prompt, FEWER_TOKENS);
        let got = ours(&mut model, &prompt, FEWER_TOKENS, &sampling);
        assert_eq!(got.text, expected.text, "both must do the same work");
        let tokens = expected.tokens;
        head(&format!(
            "{name}, {path}: {tokens} tokens, {pairs} pairs of {REPEATS} runs, one thread"
        ));
        for (what, time) in [
            ("tokens after the first", per_token as fn(&Run) -> f64),
            ("to the first token", first_token),
        ] {
            let mut bare_time = || time(&bare.generate(&prompt, FEWER_TOKENS));
            let mut other_time = || time(&other.generate(&prompt, FEWER_TOKENS));
            compare(&format!("bare against bare, {what}"), pairs, &mut other_time, &mut bare_time);
            let mut our_time = || time(&ours(&mut model, &prompt, FEWER_TOKENS, &sampling));
            compare(&format!("generate() to bare, {what}"), pairs, &mut our_time, &mut bare_time);
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    let pairs: Option<usize> = value("--pairs").map(|n| n.parse().expect("a number of pairs"));
    if let Some(path) = value("--model") {
        if arguments.iter().any(|argument| argument == "--experts-on-cpu") {
            return by_hand::compare_with_best(path, pairs.unwrap_or(4));
        }
        return large_vocabulary(Path::new(path), pairs.unwrap_or(8));
    }
    demo_model(pairs.unwrap_or(60));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("large-vocabulary.gguf");
    let options = SynthOptions::tiny().layers(2).vocab(WORDS);
    let family = synth::family("gpt-oss-20b").expect("a known family");
    family.build(&options).expect("can be made").save(&path, 1, |_| {}).expect("can be written");
    large_vocabulary(&path, pairs.map_or(8, |pairs| pairs.min(8)));
}
