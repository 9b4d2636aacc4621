//! A model's weights in the engine.

use std::collections::HashSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::call::{Failure, guarded, path_string};
use super::dry_run::DryRun;
use super::host_memory::{self, Held};
use super::load_mode::LoadMode;
use super::overrides::OverrideArray;
use super::paging::{ModelStream, Pager, stream_without};
use super::progress::{Progress, on_progress};
use super::rpc_servers::RpcServers;
use super::{Token, backend, device, ffi, locks};
use crate::device::{CPU, DISK, DeviceMemory, HostMemory};
use crate::error::{Error, Result};
use crate::gguf::GgufFile;
use crate::limits::{CancelHandle, Limits};
use crate::paging::{Layout, PagingOptions};
use crate::plan::{MAX_DEVICES, Plan};
use crate::sampling::structure::Vocabulary;

/// How to load weights.
#[derive(Default)]
pub(crate) struct LoadSettings {
    pub(crate) mode: LoadMode,
    /// Weights in CPU memory stay in the file's layout.
    pub(crate) plain_layout: bool,
    pub(crate) on_progress: Option<Box<dyn FnMut(f32) + Send>>,
    pub(crate) cancel: Option<CancelHandle>,
    /// Only count what would be allocated; the weights cannot be used.
    pub(crate) dry_run: Option<DryRun>,
    /// For experts on disk.
    pub(crate) paging: PagingOptions,
}

/// Loaded weights with the arrays that the engine was given for them. Freed on drop; whoever uses
/// them holds an `Arc`.
pub(crate) struct Weights {
    model: NonNull<ffi::llama_model>,
    /// Where only one thread may be at work.
    pub(super) rpc: RpcServers,
    /// A dry run for a load that maps the file.
    will_map: bool,
    /// A dry run for a load that pins memory of ours.
    will_pin: bool,
    /// What reads experts on disk.
    pager: Option<Pager>,
    mode: LoadMode,
    /// The memory of weights that the CPU has, where it is ours.
    held: Option<Held>,
    _overrides: OverrideArray,
    _devices: Vec<ffi::ggml_backend_dev_t>,
    _tensor_split: Vec<f32>,
    /// For forms of answers; made when the first is asked for.
    vocabulary: OnceCell<Arc<Vocabulary>>,
}

// SAFETY: the engine does not change a model after loading, and frees it from any thread; the
// arrays are never changed, and devices live as long as the process.
unsafe impl Send for Weights {}
// SAFETY: as above: all use through a shared reference only reads.
unsafe impl Sync for Weights {}

impl Weights {
    /// Loads the file as the plan says.
    pub(crate) fn load(gguf: &GgufFile, plan: &Plan, mut settings: LoadSettings) -> Result<Self> {
        backend::init()?;
        if plan.disk().is_none() {
            settings.mode = settings.mode.for_file(gguf)?;
        }
        // The engine is not told of devices that the plan does not use: it would start them.
        let (names, layers): (Vec<&str>, Vec<u32>) = plan.used_devices().unzip();
        let most = MAX_DEVICES.saturating_sub(device::accelerators()?);
        if names.len() > most {
            return Err(Error::TooManyDevices { count: names.len(), most });
        }
        let rpc = RpcServers::of(&names)?;
        // A server that was lost explains whatever else went wrong, unless that is why it was given up.
        Self::load_on(rpc.clone(), names, &layers, gguf, plan, settings).map_err(
            |error| match error {
                Error::Cancelled { .. } => error,
                other => rpc.check().err().unwrap_or(other),
            },
        )
    }

