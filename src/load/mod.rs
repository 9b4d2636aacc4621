//! [`MoeModelBuilder`]: from a path and a policy to a loaded model, by a plan that is kept.

pub(crate) mod defaults;
mod devices;
mod dry_load;
mod expert_offload;
mod host_weights;
mod loading;
#[cfg(all(test, feature = "testing"))]
mod test_device;
mod trial;
mod verify;
mod warm_up;

use std::path::PathBuf;

use self::defaults::CHECKPOINT_BYTES;
use crate::context::{ContextOptions, OpenChoices};
#[cfg(doc)]
use crate::device::DeviceMemory;
#[cfg(doc)]
use crate::device::Overhead;
use crate::engine::{LoadMode, LoadSettings};
#[cfg(doc)]
use crate::error::Error;
use crate::gguf::GgmlType;
use crate::limits::CancelHandle;
use crate::model::MoeModel;
use crate::paging::PagingOptions;
use crate::plan::Plan;
use crate::policy::OffloadPolicy;

impl MoeModel {
    /// Describes a model to load; nothing happens before [`MoeModelBuilder::load`].
    pub fn builder(path: impl Into<PathBuf>) -> MoeModelBuilder {
        MoeModelBuilder::new(path.into())
    }
}

/// Everything about a model to load. Setters never fail; [`load`](Self::load) checks it all.
#[must_use = "nothing is loaded before `load`"]
pub struct MoeModelBuilder {
    path: PathBuf,
    policy: OffloadPolicy,
    plan: Option<Plan>,
    context: ContextOptions,
    rpc_servers: Vec<String>,
    budgets: Vec<(String, u64)>,
    overheads: Vec<(String, u64)>,
    warm_up: Option<bool>,
    local_devices: Option<Vec<String>>,
    threads: Option<u32>,
    checkpoint_bytes: u64,
    load: LoadSettings,
    watch_experts: bool,
}

