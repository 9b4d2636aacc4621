//! A context: the KV cache and the buffers to compute with.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::call::{Failure, copied, guarded, table};
use super::offload::OffloadFrom;
use super::paging::PagerWatch;
use super::threads::Threads;
use super::weights::Weights;
use super::{Rewind, Token, ffi, locks};
use crate::context::ContextOptions;
use crate::device::DeviceMemory;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::plan::Plan;

/// Sizes and threads of a context.
#[derive(Clone, Debug)]
pub(crate) struct ContextSettings {
    context: ContextOptions,
    threads: u32,
    /// Tokens from which experts in CPU memory are computed on a device; `None`: as the engine decides.
    offload_from: Option<u32>,
    /// Experts that a token uses.
    active_experts: usize,
    /// Count which experts the routers choose.
    pub(crate) watch_experts: bool,
}

impl ContextSettings {
    pub(crate) fn of(plan: &Plan, threads: u32) -> Self {
        Self {
            context: plan.context().clone(),
            threads,
            offload_from: plan.context().expert_offload_tokens,
            active_experts: plan.active_experts(),
            watch_experts: false,
        }
    }
}

/// A token and its log-probability.
pub(crate) type Likelihood = (Token, f32);

/// A token to compute, of one of several sequences.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchToken {
    pub(crate) token: Token,
    pub(crate) position: i32,
    pub(crate) sequence: i32,
    /// Its result chooses the next token.
    pub(crate) is_last: bool,
}

/// Whether the engine can go on with a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Usable,
    /// Servers were not waited for any more, so that what it holds is made up: it is emptied before it is used.
    Stale,
    /// A failure interrupted the engine in the middle of a change.
    Lost,
    /// Likewise by an exception: other threads may still be computing in it.
    Abandoned,
}

/// A context over shared weights. Freed on drop, before it lets go of the weights.
pub(crate) struct Context {
    raw: NonNull<ffi::llama_context>,
    weights: Arc<Weights>,
    settings: ContextSettings,
    /// Tokens that the engine computes at once.
    micro_batch_tokens: u32,
    rewind: Rewind,
    /// What the engine's abort callback looks at; kept as long as the engine may.
    limits: Option<Box<Limits>>,
    state: State,
    /// The last failure was that a device had no memory left.
    out_of_memory: bool,
    /// Where a callback looks into graphs. Dropped after the context is freed.
    threads: Option<Threads>,
    /// What the engine's evaluation callback pages by. Its memory stays where it is until this is
    /// dropped, which is after the context is freed.
    paging: Option<PagerWatch>,
    /// What the engine's evaluation callback counts in. Its memory stays where it is until this is
    /// dropped, which is after the context is freed.
    pub(super) watch: Option<super::expert_watch::ExpertWatch>,
}

// SAFETY: the engine binds a context to no thread; all use is through `&mut self`, or by reads
// that change nothing. It is not `Sync`, since the pointer is not.
unsafe impl Send for Context {}

