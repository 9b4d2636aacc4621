//! What makes a model faster or slower and changes nothing else.

use clap::Args;
use moe_offload::plan::parse_bytes;
use moe_offload::{LoadMode, MoeModelBuilder, PagingOptions};

#[derive(Args)]
#[command(next_help_heading = "Speed, see `bench tune`")]
pub(crate) struct SpeedArguments {
    #[arg(long, help = "Threads that compute on the CPU")]
    threads: Option<u32>,
    #[arg(long, value_name = "TOKENS", help = "Tokens computed at once while a prompt is read")]
    micro_batch: Option<u32>,
    #[arg(
        long,
        visible_alias = "host-memory",
        value_name = "MODE",
        help = "How weights in CPU memory are held: auto, mapped (from the file), read (or anonymous), huge \
                (pages), locked (never swapped), interleaved (over NUMA nodes) or pinned (by a device)"
    )]
    load_mode: Option<LoadMode>,
    #[arg(long, help = "Compute nothing on a device of what is in CPU memory")]
    no_operation_offload: bool,
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = bytes,
        help = "CPU memory for experts that the policy leaves on disk, such as 8GiB"
    )]
    expert_cache: Option<u64>,
    #[arg(long, help = "Compare each read of an expert on disk with the first one")]
    verify_experts: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

impl SpeedArguments {
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
        let paging = PagingOptions::default().verify(self.verify_experts);
        builder = builder.paging(match self.expert_cache {
            Some(bytes) => paging.cache_bytes(bytes),
            None => paging,
        });
        builder.operation_offload(!self.no_operation_offload)
    }
}
