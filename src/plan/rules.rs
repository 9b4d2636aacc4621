//! A policy's rules, matched against the tensors of a file.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::Device;
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap};
use crate::gguf::GgufFile;
use crate::policy::{LayerSet, OffloadPolicy, RegexRule, Target};

/// What one rule of the policy did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleMatch {
    /// The rule as text.
    pub text: String,
    /// How many tensors it placed; those that an earlier rule matched are not counted.
    pub matched_tensors: u64,
    /// Their bytes.
    pub matched_bytes: u64,
    /// How many of these bytes stay in CPU memory although the rule says `disk`, as a token needs all of them, or
    /// experts of them are too small to be read one by one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unpaged_bytes: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// Where a rule puts a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Cpu,
    /// The file, for experts that can be paged; CPU memory for others.
    Disk,
    /// The device that the tensor's layer is on anyway.
    OwnDevice,
    /// A device's index.
    Device(usize),
}

/// One rule, ready to be matched.
pub(super) struct Rule {
    pub(super) text: String,
    pub(super) destination: Destination,
    matcher: Matcher,
}

enum Matcher {
    ExpertsOf(BTreeSet<u32>),
    /// All experts, if there are any; where they go is decided when everything else has its place.
    Fit,
    Name(Regex),
}

impl Rule {
    pub(super) fn matches(&self, tensor: &ClassifiedTensor) -> bool {
        match &self.matcher {
            Matcher::ExpertsOf(layers) => {
                tensor.kind.is_expert() && tensor.layer.is_some_and(|layer| layers.contains(&layer))
            }
            Matcher::Fit => tensor.kind.is_expert(),
            Matcher::Name(regex) => regex.is_match(&tensor.name),
        }
    }

    pub(super) fn is_fit(&self) -> bool {
        matches!(self.matcher, Matcher::Fit)
    }

    pub(super) fn no_match(&self, experts: &ExpertMap) -> Error {
        let (near, layers) = match &self.matcher {
            Matcher::ExpertsOf(_) | Matcher::Fit => (Vec::new(), None),
            Matcher::Name(regex) => {
                (near_misses(regex.as_str(), experts), other_layers(regex.as_str(), experts))
            }
        };
        Error::NoMatch { rule: self.text.clone(), near, layers }
    }
}

/// Compiles every rule of the policy for this file and these devices.
pub(super) fn compile(
    policy: &OffloadPolicy,
    gguf: &GgufFile,
    experts: &ExpertMap,
    devices: &[Device],
) -> Result<Vec<Rule>> {
    policy.validate()?;
    policy
        .rules()
        .iter()
        .map(|rule| {
            Ok(Rule {
                text: rule.to_string(),
                destination: match rule {
                    // Where they are if all fit; the rest is moved to the CPU later.
                    OffloadPolicy::Fit(_) => Destination::OwnDevice,
                    _ => destination(&rule.target(), devices)?,
                },
                matcher: matcher(rule, gguf, experts)?,
            })
        })
        .collect()
}

fn destination(target: &Target, devices: &[Device]) -> Result<Destination> {
    let unknown = |name: &str| Error::UnknownDevice {
        name: name.to_owned(),
        known: devices.iter().map(|device| device.name.clone()).collect(),
    };
    match target {
        Target::Cpu => Ok(Destination::Cpu),
        Target::Disk => Ok(Destination::Disk),
        Target::Gpu if devices.is_empty() => Err(unknown("gpu")),
        Target::Gpu => Ok(Destination::OwnDevice),
        Target::Device(name) => devices
            .iter()
            .position(|device| name.matches(&device.name))
            .map(Destination::Device)
            .ok_or_else(|| unknown(name.as_str())),
    }
}