impl Context {
    /// `limits` are those of making it.
    pub(crate) fn new(
        weights: &Arc<Weights>,
        settings: &ContextSettings,
        limits: &Limits,
    ) -> Result<Self> {
        // SAFETY: a plain function that returns default values.
        let mut params = unsafe { ffi::llama_context_default_params() };
        let threads = i32::try_from(settings.threads).unwrap_or(i32::MAX);
        let ContextSettings { context: sizes, .. } = settings;
        params.n_ctx = sizes.context_tokens.unwrap_or(0);
        params.n_batch = sizes.batch_tokens;
        params.n_ubatch = sizes.micro_batch_tokens.min(sizes.batch_tokens);
        params.n_seq_max = sizes.sequences;
        // Sequences share the cells: each may be as long as the others leave room for.
        params.kv_unified = true;
        params.type_k = sizes.kv_type.id();
        params.type_v = sizes.kv_type.id();
        params.offload_kqv = !sizes.cache_on_host;
        params.op_offload = sizes.operation_offload;
        params.n_threads = threads;
        params.n_threads_batch = threads;
        // Sliding-window layers keep their window, not the whole context.
        params.swa_full = false;
        let watch = settings.watch_experts.then(super::expert_watch::ExpertWatch::new);
        let counting =
            watch.as_ref().map_or(ptr::null_mut(), super::expert_watch::ExpertWatch::as_ptr);
        if let Some(watch) = &watch {
            watch.set(&mut params);
        }
        let paging = PagerWatch::new(weights, Weights::pager, counting)?;
        if let (Some(paging), Some(pager)) = (&paging, weights.pager()) {
            paging.set(&mut params);
            params.n_ubatch = pager.most_tokens_at_once(params.n_ubatch, settings.active_experts);
            // The engine would copy experts to a device without asking whether they are there.
            params.op_offload = false;
        }
        let mut context = ptr::null_mut();
        let turn = weights.rpc.turn(limits)?;
        let _reading = locks::read_registry();
        let _offload = OffloadFrom::tokens(settings.offload_from);
        // SAFETY: the model is alive and stays so by the `Arc`; params live during the call.
        let created = guarded(|message| unsafe {
            ffi::moe_context_new(weights.as_ptr(), &raw const params, &raw mut context, message)
        });
        let context =
            created.map_err(|failure| failure.into_error("create a context")).and_then(|()| {
                NonNull::new(context).ok_or_else(|| Error::Engine {
                    operation: "create a context",
                    reason: String::new(),
                })
            });
        let looks_into_graphs = params.cb_eval.is_some();
        let mut context = match context {
            Ok(raw) => Self {
                raw,
                weights: Arc::clone(weights),
                settings: settings.clone(),
                micro_batch_tokens: params.n_ubatch,
                rewind: rewind_of(raw),
                limits: None,
                state: State::Usable,
                out_of_memory: false,
                threads: None,
                paging,
                watch,
            },
            Err(error) => return turn.check().and(weights.rpc.check()).and(Err(error)),
        };
        if looks_into_graphs && settings.threads > 1 {
            context.threads = Some(Threads::attach(context.raw, settings.threads)?);
        }
        turn.check()?;
        weights.rpc.check()?;
        Ok(context)
    }

    /// Another one of the same sizes over the same weights.
    pub(crate) fn another(&self) -> Result<Self> {
        Self::new(&self.weights, &self.settings, &Limits::default())
    }

    pub(super) fn as_ptr(&mut self) -> *mut ffi::llama_context {
        self.raw.as_ptr()
    }

    pub(crate) fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// From now on computing stops when `limits` say so.
    pub(crate) fn watch(&mut self, limits: &Limits) {
        let limits = (!limits.are_none()).then(|| Box::new(limits.clone()));
        let (callback, user) = match &limits {
            Some(limits) => (Some(must_stop as _), ptr::from_ref(&**limits).cast_mut().cast()),
            None => (None, ptr::null_mut()),
        };
        // SAFETY: the context is alive and idle; the limits are kept in `self` until they are
        // replaced here, so the engine never looks at freed ones.
        unsafe { ffi::llama_set_abort_callback(self.as_ptr(), callback, user) };
        self.limits = limits;
    }

    /// Tokens from which experts in CPU memory are computed on a device; `None`: as the engine decides. Of graphs that
    /// are made from now on: the engine uses the last one again for a batch of the same size.
    pub(crate) fn offload_from(&mut self, tokens: Option<u32>) {
        self.settings.offload_from = tokens;
    }

    /// What it takes to go back.
    pub(crate) fn rewind(&self) -> Rewind {
        self.rewind
    }

    /// Tokens that the engine computes at once.
    pub(crate) fn micro_batch_tokens(&self) -> u32 {
        self.micro_batch_tokens
    }

