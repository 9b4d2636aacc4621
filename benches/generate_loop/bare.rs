//! The same work by bare engine calls: decode a token, sample the next, turn it into text.

use std::ffi::CString;
use std::time::{Duration, Instant};

use llama_cpp_sys_2 as llama;
use moe_offload::Sampling;

/// The same weights and context settings as the crate's, called directly.
pub struct Bare {
    model: *mut llama::llama_model,
    context: *mut llama::llama_context,
    sampler: *mut llama::llama_sampler,
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: made by `load`, and used by nobody else.
        unsafe {
            llama::llama_sampler_free(self.sampler);
            llama::llama_free(self.context);
            llama::llama_model_free(self.model);
        }
    }
}

/// What one run made, and how long it took.
pub struct Run {
    pub text: String,
    pub tokens: u64,
    /// From the prompt's text to the first token.
    pub first_token: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

/// What a person can set by hand.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub context_tokens: u32,
    /// Tokens computed at once.
    pub micro_batch: u32,
    pub threads: i32,
    /// Mapped, or read into memory, which the engine then pins where a device can.
    pub is_mapped: bool,
    /// Experts in CPU memory, by the override that llama.cpp's `--cpu-moe` makes.
    pub experts_on_cpu: bool,
}

impl Settings {
    /// The engine's own, with one thread.
    pub fn plain(context_tokens: u32) -> Self {
        let (micro_batch, threads) = (512, 1);
        Self { context_tokens, micro_batch, threads, is_mapped: true, experts_on_cpu: false }
    }
}

impl Bare {
    pub fn load(path: &str, settings: Settings) -> Self {
        let path = CString::new(path).expect("no NUL");
        // SAFETY: plain calls in the order that llama.h asks for; the array of overrides ends with an empty one and
        // lives as long as the call, which copies nothing but is done with it when it returns.
        unsafe {
            let overrides = [
                llama::llama_model_tensor_buft_override {
                    pattern: c"\\.ffn_(up|down|gate|gate_up)_(ch|)exps".as_ptr(),
                    buft: llama::ggml_backend_cpu_buffer_type(),
                },
                llama::llama_model_tensor_buft_override {
                    pattern: std::ptr::null(),
                    buft: std::ptr::null_mut(),
                },
            ];
            let mut params = llama::llama_model_default_params();
            if settings.experts_on_cpu {
                params.tensor_buft_overrides = overrides.as_ptr();
            }
            if !settings.is_mapped {
                params.load_mode = llama::LLAMA_LOAD_MODE_NONE;
            }
            let model = llama::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null());
            let mut params = llama::llama_context_default_params();
            params.n_ctx = settings.context_tokens;
            params.n_batch = settings.micro_batch.max(params.n_batch);
            params.n_ubatch = settings.micro_batch;
            params.n_threads = settings.threads;
            params.n_threads_batch = settings.threads;
            params.swa_full = false;
            let context = llama::llama_init_from_model(model, params);
            assert!(!context.is_null());
            Self { model, context, sampler: chain(&Sampling::greedy()) }
        }
    }

    /// Samples so from now on, with the engine's own samplers.
    pub fn sample_by(&mut self, sampling: &Sampling) {
        // SAFETY: the old chain is ours and used by nobody else.
        unsafe { llama::llama_sampler_free(self.sampler) };
        self.sampler = chain(sampling);
    }

    pub fn generate(&mut self, text: &str, tokens: u64) -> Run {
        let called = Instant::now();
        // SAFETY: handles are alive; buffers have the sizes given.
        unsafe {
            let vocab = llama::llama_model_get_vocab(self.model);
            llama::llama_memory_clear(llama::llama_get_memory(self.context), true);
            llama::llama_sampler_reset(self.sampler);
            let mut prompt = vec![0; text.len() + 8];
            let count = llama::llama_tokenize(
                vocab,
                text.as_ptr().cast(),
                i32::try_from(text.len()).expect("short"),
                prompt.as_mut_ptr(),
                i32::try_from(prompt.len()).expect("short"),
                true,
                true,
            );
            llama::llama_decode(
                self.context,
                llama::llama_batch_get_one(prompt.as_mut_ptr(), count),
            );
            let mut token = llama::llama_sampler_sample(self.sampler, self.context, -1);
            let started = Instant::now();
            let first_token = started - called;
            let (mut text, mut made, mut last) = (Vec::new(), 0, started);
            while !llama::llama_vocab_is_eog(vocab, token) {
                made += 1;
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
                last = Instant::now();
                if made == tokens {
                    break;
                }
                llama::llama_decode(self.context, llama::llama_batch_get_one(&raw mut token, 1));
                token = llama::llama_sampler_sample(self.sampler, self.context, -1);
            }
            let text = String::from_utf8_lossy(&text).into_owned();
            Run { text, tokens: made, first_token, decode: last - started }
        }
    }
}

/// The engine's samplers as its own programs chain them.
fn chain(sampling: &Sampling) -> *mut llama::llama_sampler {
    // SAFETY: each sampler is handed over to the chain, which is the caller's.
    unsafe {
        let chain = llama::llama_sampler_chain_init(llama::llama_sampler_chain_default_params());
        let add = |sampler| llama::llama_sampler_chain_add(chain, sampler);
        if sampling.temperature == 0.0 {
            add(llama::llama_sampler_init_greedy());
            return chain;
        }
        add(llama::llama_sampler_init_top_k(i32::try_from(sampling.top_k).expect("small")));
        add(llama::llama_sampler_init_top_p(sampling.top_p, 1));
        add(llama::llama_sampler_init_min_p(sampling.min_p, 1));
        add(llama::llama_sampler_init_temp(sampling.temperature));
        add(llama::llama_sampler_init_dist(sampling.seed));
        chain
    }
}
