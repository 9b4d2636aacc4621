//! The two sides of a comparison: the engine alone, and this crate, with the same sizes.

use std::ffi::CString;

use llama_cpp_sys_2 as llama;
use moe_offload::{
    GenerateOptions, Generation, LoadMode, MoeModel, OffloadPolicy, PagingOptions, Sampling,
};

const PROMPT: &str = "Water";
const CONTEXT: u32 = 512;
const MICRO_BATCH: u32 = 64;

/// The engine alone, with its plain kernels: it would repack experts into memory that is not there.
/// Everything of it lives until exit.
pub struct Engine {
    context: *mut llama::llama_context,
    vocab: *const llama::llama_vocab,
    sampler: *mut llama::llama_sampler,
    batch: Vec<llama::llama_token>,
    /// What of the batch is to be computed next.
    count: i32,
    text: Vec<u8>,
}

impl Engine {
    pub fn load(path: &str, mode: llama::llama_load_mode, threads: u32) -> Self {
        let path = CString::new(path).expect("no NUL");
        let threads = i32::try_from(threads).expect("few");
        let mut batch = vec![0; 256];
        // SAFETY: plain calls in the order that llama.h asks for; everything lives until exit, and
        // buffers have the sizes given.
        unsafe {
            llama::llama_log_set(Some(quiet), std::ptr::null_mut());
            llama::llama_backend_init();
            let mut params = llama::llama_model_default_params();
            params.load_mode = mode;
            params.use_extra_bufts = false;
            let model = llama::llama_model_load_from_file(path.as_ptr(), params);
            assert!(!model.is_null(), "the engine did not load");
            let mut params = llama::llama_context_default_params();
            (params.n_ctx, params.n_ubatch, params.swa_full) = (CONTEXT, MICRO_BATCH, false);
            (params.n_threads, params.n_threads_batch) = (threads, threads);
            let context = llama::llama_init_from_model(model, params);
            assert!(!context.is_null(), "no context");
            let vocab = llama::llama_model_get_vocab(model);
            let sampler = llama::llama_sampler_init_greedy();
            let length = i32::try_from(PROMPT.len()).expect("short");
            let prompt = PROMPT.as_ptr().cast();
            let count =
                llama::llama_tokenize(vocab, prompt, length, batch.as_mut_ptr(), 256, true, true);
            Self { context, vocab, sampler, batch, count, text: Vec::new() }
        }
    }

    /// Computes what is to come, and chooses a token.
    pub fn token(&mut self) {
        let mut piece = [0_u8; 64];
        // SAFETY: as in `load`; nobody else has the context.
        let size = unsafe {
            let batch = llama::llama_batch_get_one(self.batch.as_mut_ptr(), self.count);
            assert_eq!(llama::llama_decode(self.context, batch), 0, "llama_decode");
            self.batch[0] = llama::llama_sampler_sample(self.sampler, self.context, -1);
            let bytes = piece.as_mut_ptr().cast();
            llama::llama_token_to_piece(self.vocab, self.batch[0], bytes, 64, 0, false)
        };
        self.count = 1;
        self.text.extend_from_slice(&piece[..usize::try_from(size).unwrap_or(0)]);
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

unsafe extern "C" fn quiet(
    _: llama::ggml_log_level,
    _: *const std::ffi::c_char,
    _: *mut std::ffi::c_void,
) {
}

/// Ours, by a policy or with so many bytes for experts (`cache:BYTES`).
pub fn load_ours(path: &str, what: &str, half_life: f64, threads: u32) -> MoeModel {
    let mut paging = PagingOptions::default().half_life_tokens(half_life);
    let policy = match what.strip_prefix("cache:") {
        Some(bytes) => {
            paging = paging.cache_bytes(bytes.parse::<f64>().expect("bytes") as u64);
            "all-experts=disk"
        }
        None => what,
    };
    MoeModel::builder(path)
        .policy(policy.parse::<OffloadPolicy>().expect("a policy"))
        .paging(paging)
        .load_mode(LoadMode::Mapped)
        .repack(false)
        .context_tokens(CONTEXT)
        .micro_batch_tokens(MICRO_BATCH)
        .threads(threads)
        .load()
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The text that both make, of so many tokens.
pub fn generate(model: &mut MoeModel, tokens: u64) -> Generation<'_> {
    let options = GenerateOptions::default().sampling(Sampling::greedy()).max_tokens(tokens);
    model.generate(PROMPT, &options).expect("generates")
}