    /// How many tokens to compute in a call, at most so many: less while experts on disk have less memory than
    /// at first, and one batch could use more than that.
    pub(crate) fn tokens_at_once(&self, most: usize) -> usize {
        let pager = self.weights.pager().filter(|_| self.paging.is_some());
        let Some(pager) = pager else { return most };
        // What is more than a micro-batch the engine divides itself; for one token nothing is searched.
        let wanted = u32::try_from(most).unwrap_or(u32::MAX).min(self.micro_batch_tokens);
        let now = pager.tokens_at_once(wanted, self.settings.active_experts);
        if now < wanted { now as usize } else { most }
    }

    /// Whether something may end what is computed.
    pub(crate) fn is_limited(&self) -> bool {
        self.limits.is_some()
    }

    fn check_limits(&self) -> Result<()> {
        self.limits.as_deref().map_or(Ok(()), Limits::check)
    }

    /// Computes these tokens after those that are there.
    pub(crate) fn decode(&mut self, tokens: &[Token]) -> Result<()> {
        self.check_limits()?;
        let failed = |reason: String| Error::Engine { operation: "compute", reason };
        let count = i32::try_from(tokens.len()).map_err(|_| failed("too many tokens".into()))?;
        let mut result = 0;
        let context = self.raw.as_ptr();
        self.freshen()?;
        // SAFETY: the context is alive and used by nobody else; the tokens live during the call.
        self.computing("compute", |message| unsafe {
            ffi::moe_decode(context, tokens.as_ptr(), count, &raw mut result, message)
        })?;
        self.decoded(result)
    }

    /// Waits until what was begun is done.
    pub(crate) fn synchronize(&mut self) -> Result<()> {
        let context = self.raw.as_ptr();
        // SAFETY: the context is alive and used by nobody else.
        self.computing("compute", |message| unsafe { ffi::moe_synchronize(context, message) })
    }

    /// Whether the last failure was that a device had no memory left.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// Computes one token of each of several sequences, each at its position.
    pub(crate) fn decode_together(&mut self, steps: &[BatchToken]) -> Result<()> {
        self.check_limits()?;
        let tokens: Vec<Token> = steps.iter().map(|step| step.token).collect();
        let positions: Vec<i32> = steps.iter().map(|step| step.position).collect();
        let sequences: Vec<i32> = steps.iter().map(|step| step.sequence).collect();
        let wanted: Vec<i8> = steps.iter().map(|step| i8::from(step.is_last)).collect();
        let mut result = 0;
        let context = self.raw.as_ptr();
        self.freshen()?;
        // SAFETY: the context is alive and used by nobody else; the arrays have the length given
        // and live during the call.
        self.computing("compute", |message| unsafe {
            ffi::moe_decode_together(
                context,
                tokens.as_ptr(),
                positions.as_ptr(),
                sequences.as_ptr(),
                wanted.as_ptr(),
                tokens.len(),
                &raw mut result,
                message,
            )
        })?;
        self.decoded(result)
    }

    /// What the result of `llama_decode` means.
    pub(super) fn decoded(&mut self, result: i32) -> Result<()> {
        let failed = |reason| Err(Error::Engine { operation: "compute", reason });
        match result {
            0 => Ok(()),
            1 => failed("the KV cache has no room".to_owned()),
            2 => Err(self.limits.as_deref().cloned().unwrap_or_default().stopped()),
            code => {
                if code < -1 {
                    self.state = State::Lost;
                }
                self.out_of_memory = code == -2; // GGML_STATUS_ALLOC_FAILED
                failed(format!("llama_decode returned {code}"))
            }
        }
    }

    /// Forgets one sequence.
    pub(crate) fn forget(&mut self, sequence: i32) -> Result<()> {
        if self.state == State::Stale {
            return Ok(()); // as in `keep`
        }
        let context = self.raw.as_ptr();
        // SAFETY: the context is alive and used by nobody else.
        self.computing("forget a sequence", |message| unsafe {
            ffi::moe_context_forget(context, sequence, message)
        })
    }

