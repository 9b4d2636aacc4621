//! llama.cpp's own fit (`common_fit_params`), to compare ours with.
#![allow(dead_code)] // each program uses a part

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Instant;

use llama_cpp_sys_2 as llama;
use moe_offload::ExpertMap;

/// What llama.cpp's fit did.
pub struct LlamaFit {
    pub seconds: f64,
    /// Bytes of experts on the devices; `None` if it found nothing.
    pub expert_bytes: Option<u64>,
    /// Layers that it moved to the CPU whole, with attention and cache.
    pub host_layers: i64,
    /// Bytes of other tensors than experts that it moved to the CPU besides: its patterns for a
    /// layer that it splits also match routers, shared experts and dense parts.
    pub dense_bytes_moved: u64,
}

/// Lets llama.cpp fit the model so that `margin` bytes of the device stay free.
pub fn llama_fit(
    path: &str,
    experts: &ExpertMap,
    context_tokens: u32,
    micro_batch_tokens: u32,
    margin: u64,
) -> LlamaFit {
    let path = CString::new(path).expect("no NUL");
    // SAFETY: the arrays are as long as llama.cpp asks for and live during the call; the fit is not
    // thread-safe, and nothing else runs. Afterwards only entries up to the first without a pattern
    // are read, whose text llama.cpp keeps.
    unsafe {
        let devices = llama::llama_max_devices();
        let mut model = llama::llama_model_default_params();
        let mut context = llama::llama_context_default_params();
        context.n_ctx = context_tokens;
        context.n_ubatch = micro_batch_tokens;
        context.swa_full = false;
        let mut split = vec![0.0_f32; devices];
        let none =
            llama::llama_model_tensor_buft_override { pattern: ptr::null(), buft: ptr::null_mut() };
        let mut overrides = vec![none; llama::llama_max_tensor_buft_overrides()];
        let mut margins = vec![usize::try_from(margin).expect("64 bits"); devices];
        let started = Instant::now();
        let status = llama::llama_rs_fit_params(
            path.as_ptr(),
            &raw mut model,
            &raw mut context,
            split.as_mut_ptr(),
            overrides.as_mut_ptr(),
            margins.as_mut_ptr(),
            context_tokens,
            ptr::null(),
            llama::GGML_LOG_LEVEL_ERROR,
        );
        let seconds = started.elapsed().as_secs_f64();
        let to_cpu: Vec<(regex::Regex, bool)> = overrides
            .iter()
            .take_while(|entry| !entry.pattern.is_null())
            .map(|entry| {
                let pattern = CStr::from_ptr(entry.pattern).to_string_lossy();
                let regex = regex::Regex::new(&pattern).expect("llama.cpp's patterns are plain");
                (regex, entry.buft == llama::ggml_backend_cpu_buffer_type())
            })
            .collect();
        let layers = i64::from(experts.layers()) + 1;
        // Negative means all.
        let on_devices = match i64::from(model.n_gpu_layers) {
            n if n < 0 => layers,
            n => n.min(layers),
        };
        let is_on_device = |name: &str, layer: Option<u32>| {
            let own = i64::from(layer.unwrap_or(0)) >= layers - on_devices;
            let found = to_cpu.iter().find(|(regex, _)| regex.is_match(name));
            found.map_or(own, |(_, to_cpu)| !to_cpu)
        };
        let bytes = experts
            .tensors()
            .iter()
            .filter(|tensor| tensor.kind.is_expert() && is_on_device(&tensor.name, tensor.layer))
            .map(|tensor| tensor.bytes)
            .sum();
        let dense_bytes_moved = experts
            .tensors()
            .iter()
            .filter(|tensor| !tensor.kind.is_expert() && tensor.layer.is_some())
            .filter(|tensor| {
                let found = to_cpu.iter().find(|(regex, _)| regex.is_match(&tensor.name));
                found.is_some_and(|&(_, to_cpu)| to_cpu)
            })
            .map(|tensor| tensor.bytes)
            .sum();
        LlamaFit {
            seconds,
            dense_bytes_moved,
            expert_bytes: (status == 0).then_some(bytes),
            host_layers: layers - on_devices,
        }
    }
}
