//! Raw samples as CSV.

use std::fmt::Write as _;

use super::Report;

pub(super) const COLUMNS: &str = "model,policy,loaded_policy,context_tokens,threads,micro_batch_tokens,\
    repetition,prompt,prompt_tokens,answer_tokens,first_token_seconds,prefill_tokens_per_second,\
    decode_tokens_per_second,wall_seconds,load_seconds,device_bytes,host_bytes,load_peak_bytes,\
    answer_peak_bytes,package_joules,gpu_joules";

/// Every answer on a line; what was not measured is empty.
pub(super) fn write(report: &Report) -> String {
    let mut csv = format!("{COLUMNS}\n");
    let float = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let bytes = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    for speed in report.speeds() {
        let setting = &speed.setting;
        let host = speed.memory.iter().find(|memory| memory.name == moe_offload::plan::CPU);
        let energy = speed.energy.as_ref();
        for answer in &speed.answers {
            let fields = [
                quoted(&setting.model),
                quoted(setting.policy.as_str()),
                quoted(&speed.policy),
                setting.context_tokens.to_string(),
                setting.threads.to_string(),
                setting.micro_batch_tokens.to_string(),
                (speed.repetition + 1).to_string(),
                quoted(&answer.prompt),
                answer.prompt_tokens.to_string(),
                answer.answer_tokens.to_string(),
                float(answer.first_token_seconds),
                float(answer.prefill_tokens_per_second),
                float(answer.decode_tokens_per_second),
                answer.wall_seconds.to_string(),
                speed.load_seconds.to_string(),
                speed.device_bytes().to_string(),
                bytes(host.map(moe_offload::DeviceMemory::total_bytes)),
                bytes(speed.process.load_peak_bytes),
                bytes(speed.process.answer_peak_bytes),
                float(energy.and_then(|energy| energy.package_joules)),
                float(energy.and_then(|energy| energy.gpu_joules)),
            ];
            let _ = writeln!(csv, "{}", fields.join(","));
        }
    }
    csv
}

/// As RFC 4180 has it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn fields_with_commas_are_quoted() {
        assert_eq!(quoted("layers:1,2"), "\"layers:1,2\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(quoted("none"), "none");
    }
}