    /// Forgets all but the first `keep` tokens; returns how many are really left. Where the memory
    /// cannot go back, those that are left by a checkpoint, which was made after them or the next
    /// and keeps so many; without one, none.
    pub(crate) fn truncate(
        &mut self,
        keep: usize,
        checkpoint: Option<(&[u8], usize)>,
    ) -> Result<usize> {
        if self.state == State::Stale {
            return Ok(0); // it is cleared when something is to be computed: a server may still be silent
        }
        let position = |tokens: usize| i32::try_from(tokens).unwrap_or(i32::MAX);
        let (state, tokens) = checkpoint.unwrap_or((&[], 0));
        let mut kept = 0;
        let context = self.raw.as_ptr();
        // SAFETY: the context is alive and used by nobody else; the state lives during the call.
        self.computing("forget tokens", |message| unsafe {
            ffi::moe_context_keep(
                context,
                position(keep),
                state.as_ptr(),
                state.len(),
                position(tokens),
                &raw mut kept,
                message,
            )
        })?;
        Ok(usize::try_from(kept).unwrap_or(0))
    }

    /// Bytes of a checkpoint made now; 0 where none is needed to go back.
    pub(crate) fn checkpoint_bytes(&mut self) -> Result<u64> {
        if self.rewind == Rewind::Free {
            return Ok(0);
        }
        let context = self.raw.as_ptr();
        let mut bytes = 0;
        // SAFETY: the context is alive and used by nobody else.
        self.reading("measure a checkpoint", |message| unsafe {
            ffi::moe_checkpoint_size(context, &raw mut bytes, message)
        })?;
        Ok(bytes as u64)
    }

    /// What of the memory cannot go back by itself, as bytes for [`Self::keep`].
    pub(crate) fn checkpoint(&mut self) -> Result<Vec<u8>> {
        let bytes = self.checkpoint_bytes()?;
        let mut state = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let context = self.raw.as_ptr();
        // SAFETY: the context is alive and used by nobody else; the buffer has the length given and
        // lives during the call.
        self.reading("make a checkpoint", |message| unsafe {
            ffi::moe_checkpoint_get(context, state.as_mut_ptr(), state.len(), message)
        })?;
        Ok(state)
    }

    /// The log-probabilities of `token` and of the `likeliest` tokens, in the result of the token at
    /// this index of the last batch.
    pub(crate) fn log_probabilities(
        &mut self,
        index: i32,
        token: Token,
        likeliest: usize,
    ) -> Result<(Likelihood, Vec<Likelihood>)> {
        let empty = || ffi::moe_log_probability { token: 0, log_probability: 0.0 };
        let (mut chosen, mut rows) = (empty(), Vec::new());
        rows.resize_with(likeliest, empty);
        let mut count = 0;
        let context = self.raw.as_ptr();
        // SAFETY: the context is alive and used by nobody else; there are as many rows as it says.
        self.reading("read the probabilities", |message| unsafe {
            let (chosen, rows) = (&raw mut chosen, rows.as_mut_ptr());
            let counted = &raw mut count;
            ffi::moe_log_probabilities(
                context, index, token, chosen, rows, likeliest, counted, message,
            )
        })?;
        rows.truncate(count);
        let pair = |row: &ffi::moe_log_probability| (row.token, row.log_probability);
        Ok((pair(&chosen), rows.iter().map(pair).collect()))
    }

    /// The state of the conversation, as bytes for [`Self::set_state`].
    pub(crate) fn state(&mut self) -> Result<Vec<u8>> {
        self.watch(&Limits::default()); // those of the last generation are over
        let context = self.raw.as_ptr();
        let mut bytes = 0;
        // SAFETY: the context is alive and used by nobody else.
        self.reading("measure the state", |message| unsafe {
            ffi::moe_state_size(context, &raw mut bytes, message)
        })?;
        let mut state = vec![0; bytes];
        // SAFETY: as above; the buffer has the length given and lives during the call.
        self.reading("save the state", |message| unsafe {
            ffi::moe_state_get(context, state.as_mut_ptr(), &raw mut bytes, message)
        })?;
        state.truncate(bytes);
        Ok(state)
    }