fn matcher(rule: &OffloadPolicy, gguf: &GgufFile, experts: &ExpertMap) -> Result<Matcher> {
    if let OffloadPolicy::Regex(rule) = rule {
        return rule.compile().map(Matcher::Name);
    }
    if let OffloadPolicy::Fit(_) = rule {
        return Ok(Matcher::Fit);
    }
    if !experts.is_moe() {
        return Err(Error::NoExperts {
            path: gguf.path().to_owned(),
            architecture: experts.architecture().to_owned(),
            rule: rule.to_string(),
        });
    }
    let with_experts = experts.expert_layers();
    let counted = |count: u32, layers: &mut dyn Iterator<Item = &u32>| {
        let available = u32::try_from(with_experts.len()).unwrap_or(u32::MAX);
        if count > available {
            return Err(Error::TooManyLayers {
                rule: rule.to_string(),
                requested: count,
                available,
            });
        }
        Ok(layers.take(count as usize).copied().collect())
    };
    let selected = match rule {
        OffloadPolicy::On(redirected) => return matcher(redirected.experts(), gguf, experts),
        OffloadPolicy::FirstLayers(n) => counted(*n, &mut with_experts.iter())?,
        OffloadPolicy::LastLayers(n) => counted(*n, &mut with_experts.iter().rev())?,
        OffloadPolicy::Layers(set) => named_layers(rule, set, experts.layers(), &with_experts)?,
        _ => with_experts,
    };
    Ok(Matcher::ExpertsOf(selected))
}

/// Layers without experts may stand in a set (`0-7` of a model whose first layer is dense), but
/// not layers that the model does not have, and not only such without experts.
fn named_layers(
    rule: &OffloadPolicy,
    set: &LayerSet,
    layers: u32,
    with_experts: &BTreeSet<u32>,
) -> Result<BTreeSet<u32>> {
    let not_there = |layer| Error::NotAnExpertLayer {
        rule: rule.to_string(),
        layer,
        layers: with_experts.iter().copied().collect::<LayerSet>().to_string(),
    };
    if let Some((first, _)) = set.ranges().find(|&(_, last)| last >= layers) {
        let layer = first.max(layers);
        return Err(Error::NoSuchLayer { rule: rule.to_string(), layer, layers });
    }
    let selected: BTreeSet<u32> =
        with_experts.iter().copied().filter(|&layer| set.contains(layer)).collect();
    if selected.is_empty() {
        return Err(not_there(set.ranges().next().map_or(0, |(first, _)| first)));
    }
    Ok(selected)
}

/// The layers in which a pattern would match if it named any of them, as ranges.
fn other_layers(pattern: &str, experts: &ExpertMap) -> Option<String> {
    let rule = RegexRule::new(&of_any_layer(pattern)?, Target::Cpu).ok()?;
    let regex = rule.compile().ok()?;
    let matching = experts.tensors().iter().filter(|tensor| regex.is_match(&tensor.name));
    let layers: LayerSet = matching.filter_map(|tensor| tensor.layer).collect();
    (!layers.is_empty()).then(|| layers.to_string())
}

/// The pattern with any number where it names layers: between `blk.` and the next dot.
fn of_any_layer(pattern: &str) -> Option<String> {
    let (before, rest) = pattern.split_once("blk")?;
    let rest = rest.strip_prefix(r"\.").or_else(|| rest.strip_prefix('.'))?;
    let end = rest.find(r"\.").or_else(|| rest.find('.')).unwrap_or(rest.len());
    Some(format!(r"{before}blk\.[0-9]+{}", &rest[end..]))
}

/// Names that resemble a pattern, one for all layers that share it.
fn near_misses(pattern: &str, experts: &ExpertMap) -> Vec<String> {
    const LONGEST: usize = 200;
    const ENOUGH: f64 = 0.4;
    let plain: String = pattern
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))
        .take(LONGEST)
        .flat_map(char::to_lowercase)
        .collect();
    let mut by_form: BTreeMap<String, &str> = BTreeMap::new();
    for tensor in experts.tensors() {
        let form = match tensor.layer {
            Some(layer) => tensor.name.replacen(&format!(".{layer}."), ".", 1),
            None => tensor.name.clone(),
        };
        by_form.entry(form).or_insert(&tensor.name);
    }
    let mut scored: Vec<(f64, &str)> = by_form
        .iter()
        .map(|(form, &name)| {
            let form = form.to_lowercase();
            let suffix = form.trim_start_matches("blk.");
            let score = strsim::sorensen_dice(&plain, &form)
                .max(strsim::sorensen_dice(&plain, suffix))
                .max(strsim::sorensen_dice(&plain, suffix.trim_end_matches(".weight")));
            (score, name)
        })
        .filter(|&(score, _)| score >= ENOUGH)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, name)| format!("`{name}`")).collect()
}
