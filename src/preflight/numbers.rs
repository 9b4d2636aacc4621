//! Numbers with a fraction, by which the engine multiplies or divides. It takes any, and what comes of one that
//! is none is no number for ever after: text without sense, and no error.

use super::Checked;
use super::attention::UNROTATED;
use super::keys::Keys;
use crate::error::ModelFault;
use crate::gguf::Value;

/// What numbers may be whose names end so.
struct Range {
    end: &'static str,
    expected: &'static str,
    holds: fn(f64) -> bool,
}

/// The first that fits counts.
const RANGES: [Range; 6] = [
    // What a norm adds before it divides: some 1e-5 in published models. With more than 1 it makes everything small.
    Range { end: "epsilon", expected: "a number from 0 to 1", holds: |x| (0.0..=1.0).contains(&x) },
    positive(".rope.freq_base"),
    positive(".rope.freq_base_swa"),
    positive(".attention.compress_rope_freq_base"),
    // 0 stands for none.
    not_negative(".rope.scaling.factor"),
    not_negative(".rope.scale_linear"),
];

const fn positive(end: &'static str) -> Range {
    Range { end, expected: "a number above 0", holds: |x| x.is_finite() && x > 0.0 }
}

const fn not_negative(end: &'static str) -> Range {
    Range { end, expected: "a number from 0 up", holds: |x| x.is_finite() && x >= 0.0 }
}

/// By which the engine divides, or multiplies all scores, without a look at it, by architecture.
const NOT_ZERO: [(&str, &[&str]); 9] = [
    ("gemma2", &["attn_logit_softcapping", "final_logit_softcapping"]),
    ("granite", &["logit_scale"]),
    ("granite_swa", &["logit_scale"]),
    ("granitemoe", &["logit_scale"]),
    ("graniteswitch", &["logit_scale"]),
    ("grok", &["attn_logit_softcapping", "logit_scale"]),
    ("minicpm", &["logit_scale"]),
    ("muse-glimmer", &["logit_scale"]),
    ("talkie", &["logit_scale"]),
];

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let not_zero = NOT_ZERO.iter().find(|(architecture, _)| *architecture == keys.architecture);
    for key in not_zero.map_or(&[][..], |(_, keys)| keys) {
        let value = keys.gguf.hyper_parameter(key).and_then(Value::as_f64);
        if value == Some(0.0) {
            let (key, value) = (keys.name(key), "0".to_owned());
            return Err(ModelFault::BadNumber { key, value, expected: "a number other than 0" });
        }
    }
    let prefix = format!("{}.", keys.architecture);
    let rotates = !UNROTATED.contains(&keys.architecture);
    for (key, value) in keys.gguf.metadata() {
        let Some(x) = value.as_f64() else { continue };
        let range = RANGES.iter().find(|range| key.ends_with(range.end));
        let (expected, holds) = match range {
            Some(range) if range.end.contains("freq_base") && !rotates => continue,
            Some(range) => (range.expected, (range.holds)(x)),
            None if key.starts_with(&prefix) => ("a finite number", x.is_finite()),
            None => continue,
        };
        if !holds {
            return Err(ModelFault::BadNumber { key: key.clone(), value: x.to_string(), expected });
        }
    }
    Ok(())
}