    /// Replaces the memory by a state that this engine wrote for such a context.
    pub(crate) fn set_state(&mut self, state: &[u8]) -> Result<()> {
        self.watch(&Limits::default());
        self.freshen()?;
        let context = self.raw.as_ptr();
        // SAFETY: the context is alive and used by nobody else; the state lives during the call.
        self.computing("restore the state", |message| unsafe {
            ffi::moe_state_set(context, state.as_ptr(), state.len(), message)
        })
    }

    /// Empties it if what it holds is made up.
    pub(super) fn freshen(&mut self) -> Result<()> {
        if self.state != State::Stale {
            return Ok(());
        }
        self.state = State::Usable;
        let context = self.raw.as_ptr();
        let mut kept = 0;
        // SAFETY: the context is alive and used by nobody else; no state is given.
        self.computing("forget what was given up", |message| unsafe {
            ffi::moe_context_keep(context, 0, ptr::null(), 0, 0, &raw mut kept, message)
        })
    }

    /// Runs a call that changes what the context holds. After a failure nobody knows what that is.
    pub(super) fn computing(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(*mut ffi::moe_message) -> ffi::moe_status,
    ) -> Result<()> {
        let done = self.watched(operation, call)?;
        done.map_err(|failure| {
            self.state = self.state_after(&failure);
            self.out_of_memory = failure.is_out_of_memory();
            failure.into_error(operation)
        })
    }

    /// An exception ends the calling thread's part of a computation, not that of the others. There are none
    /// in what a device's backend does.
    fn state_after(&self, failure: &Failure) -> State {
        let computes_on = failure.is_exception() && !failure.is_of_device();
        if computes_on && self.settings.threads > 1 { State::Abandoned } else { State::Lost }
    }

    /// Runs a call that only looks at the context, which is as before if the call fails, unless it finds what is
    /// no number.
    pub(super) fn reading(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(*mut ffi::moe_message) -> ffi::moe_status,
    ) -> Result<()> {
        self.watched(operation, call)?.map_err(|failure| {
            if failure.is_no_number() {
                // What it came from may be in the cache, which no later prompt shall go on with.
                self.state = State::Stale;
            }
            failure.into_error(operation)
        })
    }

    /// How a call ended. The outer error is something else that explains a failure and spoils a
    /// success: a server that was lost or given up, or experts that could not be read.
    fn watched(
        &mut self,
        operation: &'static str,
        call: impl FnOnce(*mut ffi::moe_message) -> ffi::moe_status,
    ) -> Result<std::result::Result<(), Failure>> {
        match self.state {
            State::Usable => {}
            State::Stale => {
                let reason = "it was given up while a server was silent; compute it again".into();
                return Err(Error::Engine { operation, reason });
            }
            // A server that can be connected again is said first.
            State::Lost | State::Abandoned => {
                return self.weights.rpc.check().and(Err(Error::ContextLost));
            }
        }
        let limits = self.limits.as_deref().cloned().unwrap_or_default();
        let turn = self.weights.rpc.turn(&limits)?;
        let pager = self.weights.pager().filter(|_| self.paging.is_some());
        let _turn = pager.map(super::paging::Pager::compute_lock);
        let context = self.raw.as_ptr();
        let has_servers = !self.weights.rpc.are_none();
        let offload = OffloadFrom::tokens(self.settings.offload_from);
        let mut done = guarded(call);
        drop(offload);
        if has_servers && done.is_ok() {
            // Nobody else's wait shall end what this call began.
            // SAFETY: the context is alive and used by nobody else.
            done = guarded(|message| unsafe { ffi::moe_synchronize(context, message) });
        }
        let paged = match (pager.and_then(super::paging::Pager::failure), &mut self.paging) {
            (Some(failure), _) => Err(failure),
            (None, Some(paging)) => paging.check(),
            (None, None) => Ok(()),
        };
        let given_up = turn.check();
        let spoiled = self.weights.rpc.check().and(paged);
        self.state = match (&given_up, &spoiled, &done) {
            (Ok(()), Ok(()), _) => return Ok(done),
            (.., Err(failure)) if failure.is_exception() => self.state_after(failure),
            (_, Err(_), _) => State::Lost,
            (Err(_), Ok(()), _) => State::Stale,
        };
        given_up.and(spoiled).map(|()| done)
    }

