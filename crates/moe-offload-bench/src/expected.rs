//! What a policy has to put on each device, computed apart from the process that loads by it.

use moe_offload::GgufFile;
use moe_offload::plan::{CPU, Device};

use super::error::{BenchError, BenchResult};
use super::protocol::{Protocol, Setting};
use super::record::ExpectedWeights;

/// From the file's header and the policy's name; `None` under `fit`, which depends on what the
/// engine measures. With `fit` inside a list likewise.
pub(super) fn weights(
    protocol: &Protocol,
    setting: &Setting,
    devices: &[Device],
) -> BenchResult<Option<Vec<ExpectedWeights>>> {
    let model = protocol.model(&setting.model).ok_or_else(|| BenchError::Protocol {
        what: format!("it has no model `{}`", setting.model),
    })?;
    let gguf = GgufFile::open(&model.path)?;
    let context = setting.context();
    if setting.policy.as_str().split(';').any(|rule| rule.trim().starts_with("fit")) {
        return Ok(None);
    }
    let policy = setting.policy.resolve(&gguf, || Ok(0))?;
    let plan = policy.plan(&gguf, devices, &context)?;
    let on_devices = plan.devices().iter().filter(|device| device.name != CPU);
    let rows = on_devices.map(|device| ExpectedWeights {
        device: device.name.clone(),
        weights_bytes: device.weights_bytes + device.padding_bytes,
    });
    Ok(Some(rows.collect()))
}