    fn load_on(
        rpc: RpcServers,
        names: Vec<&str>,
        layers: &[u32],
        gguf: &GgufFile,
        plan: &Plan,
        mut settings: LoadSettings,
    ) -> Result<Self> {
        let path = gguf.path();
        let mut pin = None;
        if settings.mode.reads() && plan.offloads_from_cpu() {
            // Weights in another layout are the CPU's alone: no device computes with them.
            settings.plain_layout |= device::any_offloads(&names)?;
            pin = device::registering(&names)?;
        }
        let turn = rpc.turn(&Limits::of_load(settings.cancel.as_ref()))?;
        let mut devices = device::handles(names)?;
        devices.push(ptr::null_mut());
        let mut held = None;
        if settings.dry_run.is_none() {
            host_memory::preflight(settings.mode, plan, &devices)?;
            held = Held::new(settings.mode, pin);
        }
        let layout = Layout::of(plan, gguf)?;
        let pager = if layout.is_empty() {
            None
        } else {
            Some(Pager::new(gguf, layout, &settings.paging)?)
        };
        let overrides = OverrideArray::new(&plan.overrides(), |name| match &pager {
            Some(pager) if name == DISK => Ok(pager.buffer_type()),
            _ => device::buffer_type(name),
        })?;
        let tensor_split = tensor_split(layers);
        // Experts in memory of ours, in the file's layout, are read by several threads when the engine has placed them.
        let is_ours = held.is_some() && settings.plain_layout && CAN_STREAM;
        let (apart, share) = if is_ours { experts_of_cpu(plan) } else { (HashSet::new(), 0.0) };
        let mut progress = Progress::new(settings.on_progress, settings.cancel);
        progress.of_part(0.0..1.0 - share);
        // SAFETY: a plain function that returns default values.
        let mut params = unsafe { ffi::llama_model_default_params() };
        params.devices = devices.as_mut_ptr();
        params.tensor_buft_overrides = overrides.as_ptr();
        params.tensor_split = tensor_split.as_ptr();
        params.n_gpu_layers = i32::try_from(plan.device_layers()).unwrap_or(i32::MAX);
        params.load_mode = settings.mode.for_engine();
        params.use_extra_bufts = !settings.plain_layout;
        if settings.mode.is_held() || pin.is_some() {
            params.no_host = true; // a device's own memory would come first
            params.lazy_mode = ffi::LLAMA_LAZY_MODE_OFF; // which would map a part
        }
        // A dry run maps nothing, but counts for a load that does.
        let will_map =
            settings.dry_run.is_some() && pager.is_none() && maps(settings.mode, &devices)?;
        if let Some(dry_run) = &settings.dry_run {
            params.no_alloc = true;
            params.kv_overrides = dry_run.as_ptr();
            params.load_mode = LoadMode::Read.for_engine();
        }
        let stream = match &pager {
            Some(pager) if settings.dry_run.is_none() => Some(pager.stream(gguf)?),
            None if !apart.is_empty() => stream_without(gguf, &apart)?,
            _ => None,
        };
        if stream.is_some() {
            params.load_mode = LoadMode::Read.for_engine();
            params.lazy_mode = ffi::LLAMA_LAZY_MODE_OFF; // which would map the stream
        }
        params.progress_callback = Some(on_progress);
        params.progress_callback_user_data = (&raw mut progress).cast();
        let c_path = path_string(path)?;
        let mut model = ptr::null_mut();
        let reading = locks::read_registry();
        let memory = held.as_mut().map(Held::for_engine);
        let from = stream.as_ref().map(ModelStream::for_engine);
        // SAFETY: params and what they point to live during the call; overrides, devices and
        // split are then kept as long as the model. `progress` and `held` are used only during the
        // call, on this thread.
        let loaded =
            unsafe { load_from(&c_path, from.as_ref(), memory.as_ref(), &params, &mut model) };
        drop(reading);
        progress.outcome()?;
        if model.is_null() {
            turn.check()?; // that is why
        }
        loaded.map_err(|failure| {
            let ours = stream.as_ref().and_then(ModelStream::failure);
            let ours = ours.or_else(|| pager.as_ref().and_then(Pager::load_failure));
            let ours = ours.or_else(|| held.as_mut().and_then(Held::failure));
            let (path, reason) = (path.to_owned(), failure.reason);
            ours.unwrap_or(Error::LoadFailed { path, reason })
        })?;
        let model = NonNull::new(model)
            .ok_or_else(|| Error::LoadFailed { path: path.to_owned(), reason: String::new() })?;
        let mut weights = Self {
            model,
            rpc,
            will_map,
            will_pin: pin.is_some() && settings.dry_run.is_some(),
            pager,
            mode: settings.mode,
            held,
            _overrides: overrides,
            _devices: devices,
            _tensor_split: tensor_split,
            vocabulary: OnceCell::new(),
        };
        turn.check()?;
        weights.rpc.check()?;
        progress.of_part(1.0 - share..1.0);
        weights.complete(gguf, &apart, &mut progress)?;
        Ok(weights)
    }