    /// What the engine has allocated, by device, the CPU last.
    pub(crate) fn memory(&self) -> Result<Vec<DeviceMemory>> {
        let empty = || ffi::moe_memory {
            device: ptr::null(),
            held: ffi::MOE_HELD_DEVICE,
            weights_bytes: 0,
            context_bytes: 0,
            compute_bytes: 0,
        };
        let _turn = self.weights.rpc.turn(&Limits::default())?;
        let context = self.raw.as_ptr();
        let rows = table(empty, |rows, capacity, count, message| {
            // SAFETY: the context is alive; `table` gives as many rows as it says.
            unsafe { ffi::moe_context_memory(context, rows, capacity, count, message) }
        })
        .map_err(|failure| failure.into_error("measure the memory"))?;
        Ok(DeviceMemory::by_device(rows.iter().map(|row| DeviceMemory {
            weights_bytes: row.weights_bytes,
            context_bytes: row.context_bytes,
            compute_bytes: row.compute_bytes,
            host: self.weights.held_by_host(row),
            // SAFETY: the engine keeps devices and their names as long as the process.
            ..DeviceMemory::empty(&unsafe { copied(row.device) })
        })))
    }
}

impl Context {
    /// Keeps for ever what threads that still compute may look at: the graph, its buffers and weights, the pool
    /// of threads and what the engine's callbacks were given. Such threads never end, and turn on the spot.
    fn leak(&mut self) {
        let threads = self.settings.threads - 1;
        tracing::error!(
            target: "moe_offload",
            "a computation on several threads was interrupted; what they use of this model is never freed, and \
             {threads} of them never end: start the program anew when you can"
        );
        std::mem::forget(Arc::clone(&self.weights));
        std::mem::forget((self.threads.take(), self.paging.take(), self.limits.take()));
        std::mem::forget(self.watch.take());
    }

    /// The next graph fails between two nodes.
    #[cfg(test)]
    pub(super) fn fail_in_graph(&mut self) {
        let fails = Some(ffi::moe_fail_in_graph as _);
        // SAFETY: the context is alive and idle; the callback looks at nothing.
        unsafe { ffi::llama_set_abort_callback(self.as_ptr(), fails, ptr::null_mut()) };
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.state == State::Abandoned {
            return self.leak();
        }
        let _turn = self.weights.rpc.turn_to_free();
        // SAFETY: the context was ours alone; its model is still alive, as the `Arc` is dropped
        // after this.
        let freed = guarded(|message| unsafe { ffi::moe_context_free(self.raw.as_ptr(), message) });
        if let Err(failure) = freed {
            tracing::error!(target: "llama.cpp", "freeing a context failed: {}", failure.reason);
        }
    }
}

fn rewind_of(context: NonNull<ffi::llama_context>) -> Rewind {
    // SAFETY: the context is alive; the call only reads what its model is.
    match unsafe { ffi::moe_context_rewind(context.as_ptr()) } {
        ffi::MOE_REWIND_FREE => Rewind::Free,
        ffi::MOE_REWIND_WINDOW => Rewind::Window,
        _ => Rewind::Exact,
    }
}

unsafe extern "C" fn must_stop(limits: *mut c_void) -> bool {
    // SAFETY: the limits are kept alive, and unchanged, by the context that the engine asks for.
    unsafe { &*limits.cast::<Limits>() }.interruption().is_some()
}
