//! From a setting of a protocol to what loads it.

use moe_offload::plan::CPU;
use moe_offload::{GgufFile, MoeModel, MoeModelBuilder, OffloadPolicy};

use super::error::{BenchError, BenchResult};
use super::protocol::{Protocol, Setting};

/// What loads a setting.
pub(super) fn builder(protocol: &Protocol, setting: &Setting) -> BenchResult<MoeModelBuilder> {
    let model = protocol.model(&setting.model).ok_or_else(|| BenchError::Protocol {
        what: format!("it has no model `{}`", setting.model),
    })?;
    let gguf = GgufFile::open(&model.path)?;
    let with = |policy: OffloadPolicy| {
        let builder = MoeModel::builder(&model.path)
            .policy(policy)
            .context_tokens(setting.context_tokens)
            .micro_batch_tokens(setting.micro_batch_tokens)
            .threads(setting.threads)
            .load_mode(protocol.load_mode);
        protocol.rpc_servers.iter().fold(builder, MoeModelBuilder::rpc_server)
    };
    let policy = setting.policy.resolve(&gguf, || {
        let plan = with(OffloadPolicy::AllExperts).forecast()?;
        let on_devices = plan.devices().iter().filter(|device| device.name != CPU);
        Ok(on_devices.map(|device| device.total_bytes).max().unwrap_or(0))
    })?;
    Ok(with(policy))
}
