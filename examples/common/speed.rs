//! What makes a model faster or slower and changes nothing else.

use clap::Args;
use indicatif::HumanBytes;
use moe_offload::plan::parse_bytes;
use moe_offload::{LoadMode, MoeModel, MoeModelBuilder, PagingOptions};

#[derive(Args)]
#[command(next_help_heading = "Speed, see `bench tune`")]
pub(crate) struct SpeedArguments {
    #[arg(long, allow_negative_numbers = true, value_parser = crate::common::whole::<u32>, help = "Threads that compute on the CPU")]
    threads: Option<u32>,
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true, value_parser = crate::common::whole::<u32>, help = "Tokens computed at once while a prompt is read")]
    micro_batch: Option<u32>,
    #[arg(
        long,
        visible_alias = "host-memory",
        value_name = "MODE",
        help = "How weights in CPU memory are held: auto, mapped (from the file), read (or anonymous), huge \
                (pages), locked (never swapped), interleaved (over NUMA nodes) or pinned (by a device)"
    )]
    load_mode: Option<LoadMode>,
    #[arg(
        long,
        help = "Leave weights in CPU memory in the file's layout: less memory, slower prompts, and the last bits of \
                experts on disk, which never are in another one"
    )]
    no_repack: bool,
    #[arg(long, help = "Compute nothing on a device of what is in CPU memory")]
    no_operation_offload: bool,
    #[arg(
        long,
        value_name = "TOKENS",
        allow_negative_numbers = true,
        value_parser = crate::common::whole::<u32>,
        conflicts_with = "no_operation_offload",
        help = "Tokens from which a device computes with experts in CPU memory: 1 for every token, 32 only for \
                prompts; without it measured while loading"
    )]
    expert_offload_tokens: Option<u32>,
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = bytes,
        allow_hyphen_values = true,
        help = "CPU memory for experts that the policy leaves on disk (by =disk, or by fit:...,ram:SIZE, \
                beside which the smaller one counts), such as 8GiB"
    )]
    expert_cache: Option<u64>,
    #[arg(long, help = "Compare each read of an expert on disk with the first one")]
    verify_experts: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

impl SpeedArguments {
    /// What is likely a mistake.
    pub(crate) fn warning(&self) -> Option<String> {
        let cpus = std::thread::available_parallelism().ok()?.get();
        let threads = self.threads.filter(|&threads| threads as usize > cpus)?;
        Some(format!(
            "warning: --threads {threads} is more than the {} that this process may use: threads that wait for each other make it slower",
            crate::common::count(cpus, "CPU")
        ))
    }

    /// What the plan does not say of experts on disk.
    pub(crate) fn notes(&self, model: &MoeModel) -> Vec<String> {
        let Some(paging) = model.paging() else {
            let is_for_disk = self.expert_cache.is_some() || self.verify_experts;
            let note = "--expert-cache and --verify-experts change nothing: no experts are on disk (see --policy)";
            return is_for_disk.then(|| note.to_owned()).into_iter().collect();
        };
        let tokens = paging.tokens_at_once;
        let is_less = tokens < model.plan().context().micro_batch_tokens;
        let in_parts = is_less.then(|| {
            format!("prompts are read {tokens} tokens at a time: the memory for experts holds no more of their experts")
        });
        self.smaller_cache(model).into_iter().chain(in_parts).collect()
    }

    /// Where the plan has less memory for experts than was asked for, though they need more.
    fn smaller_cache(&self, model: &MoeModel) -> Option<String> {
        let disk = model.plan().disk().filter(|disk| disk.even_hit_rate() != Some(1.0))?;
        let planned = disk.cache_bytes?;
        let given = self.expert_cache.filter(|&given| planned < given)?;
        let (given, planned) = (HumanBytes(given), HumanBytes(planned));
        Some(format!(
            "--expert-cache is {given}, but the plan's {planned} counts, which is smaller"
        ))
    }

    pub(crate) fn apply(&self, mut builder: MoeModelBuilder) -> MoeModelBuilder {
        if let Some(threads) = self.threads {
            builder = builder.threads(threads);
        }
        if let Some(tokens) = self.micro_batch {
            builder = builder.micro_batch_tokens(tokens);
        }
        if let Some(mode) = self.load_mode {
            builder = builder.load_mode(mode);
        }
        if let Some(tokens) = self.expert_offload_tokens {
            builder = builder.expert_offload_tokens(tokens);
        }
        builder = builder.repack(!self.no_repack);
        let paging = PagingOptions::default().verify(self.verify_experts);
        builder = builder.paging(match self.expert_cache {
            Some(bytes) => paging.cache_bytes(bytes),
            None => paging,
        });
        builder.operation_offload(!self.no_operation_offload)
    }
}
