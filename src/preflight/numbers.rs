//! Numbers with a fraction, by which the engine multiplies or divides. It takes any, and what comes of one that
//! is none is no number for ever after: text without sense, and no error.

use super::Checked;
use super::attention::UNROTATED;
use super::keys::Keys;
use crate::error::ModelFault;

/// What a norm adds before it divides. Published models have some 1e-5; with more than 1 the norm does nothing
/// but make everything small.
const EPSILON: (&str, &str, fn(f64) -> bool) =
    ("epsilon", "a number from 0 to 1", |x| (0.0..=1.0).contains(&x));

/// How the names end, what they may be, and whether a value is that. The first that fits counts.
const RANGES: [(&str, &str, fn(f64) -> bool); 6] = [
    EPSILON,
    (".rope.freq_base", POSITIVE, is_positive),
    (".rope.freq_base_swa", POSITIVE, is_positive),
    (".attention.compress_rope_freq_base", POSITIVE, is_positive),
    // 0 stands for none.
    (".rope.scaling.factor", "a number from 0 up", |x| x.is_finite() && x >= 0.0),
    (".rope.scale_linear", "a number from 0 up", |x| x.is_finite() && x >= 0.0),
];
const POSITIVE: &str = "a number above 0";

fn is_positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

pub(super) fn check(keys: &Keys<'_>) -> Checked {
    let prefix = format!("{}.", keys.architecture);
    for (key, value) in keys.gguf.metadata() {
        let Some(x) = value.as_f64() else { continue };
        let range = RANGES.iter().find(|(end, ..)| key.ends_with(end));
        let (expected, is_right) = match range {
            Some((end, ..))
                if end.contains("freq_base") && UNROTATED.contains(&keys.architecture) =>
            {
                continue;
            }
            Some(&(_, expected, is_right)) => (expected, is_right(x)),
            None if key.starts_with(&prefix) => ("a finite number", x.is_finite()),
            None => continue,
        };
        if !is_right {
            return Err(ModelFault::BadNumber { key: key.clone(), value: x.to_string(), expected });
        }
    }
    Ok(())
}
