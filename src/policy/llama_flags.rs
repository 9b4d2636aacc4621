//! Reading llama.cpp's own command-line flags.

use super::{OffloadPolicy, RegexRule, Target, number_pattern};
use crate::error::{Error, FlagFault, Result};

/// The part of a name that llama.cpp's `--cpu-moe` and `--n-cpu-moe` look for.
const EXPERTS: &str = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps";
/// The part of a name that `--n-cpu-ffn` looks for: dense feed-forward matrices.
const DENSE: &str = r"\.ffn_(up|down|gate)\.";
/// The same flags for the draft model of speculative decoding, in all their spellings.
const DRAFT: [&str; 10] = [
    "--cpu-moe-draft",
    "--n-cpu-moe-draft",
    "--override-tensor-draft",
    "--spec-draft-cpu-moe",
    "--spec-draft-n-cpu-moe",
    "--spec-draft-ncmoe",
    "--spec-draft-override-tensor",
    "-cmoed",
    "-ncmoed",
    "-otd",
];
/// More blocks than any model has; keeps the pattern short.
const MAX_BLOCKS: u32 = 65_535;

impl OffloadPolicy {
    /// The policy that llama.cpp's flags mean, in their order: `--cpu-moe` (`-cmoe`),
    /// `--n-cpu-moe N` (`-ncmoe`), `--n-cpu-ffn N` (`-ncffn`) and
    /// `--override-tensor PATTERN=BUFFER,…` (`-ot`). As there, `_` may stand for `-` in a long flag; beyond
    /// it, a long flag's value may follow a `=`. The text form of a policy takes the same flags,
    /// in which quotes are taken off as by a shell: `"--n-cpu-moe 12".parse()`.
    ///
    /// `--n-cpu-moe` keeps llama.cpp's meaning: it counts *blocks* from the first of the file,
    /// where [`OffloadPolicy::FirstLayers`] counts layers that have experts. Patterns are read with
    /// Rust's regex syntax, which has no look-around. A flag's rule that matches nothing is an
    /// error when planned, where llama.cpp says nothing.
    ///
    /// ```
    /// use moe_offload::OffloadPolicy;
    ///
    /// let policy = OffloadPolicy::from_llama_flags(["-ot", "blk\\.0\\.=CPU", "--cpu-moe"])?;
    /// assert_eq!(policy.to_string(), r"regex:blk\.0\.=cpu;all-experts");
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidFlag`] for another flag, one for a draft model or a bad value, [`Error::InvalidPattern`] for a
    /// pattern that is not Rust's.
    pub fn from_llama_flags<S: AsRef<str>>(flags: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut policy = Self::None;
        let mut flags = flags.into_iter();
        while let Some(flag) = flags.next() {
            let (flag, inline) = split_value(flag.as_ref());
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| flags.next().map(|value| value.as_ref().to_owned()))
                    .ok_or_else(|| invalid(&flag, FlagFault::MissingValue))
            };
            policy = policy.then(match flag.as_str() {
                "--cpu-moe" | "-cmoe" => match inline {
                    Some(value) => return Err(invalid(&flag, FlagFault::NoValue { value })),
                    None => Self::AllExperts,
                },
                "--n-cpu-moe" | "-ncmoe" => first_blocks(&flag, &value()?, EXPERTS)?,
                "--n-cpu-ffn" | "-ncffn" => first_blocks(&flag, &value()?, DENSE)?,
                "--override-tensor" | "-ot" => overrides(&flag, &value()?)?,
                name if DRAFT.contains(&name) => {
                    return Err(invalid(&flag, FlagFault::DraftModel));
                }
                _ => return Err(invalid(&flag, FlagFault::Unknown)),
            });
        }
        Ok(policy)
    }
}

/// `--flag=value` for long flags; everything else is a flag alone.
fn split_value(flag: &str) -> (String, Option<String>) {
    if !flag.starts_with("--") {
        return (flag.to_owned(), None);
    }
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (flag, None),
    };
    (name.replace('_', "-"), value)
}

fn first_blocks(flag: &str, value: &str, tensors: &str) -> Result<OffloadPolicy> {
    let count = value
        .parse()
        .ok()
        .filter(|&n: &u32| n <= MAX_BLOCKS)
        .ok_or_else(|| invalid(flag, FlagFault::BadNumber { value: value.to_owned() }))?;
    let Some(last) = count.checked_sub(1) else {
        return Ok(OffloadPolicy::None);
    };
    let pattern = format!(r"blk\.({}){tensors}", number_pattern::alternatives([(0, last)]));
    RegexRule::new(&pattern, Target::Cpu).map(OffloadPolicy::Regex)
}

/// As llama.cpp does: split at commas, then at the first `=`.
fn overrides(flag: &str, value: &str) -> Result<OffloadPolicy> {
    let mut policy = OffloadPolicy::None;
    for part in value.split(',') {
        let bad = || invalid(flag, FlagFault::BadOverride { value: part.to_owned() });
        let (pattern, device) = part.split_once('=').ok_or_else(bad)?;
        if pattern.is_empty() || device.is_empty() {
            return Err(bad());
        }
        policy = policy.then(OffloadPolicy::regex(pattern, device)?);
    }
    Ok(policy)
}

fn invalid(flag: &str, fault: FlagFault) -> Error {
    Error::InvalidFlag { flag: flag.to_owned(), fault }
}