    /// Reads what the engine has placed in memory of ours without reading it, and pins that memory if it is to be.
    fn complete(
        &mut self,
        gguf: &GgufFile,
        apart: &HashSet<&str>,
        progress: &mut Progress,
    ) -> Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        if !apart.is_empty() {
            held.read(gguf, apart, |done| progress.report(done))?;
            progress.report(1.0);
            progress.outcome()?;
        }
        held.pin()
    }

    pub(crate) fn pager(&self) -> Option<&Pager> {
        self.pager.as_ref()
    }

    /// Whether experts have to be read while text is made.
    pub(crate) fn reads_experts(&self) -> bool {
        self.pager.as_ref().is_some_and(|pager| !pager.is_whole())
    }

    /// Reads as many experts on disk as the budget holds; `active` are used for a token.
    pub(crate) fn start_paging(&mut self, budget_bytes: u64, active: usize) -> Result<()> {
        self.pager.as_mut().map_or(Ok(()), |pager| pager.start(budget_bytes, active))
    }

    /// How a row of memory is held, if by the host.
    pub(super) fn held_by_host(&self, row: &ffi::moe_memory) -> Option<HostMemory> {
        let allocated = row.context_bytes + row.compute_bytes;
        let mut host = HostMemory::default();
        let weights = match row.held {
            ffi::MOE_HELD_DEVICE | ffi::MOE_HELD_PAGED => return None,
            ffi::MOE_HELD_PLAIN | ffi::MOE_HELD_PINNED if self.will_map => &mut host.mapped_bytes,
            ffi::MOE_HELD_PLAIN if self.will_pin => &mut host.pinned_bytes,
            ffi::MOE_HELD_MAPPED => &mut host.mapped_bytes,
            ffi::MOE_HELD_PINNED => &mut host.pinned_bytes,
            _ => &mut host.anonymous_bytes,
        };
        *weights += row.weights_bytes;
        match row.held {
            ffi::MOE_HELD_PINNED => host.pinned_bytes += allocated,
            _ => host.anonymous_bytes += allocated,
        }
        Some(host)
    }

    /// Completes the measured memory by how the CPU's weights are held.
    ///
    /// # Errors
    /// [`Error::HostMemory`] if they are held otherwise than asked for.
    pub(crate) fn check_held(&self, memory: &mut [DeviceMemory]) -> Result<()> {
        let Some(cpu) = memory.iter_mut().find(|row| row.name == CPU) else { return Ok(()) };
        if let Some(held) = &self.held {
            held.account(cpu)?;
        }
        if self.mode == LoadMode::Pinned { host_memory::check_pinned(cpu) } else { Ok(()) }
    }

    pub(super) fn as_ptr(&self) -> *mut ffi::llama_model {
        self.model.as_ptr()
    }

    pub(super) fn vocab(&self) -> *const ffi::llama_vocab {
        // SAFETY: the model is alive; the vocabulary is part of it.
        unsafe { ffi::llama_model_get_vocab(self.as_ptr()) }
    }

    /// The texts of all tokens.
    pub(super) fn vocabulary(&self, limits: &Limits) -> Result<Arc<Vocabulary>> {
        let text = |token| {
            if token % 1024 == 0 {
                limits.check()?;
            }
            let mut bytes = Vec::new();
            self.token_bytes(token, false, &mut bytes)?;
            Ok(bytes)
        };
        let count = i32::try_from(self.vocabulary_tokens()).unwrap_or(i32::MAX);
        let made = || Vocabulary::new((0..count).map(text)).map(Arc::new);
        self.vocabulary.get_or_try_init(made).map(Arc::clone)
    }

    /// How many tokens there are, which is how many logits a token has.
    pub(crate) fn vocabulary_tokens(&self) -> usize {
        // SAFETY: the vocabulary is alive; a plain look-up.
        let tokens = unsafe { ffi::llama_vocab_n_tokens(self.vocab()) };
        usize::try_from(tokens).unwrap_or(0)
    }

    /// Name, bytes and device of every tensor that the engine holds, copies included.
    pub(crate) fn tensors(&self) -> Result<Vec<(String, u64, String)>> {
        unsafe extern "C" fn visit(
            name: *const c_char,
            bytes: u64,
            device: *const c_char,
            user: *mut c_void,
        ) {
            // SAFETY: `user` is the vector below, used by nobody else during the call; the names
            // are NUL-terminated. Nothing here panics but out of memory, which aborts.
            unsafe {
                let rows = &mut *user.cast::<Vec<(String, u64, String)>>();
                let text = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
                rows.push((text(name), bytes, text(device)));
            }
        }
        let mut rows: Vec<(String, u64, String)> = Vec::new();
        // SAFETY: the model is alive; `rows` outlives the call, which alone uses it.
        guarded(|message| unsafe {
            ffi::moe_model_tensors(self.as_ptr(), Some(visit), (&raw mut rows).cast(), message)
        })
        .map_err(|failure| failure.into_error("list the tensors"))?;
        Ok(rows)
    }

    /// The text as tokens; special tokens in it are recognised.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool) -> Result<Vec<Token>> {
        let failed = |reason: &str| Error::Engine { operation: "tokenize", reason: reason.into() };
        let length = i32::try_from(text.len()).map_err(|_| failed("the text is over 2 GiB"))?;
        let mut tokens: Vec<Token> = vec![0; text.len() + 8];
        for _ in 0..2 {
            let capacity = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
            let mut result = 0;
            // SAFETY: text and tokens have the lengths given and live during the call.
            guarded(|message| unsafe {
                ffi::moe_tokenize(
                    self.vocab(),
                    text.as_ptr().cast(),
                    length,
                    tokens.as_mut_ptr(),
                    capacity,
                    add_special,
                    true,
                    &raw mut result,
                    message,
                )
            })
            .map_err(|failure| failure.into_error("tokenize"))?;
            if let Ok(count) = usize::try_from(result) {
                tokens.truncate(count);
                return Ok(tokens);
            }
            tokens.resize(result.unsigned_abs() as usize, 0);
        }
        Err(failed("the number of tokens changed"))
    }

    /// Appends the bytes of a token; a control token has none unless `special`.
    pub(crate) fn token_bytes(
        &self,
        token: Token,
        special: bool,
        into: &mut Vec<u8>,
    ) -> Result<()> {
        let mut buffer = [0_u8; 256];
        let mut result = 0;
        let mut piece = |buffer: &mut [u8]| {
            let capacity = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer has the capacity given and lives during the call.
            guarded(|message| unsafe {
                ffi::moe_token_piece(
                    self.vocab(),
                    token,
                    buffer.as_mut_ptr().cast(),
                    capacity,
                    special,
                    &raw mut result,
                    message,
                )
            })
            .map_err(|failure| failure.into_error("turn a token into text"))?;
            Ok::<i32, Error>(result)
        };
        let count = piece(&mut buffer)?;
        if let Ok(count) = usize::try_from(count) {
            into.extend_from_slice(buffer.get(..count).unwrap_or_default());
            return Ok(());
        }
        let mut long = vec![0; count.unsigned_abs() as usize];
        let count = usize::try_from(piece(&mut long)?).unwrap_or(0);
        into.extend_from_slice(long.get(..count).unwrap_or_default());
        Ok(())
    }

    /// Whether the token ends a text.
    pub(crate) fn is_end(&self, token: Token) -> bool {
        // SAFETY: the vocabulary is alive, and the engine checks the token's range.
        unsafe { ffi::llama_vocab_is_eog(self.vocab(), token) }
    }

    /// Formats messages by the model's own template, if the engine knows it.
    pub(crate) fn chat_prompt(&self, messages: &[(CString, CString)]) -> Result<String> {
        // SAFETY: the model is alive; the text, if any, is part of it.
        let template = unsafe { ffi::llama_model_chat_template(self.as_ptr(), ptr::null()) };
        if template.is_null() {
            return Err(Error::NoChatTemplate);
        }
        let pointers: Vec<ffi::llama_chat_message> = messages
            .iter()
            .map(|(role, content)| ffi::llama_chat_message {
                role: role.as_ptr(),
                content: content.as_ptr(),
            })
            .collect();
        let text: usize = messages.iter().map(|(_, content)| content.as_bytes().len()).sum();
        let mut buffer = vec![0_u8; text * 2 + 1024];
        loop {
            let capacity = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
            let mut result = 0;
            // SAFETY: template, messages and buffer live during the call and have the lengths
            // given.
            guarded(|message| unsafe {
                ffi::moe_chat_prompt(
                    template,
                    pointers.as_ptr(),
                    pointers.len(),
                    buffer.as_mut_ptr().cast(),
                    capacity,
                    &raw mut result,
                    message,
                )
            })
            .map_err(|failure| failure.into_error("apply the chat template"))?;
            let length = usize::try_from(result).map_err(|_| Error::NoChatTemplate)?;
            if length <= buffer.len() {
                buffer.truncate(length);
                return Ok(String::from_utf8_lossy(&buffer).into_owned());
            }
            buffer.resize(length, 0);
        }
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        let _turn = self.rpc.turn_to_free();
        // Before the memory goes that they read into.
        if let Some(pager) = &mut self.pager {
            pager.stop();
        }
        // SAFETY: the model was ours alone, and whoever used it held an `Arc` of `self`.
        let freed = guarded(|message| unsafe { ffi::moe_model_free(self.as_ptr(), message) });
        if let Err(failure) = freed {
            tracing::error!(target: "llama.cpp", "freeing a model failed: {}", failure.reason);
        }
    }
}

