//! A rough estimate of how long an answer takes, to tell which of two plans is faster.

use super::{CPU, Plan};

/// The conversation that it is for: a long question and a paragraph of answer.
const PROMPT_TOKENS: f64 = 2048.0;
const ANSWER_TOKENS: f64 = 256.0;
/// Bytes per second of a desktop's memory, a card's memory, and the bus between them. Only their
/// order matters much.
const HOST_BANDWIDTH: f64 = 50e9;
const DEVICE_BANDWIDTH: f64 = 500e9;
const BUS_BANDWIDTH: f64 = 20e9;

/// Seconds to read a long prompt and to answer it, as far as they go into moving bytes.
///
/// A token of the answer reads every weight that is used for it once where it lies, and half of the
/// cache. A micro-batch of the prompt reads all weights, those in CPU memory over the bus.
pub(super) fn answer_seconds(plan: &Plan) -> f64 {
    let model = plan.model();
    #[allow(clippy::cast_precision_loss)] // an estimate
    let float = |n: u64| n as f64;
    let active = match (model.active_experts, model.experts) {
        (Some(active), Some(experts)) if experts > 0 => float(active) / float(experts),
        _ => 1.0,
    };
    let (mut per_token, mut per_micro_batch) = (0.0, 0.0);
    for device in plan.devices() {
        let is_cpu = device.name == CPU;
        let bandwidth = if is_cpu { HOST_BANDWIDTH } else { DEVICE_BANDWIDTH };
        let experts = float(device.expert_bytes);
        let dense = float(device.weights_bytes - device.expert_bytes);
        let cache = float(device.context_bytes.unwrap_or(0)) / 2.0;
        per_token += (experts * active + dense + cache) / bandwidth;
        let over = if is_cpu { BUS_BANDWIDTH } else { DEVICE_BANDWIDTH };
        per_micro_batch += (experts + dense) / over;
    }
    let at_once = float(plan.context().computed_at_once());
    ANSWER_TOKENS * per_token + (PROMPT_TOKENS / at_once).ceil() * per_micro_batch
}
