//! Models on the CPU.

use std::path::PathBuf;

use moe_offload::{MoeModel, MoeModelBuilder};

/// A builder for the CPU and the RPC servers that it is told of, whatever GPU this machine has: one adds in
/// another order when a batch is another, so that a text may be another too, and has memory of its own.
pub fn on_cpu(path: impl Into<PathBuf>) -> MoeModelBuilder {
    MoeModel::builder(path).local_devices(&[])
}