/// Loads the file, or a stream in its place, with memory of the engine's or of ours.
///
/// # Safety
/// What the parameters, the stream and the memory point to must live during the call and be used by nobody else, and what the engine
/// keeps of the parameters as long as the model.
unsafe fn load_from(
    path: &CStr,
    stream: Option<&ffi::moe_stream>,
    memory: Option<&ffi::moe_host_memory>,
    params: &ffi::llama_model_params,
    model: &mut *mut ffi::llama_model,
) -> std::result::Result<(), Failure> {
    let (path, params, model) = (path.as_ptr(), ptr::from_ref(params), ptr::from_mut(model));
    // SAFETY: by the caller's promise; path, parameters and the place of the model live during the call.
    guarded(|message| unsafe {
        match (stream, memory) {
            (stream, Some(memory)) => {
                let stream = stream.map_or(ptr::null(), ptr::from_ref);
                ffi::moe_model_load_held(path, stream, memory, params, model, message)
            }
            (Some(stream), None) => ffi::moe_model_load_stream(stream, params, model, message),
            (None, None) => ffi::moe_model_load(path, params, model, message),
        }
    })
}

/// Whether the engine reads streams of ours.
const CAN_STREAM: bool = cfg!(all(target_os = "linux", target_env = "gnu"));

/// The experts that the CPU has, and their share of all bytes that are loaded.
fn experts_of_cpu(plan: &Plan) -> (HashSet<&str>, f32) {
    let experts = plan.tensors().iter().filter(|p| p.device == CPU && p.tensor.kind.is_expert());
    let bytes: u64 = experts.clone().map(|placed| placed.tensor.bytes).sum();
    #[allow(clippy::cast_precision_loss)] // a share
    let share = bytes as f32 / plan.model().tensor_bytes.max(1) as f32;
    (experts.map(|placed| &*placed.tensor.name).collect(), share.min(1.0))
}

