//! Our fit against llama.cpp's own (`common_fit_params`) on the same file, device and budgets, in
//! one process, turn by turn.
//!
//! Needs a second device: `cargo run --release --example rpc_server`, then
//! `cargo run --release -p moe-offload-benches --bin fit-time -- MODEL [127.0.0.1:50052]`.
//! The weights are not read: a file made by `synth --no-weights` will do.

use std::ffi::CString;
use std::ptr;
use std::time::Instant;

use llama_cpp_sys_2 as llama;
use moe_offload::plan::CPU;
use moe_offload::{ContextOptions, Device, GgufFile, MoeModel, OffloadPolicy};

const CONTEXT: u32 = 4096;

/// Seconds that llama.cpp's fit takes, and whether it found something.
fn theirs(path: &str, budget: u64, free: u64) -> (f64, bool) {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: the arrays are as long as llama.cpp asks for and live during the call; the fit is not
    // thread-safe, and nothing else runs.
    unsafe {
        let devices = llama::llama_max_devices();
        let mut model = llama::llama_model_default_params();
        let mut context = llama::llama_context_default_params();
        context.n_ctx = CONTEXT;
        context.swa_full = false;
        let mut split = vec![0.0_f32; devices];
        let none =
            llama::llama_model_tensor_buft_override { pattern: ptr::null(), buft: ptr::null_mut() };
        let mut overrides = vec![none; llama::llama_max_tensor_buft_overrides()];
        let margin = usize::try_from(free.saturating_sub(budget)).expect("64 bits");
        let mut margins = vec![margin; devices];
        let started = Instant::now();
        let status = llama::llama_rs_fit_params(
            path.as_ptr(),
            &raw mut model,
            &raw mut context,
            split.as_mut_ptr(),
            overrides.as_mut_ptr(),
            margins.as_mut_ptr(),
            CONTEXT,
            ptr::null(),
            llama::GGML_LOG_LEVEL_ERROR,
        );
        (started.elapsed().as_secs_f64(), status == 0)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("the path of a model");
    let endpoint = arguments.next().unwrap_or_else(|| "127.0.0.1:50052".to_owned());
    moe_offload::connect_rpc(&endpoint).expect("the server answers");
    let device = moe_offload::devices().expect("lists").remove(0);
    let free = device.free_bytes.expect("says its memory");
    println!(
        "{:>7}  {:>12}  {:>12}  {:>12}  {:>9}  experts on the device",
        "budget", "header, pure", "dry runs", "llama.cpp", "ratio"
    );
    for gib in [3, 6, 9] {
        let budget: u64 = gib << 30;
        let policy: OffloadPolicy = format!("fit:{budget}").parse().expect("is a policy");
        let started = Instant::now();
        let gguf = GgufFile::open(&path).expect("reads");
        let card = Device::new("card").with_free_bytes(free);
        policy.plan(&gguf, &[card], &ContextOptions::with_context_tokens(CONTEXT)).expect("fits");
        let pure = started.elapsed().as_secs_f64();
        let started = Instant::now();
        let plan = MoeModel::builder(&path)
            .rpc_server(&endpoint)
            .policy(policy)
            .context_tokens(CONTEXT)
            .forecast()
            .expect("fits");
        let exact = started.elapsed().as_secs_f64();
        let (theirs, found) = theirs(&path, budget, free);
        let experts: u64 =
            plan.devices().iter().filter(|d| d.name != CPU).map(|d| d.expert_bytes).sum();
        println!(
            "{gib:>3} GiB  {:>9.1} ms  {:>9.0} ms  {:>9.0} ms  {:>8.1}x  {:.2} GiB{}",
            pure * 1e3,
            exact * 1e3,
            theirs * 1e3,
            theirs / exact,
            experts as f64 / f64::from(1 << 30),
            if found { "" } else { " (llama.cpp found nothing)" }
        );
    }
}