impl std::fmt::Debug for MoeModelBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MoeModelBuilder")
            .field("path", &self.path)
            .field("policy", &self.policy)
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl MoeModelBuilder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            policy: OffloadPolicy::default(),
            plan: None,
            context: ContextOptions::default(),
            rpc_servers: Vec::new(),
            budgets: Vec::new(),
            overheads: Vec::new(),
            warm_up: None,
            local_devices: None,
            threads: None,
            checkpoint_bytes: CHECKPOINT_BYTES,
            load: LoadSettings::default(),
            watch_experts: false,
        }
    }

    /// Where the tensors go; without it by [`OffloadPolicy::default`]: as many experts on the devices as
    /// fit.
    pub fn policy(self, policy: OffloadPolicy) -> Self {
        Self { policy, ..self }
    }

    /// Uses a plan made before, for instance one that was stored, instead of a policy. Its context
    /// replaces what was set. It is checked by [`Plan::check`].
    ///
    /// A server's device is found by the server's address, as [`rpc_server`](Self::rpc_server) was
    /// given it, and gets the name that it has in this process. Devices of this machine, and those of
    /// a plan that knows no address, are found by name. What the plan does not use and is not there
    /// is left out.
    pub fn plan(self, plan: Plan) -> Self {
        Self { plan: Some(plan), ..self }
    }

    /// Tokens of prompt and answer together that the context holds. Without it as many as the
    /// model was trained for, at most 4096.
    pub fn context_tokens(mut self, context_tokens: u32) -> Self {
        self.context.context_tokens = Some(context_tokens);
        self
    }

    /// Tokens computed at once while a prompt is read. More is faster where experts are in CPU memory and a GPU
    /// computes, and takes more memory: without it there it is up to 2048, as far as it pays
    /// ([`ContextOptions::micro_batch_grows`](crate::ContextOptions::micro_batch_grows)), and else 512.
    pub fn micro_batch_tokens(mut self, micro_batch_tokens: u32) -> Self {
        self.context.micro_batch_tokens = micro_batch_tokens;
        self.context.micro_batch_grows = false;
        self
    }

    /// Element type of keys and values; `f16` without it. `q8_0` takes half the memory.
    pub fn kv_type(mut self, kv_type: GgmlType) -> Self {
        self.context.kv_type = kv_type;
        self
    }

    /// Keeps the KV cache in CPU memory, where attention is then computed.
    pub fn cache_on_host(mut self, cache_on_host: bool) -> Self {
        self.context.cache_on_host = cache_on_host;
        self
    }

    /// While a prompt is read, computes large batches of what is in CPU memory, above all experts, on a
    /// device, to which they are copied for it; as llama.cpp does unless told otherwise. Whether that
    /// is faster depends on how fast the copies go and how large the batches are; see
    /// [`micro_batch_tokens`](Self::micro_batch_tokens). Devices of RPC servers take no part in it.
    pub fn operation_offload(mut self, operation_offload: bool) -> Self {
        self.context.operation_offload = operation_offload;
        self
    }

    /// Tokens from which experts in CPU memory are computed on a device, to which those are copied that the tokens use;
    /// 1 for every token of an answer, 32 as llama.cpp does unless told otherwise. Needs
    /// [`operation_offload`](Self::operation_offload) and a device of this machine that takes part in it, else `load`
    /// says [`Error::NoOffloadDevice`].
    ///
    /// Without it, `load` measures for about half a second, and decodes some tokens of the vocabulary for it, whether
    /// the CPU's kernels or the bus to the device are faster with this model, and takes 1 or the engine's own
    /// number; [`MoeModel::expert_offload`] tells what it found. It does not for a model that also uses RPC servers, and
    /// takes the engine's number.
    ///
    /// ```
    /// use moe_offload::{Error, MoeModel};
    ///
    /// let builder = MoeModel::builder("examples/demo-model/demo-moe.gguf").policy("all-experts".parse()?);
    /// let model = match builder.expert_offload_tokens(1).load() {
    ///     // Only a CPU is here, which computes them in any case.
    ///     Err(Error::NoOffloadDevice { .. }) => return Ok(()),
    ///     loaded => loaded?,
    /// };
    /// assert_eq!(model.expert_offload().and_then(|offload| offload.from_tokens), Some(1));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn expert_offload_tokens(mut self, expert_offload_tokens: u32) -> Self {
        self.context.expert_offload_tokens = Some(expert_offload_tokens);
        self
    }

    /// How many conversations may be computed together by
    /// [`MoeModel::generate_together`]; 1 without it. They share the context's tokens.
    pub fn sequences(mut self, sequences: u32) -> Self {
        self.context.sequences = sequences;
        self
    }

    /// CPU memory for checkpoints, at most, for each [context](crate::MoeModel::another); 512 MiB
    /// without it, 0 for none. It is taken as they are made, and not part of the plan.
    ///
    /// Recurrent layers (Qwen3-Next, Jamba, LFM2) and sliding windows cannot go back to an earlier
    /// token, so that a prompt that differs from the last one would be read from its beginning.
    /// Copies of their state let it be read from the last one before the difference. They are made
    /// before a prompt and between its parts, before its last token (which is therefore computed on
    /// its own; of windows after it), and where it differed before; those least recently useful give
    /// way. The attention of all
    /// other layers is not copied, nor anything of models without such layers. One takes some 75 MiB
    /// for Qwen3-Next 80B, 17 MiB for Jamba mini, 3 MiB for GPT-OSS 20B and 200 MiB for Gemma 4 26B;
    /// [`Stats::checkpoint_bytes`](crate::Stats::checkpoint_bytes) says what all take now.
    pub fn checkpoint_bytes(self, checkpoint_bytes: u64) -> Self {
        Self { checkpoint_bytes, ..self }
    }

    /// Sizes that the policy `fit` may choose itself, together with where experts go; what it chose
    /// is in [`Plan::decisions`]. Under a policy without `fit` they are [`Error::InvalidOption`].
    pub fn leave_open(mut self, open: OpenChoices) -> Self {
        self.context.open = open;
        self
    }

    /// Threads that compute on the CPU. Without it one core is left free, or half of them where
    /// there are more than 8: the engine's threads wait for each other by spinning, so that a core
    /// that is also used for something else slows all of them down. Where experts have to be read from
    /// disk it is two of two cores, as one that computes alone is slower than a disk (docs/paging.md).
    /// More than the CPUs that the process may use, and more than 4, is
    /// [`Error::TooManyThreads`]; up to 4 work on fewer CPUs too, slowly.
    pub fn threads(self, threads: u32) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// Adds the devices of an RPC server (`host:port`), which come before this machine's own; see
    /// [`connect_rpc`](crate::connect_rpc) for what can go wrong with one and
    /// [`devices`](crate::devices) for their names. In the policy the address itself may stand for
    /// the server's first device: `layers:0-7=10.0.0.2:50052`. Calls of models that use such servers wait for each other.
    /// A server that is given twice, also by another name of its address, is taken once, under the first.
    pub fn rpc_server(mut self, endpoint: impl Into<String>) -> Self {
        self.rpc_servers.push(endpoint.into());
        self
    }

    /// How weights in CPU memory come from the file, and how that memory is held.
    ///
    /// ```
    /// use moe_offload::{Error, LoadMode, MoeModel};
    ///
    /// let load =
    ///     |mode| MoeModel::builder("examples/demo-model/demo-moe.gguf").load_mode(mode).load();
    /// // Huge pages where there are any.
    /// let model = match load(LoadMode::Huge) {
    ///     Err(Error::HostMemory { fault, .. }) => {
    ///         eprintln!("{fault}");
    ///         load(LoadMode::Read)?
    ///     }
    ///     loaded => loaded?,
    /// };
    /// let cpu = model.memory().last().and_then(|cpu| cpu.host).expect("the CPU comes last");
    /// println!("{} bytes of weights are in huge pages", cpu.huge_bytes);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn load_mode(mut self, mode: LoadMode) -> Self {
        self.load.mode = mode;
        self
    }

    /// Whether the CPU may copy weights of some types into a layout for which it has faster kernels. That takes
    /// memory beside the mapped file, and the kernels add in another order, so that last bits differ; of experts on
    /// disk there is no such copy. By default it may.
    pub fn repack(mut self, repack: bool) -> Self {
        self.load.plain_layout = !repack;
        self
    }

    /// How experts are read that the plan leaves on disk, as `all-experts=disk` or `fit:ram:24GiB` do; without such
    /// experts it changes nothing. Linux only.
    ///
    /// Of [`PagingOptions::cache_bytes`] and the policy's `ram:` the smaller counts; if it holds less than a token
    /// uses at once, `load` says [`Error::PagingBudget`](crate::Error::PagingBudget). What was read is in
    /// [`Stats::paging`](crate::Stats). After a read that failed, or a file that changed, the model has to be
    /// loaded again.
    pub fn paging(mut self, paging: PagingOptions) -> Self {
        self.load.paging = paging;
        self
    }

    /// Is told how much of the weights is loaded, from 0 to 1, on the thread that loads.
    pub fn on_progress(mut self, on_progress: impl FnMut(f32) + Send + 'static) -> Self {
        self.load.on_progress = Some(Box::new(on_progress));
        self
    }

    /// Lets `cancel` stop the load.
    pub fn cancel(mut self, cancel: &CancelHandle) -> Self {
        self.load.cancel = Some(cancel.clone());
        self
    }

    /// Of this machine's own devices, uses only these; none of them where there are none: then the CPU computes,
    /// and what [`rpc_server`](Self::rpc_server) names. Without it all are used. The others are as if they were
    /// not there: a policy, a budget or a stored plan that names one is refused.
    ///
    /// ```
    /// use moe_offload::MoeModel;
    ///
    /// // Whatever GPUs there are.
    /// let model = MoeModel::builder("examples/demo-model/demo-moe.gguf").local_devices(&[]).load()?;
    /// assert_eq!(model.plan().devices().len(), 1);
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    pub fn local_devices(mut self, names: &[&str]) -> Self {
        self.local_devices = Some(names.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// Lets this process use at most so much of a device's memory, all its models together. A server's
    /// address stands for its first device, and `cpu` for CPU memory, of which what is mapped from a file
    /// and what experts on disk are held in take nothing.
    ///
    /// ```
    /// use moe_offload::{Error, MoeModel};
    ///
    /// let model = MoeModel::builder("examples/demo-model/demo-moe.gguf").context_tokens(4_000_000);
    /// let model = model.local_devices(&[]); // the cache is in CPU memory then
    /// let error = model.device_budget("cpu", 1 << 30).load().unwrap_err();
    /// assert!(matches!(error, Error::DoesNotFit { device, .. } if device == "cpu"));
    /// ```
    pub fn device_budget(mut self, device: impl Into<String>, bytes: u64) -> Self {
        self.budgets.push((device.into(), bytes));
        self
    }

    /// So many bytes of a device's memory are left to what the engine does not count, such as kernels,
    /// workspaces and pools, in place of the estimate ([`Overhead`]); 0 for none. What a load really took is
    /// [`DeviceMemory::overhead_bytes`](crate::DeviceMemory::overhead_bytes). A server's address stands
    /// for its first device. A plan that was made before has its own. `load` refuses two for one device
    /// ([`Error::InvalidOption`]).
    pub fn device_overhead(mut self, device: impl Into<String>, bytes: u64) -> Self {
        self.overheads.push((device.into(), bytes));
        self
    }

    /// Whether the load ends with a micro-batch of the largest size and a single token, which are computed
    /// and forgotten: only then is it known what the devices take for computing, and a load that leaves them
    /// too little fails with [`Error::NoRoomToCompute`] instead of the first long prompt. It takes as long
    /// as such a micro-batch does, and what a first prompt has to wait for is done already.
    ///
    /// Without it: under [`fit`](OffloadPolicy::Fit) with a graphics card of this machine that tells its free
    /// memory, unless experts are on disk. Without such a card nothing is computed.
    ///
    /// ```
    /// let builder = moe_offload::MoeModel::builder("examples/demo-model/demo-moe.gguf");
    /// let model = builder.policy("all-experts".parse()?).warm_up(true).load()?;
    /// for row in model.memory() {
    ///     if let Some(bytes) = row.overhead_bytes {
    ///         println!("{} took {bytes} bytes beside the model", row.name);
    ///     }
    /// }
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    pub fn warm_up(mut self, warm_up: bool) -> Self {
        self.warm_up = Some(warm_up);
        self
    }

    /// Counts which experts each layer uses, for
    /// [`MoeModel::expert_use`](crate::MoeModel::expert_use). The engine then stops after every
    /// router, so measure no speed meanwhile.
    pub fn watch_experts(self, watch_experts: bool) -> Self {
        Self { watch_experts, ..self }
    }
}