/// Whether the engine maps the file in this mode.
fn maps(mode: LoadMode, devices: &[ffi::ggml_backend_dev_t]) -> Result<bool> {
    let all_map = || {
        devices.iter().filter(|device| !device.is_null()).try_fold(true, |all, &device| {
            let mut maps = true;
            // SAFETY: devices live as long as the process; `maps` is written during the call.
            guarded(|message| unsafe { ffi::moe_device_maps(device, &raw mut maps, message) })
                .map_err(|failure| failure.into_error("ask a device whether it maps files"))?;
            Ok::<bool, Error>(all && maps)
        })
    };
    match mode {
        LoadMode::Auto => all_map(),
        LoadMode::Mapped => Ok(true),
        _ => Ok(false),
    }
}

/// How many layers each device gets, as the proportions that the engine wants, for all the devices
/// that it can have. It reads one for each device that it is given, of which there are never more.
fn tensor_split(layers: &[u32]) -> Vec<f32> {
    // SAFETY: a plain function that returns a constant.
    let most = unsafe { ffi::llama_max_devices() };
    let mut split = vec![0.0; most];
    for (share, &layers) in split.iter_mut().zip(layers) {
        #[allow(clippy::cast_precision_loss)] // exact up to 2^24 layers
        let exact = layers as f32;
        *share = exact;
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_share_for_every_device() {
        let layers: Vec<u32> = (1..).take(MAX_DEVICES).collect();
        let split = tensor_split(&layers);
        assert!(split.len() > MAX_DEVICES, "{}", split.len());
        let shares: Vec<String> = split.iter().map(f32::to_string).collect();
        let layers: Vec<String> = layers.iter().map(u32::to_string).collect();
        assert_eq!(shares[..MAX_DEVICES], layers);
    }
}
