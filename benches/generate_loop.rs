//! `generate()` against a bare loop of engine calls that does the same work on the same file:
//! decode a token, sample the next, turn it into text.
//!
//! Pairs in one process, A B A B, so that a drifting machine hits both alike. The bare loop against
//! a second bare loop shows how far two equal things differ here. `llama-cpp-2` does the same work
//! with one thread, and once more as both libraries come, each with threads of its own choice.
//!
//! `cargo run --release -p moe-offload-benches --bin generate-loop [-- MODEL [PAIRS]]`

use std::ffi::CString;
use std::time::{Duration, Instant};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_sys_2 as llama;
use moe_offload::{GenerateOptions, MoeModel, Sampling};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo-model/demo-moe.gguf");
const PROMPT: &str =
    "<|im_start|>user\nTell me a story about a dragon<|im_end|>\n<|im_start|>assistant\n";
const CONTEXT: u32 = 512;
const TOKENS: u64 = 400;
/// Tokens where each library has its own threads: theirs are four, and on fewer cores a token can take
/// a hundred times as long.
const FEW_TOKENS: u64 = 24;
/// Runs of each side in one pair.
const REPEATS: usize = 4;

/// The same weights and context settings as the crate's, called directly.
struct Bare {
    model: *mut llama::llama_model,
    context: *mut llama::llama_context,
    sampler: *mut llama::llama_sampler,
}

impl Bare {
    fn load(path: &str) -> Self {
        let path = CString::new(path).expect("no NUL");
        // SAFETY: plain calls in the order that llama.h asks for; everything lives until exit.
        unsafe {
            let model = llama::llama_model_load_from_file(
                path.as_ptr(),
                llama::llama_model_default_params(),
            );
            assert!(!model.is_null());
            let mut params = llama::llama_context_default_params();
            params.n_ctx = CONTEXT;
            params.n_threads = 1;
            params.n_threads_batch = 1;
            params.swa_full = false;
            let context = llama::llama_init_from_model(model, params);
            assert!(!context.is_null());
            let chain =
                llama::llama_sampler_chain_init(llama::llama_sampler_chain_default_params());
            llama::llama_sampler_chain_add(chain, llama::llama_sampler_init_greedy());
            Self { model, context, sampler: chain }
        }
    }

    /// Text and the time from the first token to the last.
    fn generate(&mut self, tokens: u64) -> (String, Duration) {
        // SAFETY: handles are alive; buffers have the sizes given.
        unsafe {
            let vocab = llama::llama_model_get_vocab(self.model);
            llama::llama_memory_clear(llama::llama_get_memory(self.context), true);
            llama::llama_sampler_reset(self.sampler);
            let mut prompt = vec![0; 256];
            let length = i32::try_from(PROMPT.len()).expect("short");
            let count = llama::llama_tokenize(
                vocab,
                PROMPT.as_ptr().cast(),
                length,
                prompt.as_mut_ptr(),
                256,
                true,
                true,
            );
            llama::llama_decode(
                self.context,
                llama::llama_batch_get_one(prompt.as_mut_ptr(), count),
            );
            let mut token = llama::llama_sampler_sample(self.sampler, self.context, -1);
            let started = Instant::now();
            let mut text = Vec::new();
            let mut last = started;
            for i in 0..tokens {
                let mut piece = [0_u8; 64];
                let size = llama::llama_token_to_piece(
                    vocab,
                    token,
                    piece.as_mut_ptr().cast(),
                    64,
                    0,
                    false,
                );
                text.extend_from_slice(&piece[..usize::try_from(size).unwrap_or(0)]);
                if i + 1 == tokens || llama::llama_vocab_is_eog(vocab, token) {
                    break;
                }
                llama::llama_decode(self.context, llama::llama_batch_get_one(&raw mut token, 1));
                token = llama::llama_sampler_sample(self.sampler, self.context, -1);
                last = Instant::now();
            }
            (String::from_utf8_lossy(&text).into_owned(), last - started)
        }
    }
}

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

/// Text, tokens, and the time from the first token to the last.
fn ours(model: &mut MoeModel, tokens: u64) -> (String, u64, f64) {
    let options = GenerateOptions::default().sampling(Sampling::greedy()).max_tokens(tokens);
    let text = model.generate(PROMPT, &options).expect("starts").text().expect("generates");
    let stats = model.stats();
    let rate = stats.decode_tokens_per_second.expect("several tokens");
    let tokens = stats.generated_tokens;
    (text, tokens, (tokens - 1) as f64 / rate)
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

fn main() {
    let path = std::env::args().nth(1).unwrap_or_else(|| DEMO.to_owned());
    let pairs: usize =
        std::env::args().nth(2).map_or(60, |n| n.parse().expect("a number of pairs"));
    let load = || MoeModel::builder(&path).context_tokens(CONTEXT);
    let mut model = load().threads(1).load().expect("loads");
    let mut at_defaults = load().load().expect("loads");
    let (mut bare, mut other) = (Bare::load(&path), Bare::load(&path));
    let backend = LlamaBackend::init().expect("starts");
    let wrapped = LlamaModel::load_from_file(&backend, &path, &LlamaModelParams::default());
    let wrapped = wrapped.expect("loads");
    let context = |params| wrapped.new_context(&backend, params).expect("has room");
    let mut their_defaults = context(LlamaContextParams::default());
    let mut one_thread =
        context(LlamaContextParams::default().with_n_threads(1).with_n_threads_batch(1));

    let (expected, tokens, _) = ours(&mut model, TOKENS);
    let same = "all sides must do the same work";
    assert_eq!(bare.generate(tokens).0, expected, "{same}");
    assert_eq!(theirs(&wrapped, &mut one_thread, tokens).0, expected, "{same}");
    let (few, few_tokens, _) = ours(&mut at_defaults, FEW_TOKENS);
    assert_eq!(theirs(&wrapped, &mut their_defaults, few_tokens).0, few, "{same}");
    println!("{tokens} tokens, {pairs} pairs of {REPEATS} runs, one thread, {path}");
    println!(
        "{:38} {:>9} {:>9}   ratio (median of pairs, middle half)",
        "µs per token", "first", "second"
    );
    let steps = (tokens - 1) as f64;
    let bare_time = |side: &mut Bare| side.generate(tokens).1.as_secs_f64() / steps;
    compare("bare against bare", pairs, || bare_time(&mut other), || bare_time(&mut bare));
    compare(
        "generate() against bare",
        pairs,
        || ours(&mut model, TOKENS).2 / steps,
        || bare_time(&mut bare),
    );
    compare(
        "generate() against llama-cpp-2",
        pairs,
        || ours(&mut model, TOKENS).2 / steps,
        || theirs(&wrapped, &mut one_thread, tokens).1.as_secs_f64() / steps,
    );
    let steps = (few_tokens - 1) as f64;
    compare(
        "the same, each with its own threads",
        (pairs / 10).max(2),
        || ours(&mut at_defaults, FEW_TOKENS).2 / steps,
        || theirs(&wrapped, &mut their_defaults, few_tokens).1.as_secs_f64() / steps,
    );
}
