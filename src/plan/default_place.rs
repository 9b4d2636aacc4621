//! What decides over each tensor's place: a rule, or the engine's own habits.

use super::rules::{Destination, Rule, RuleMatch};
use crate::error::{Error, Result};
use crate::experts::{ClassifiedTensor, ExpertMap, TensorKind};

/// Where a tensor goes unless `fit` moves it, before the layers are dealt out to the devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DefaultPlace {
    Cpu,
    Disk,
    /// Where the layer of this number is; the output counts as one more layer.
    WithLayer(usize),
    /// A device's index.
    Device(usize),
    /// The engine leaves it in the file; see [`NOT_LOADED`](super::NOT_LOADED).
    NotLoaded,
}

/// What decides over one tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolved {
    pub(super) default_place: DefaultPlace,
    pub(super) by_rule: bool,
    /// The rule was `fit`.
    pub(super) by_fit: bool,
    /// The rule was `fit`, which may still move it to the CPU.
    pub(super) is_candidate: bool,
}

/// The layer with which the engine places a tensor by itself; `None` is the CPU.
pub(super) fn own_layer(tensor: &ClassifiedTensor, layers: usize) -> Option<usize> {
    match (tensor.kind, tensor.layer) {
        (TensorKind::Input, _) => None,
        (TensorKind::Output, _) => Some(layers),
        (_, Some(layer)) => Some(layer as usize),
        (_, None) => Some(0),
    }
}

/// Decides over every tensor, the first `host_layers` layers being the CPU's, and says what each
/// rule did.
///
/// # Errors
/// [`Error::NoMatch`](crate::Error::NoMatch) for a rule that matches nothing.
pub(super) fn resolve_all(
    experts: &ExpertMap,
    rules: &[Rule],
    host_layers: usize,
) -> Result<(Vec<Resolved>, Vec<RuleMatch>)> {
    let mut reports: Vec<RuleMatch> = rules
        .iter()
        .map(|rule| RuleMatch { text: rule.text.clone(), ..RuleMatch::default() })
        .collect();
    let mut found = vec![false; rules.len()];
    let mut to_page = vec![0; rules.len()];
    let mut resolved = Vec::with_capacity(experts.tensors().len());
    for tensor in experts.tensors() {
        if tensor.kind == TensorKind::NextToken {
            let default_place = DefaultPlace::NotLoaded;
            resolved.push(Resolved {
                default_place,
                by_rule: false,
                by_fit: false,
                is_candidate: false,
            });
            continue;
        }
        let mut first = None;
        for (i, rule) in rules.iter().enumerate() {
            if (first.is_none() || !found[i]) && rule.matches(tensor) {
                found[i] = true;
                first = first.or(Some(i));
            }
        }
        let own = own_layer(tensor, experts.layers() as usize);
        let pageable = is_pageable(tensor, experts);
        if let Some(i) = first {
            let report = &mut reports[i];
            report.matched_tensors += 1;
            report.matched_bytes += tensor.bytes;
            if pageable {
                to_page[i] += 1;
            } else if rules[i].destination == Destination::Disk {
                report.unpaged_bytes += tensor.bytes;
            }
        }
        resolved.push(resolve(first.map(|i| &rules[i]), own, host_layers, pageable));
    }
    // A model without experts fits as well as one with them.
    let matches_nothing = |&i: &usize| !found[i] && !rules[i].is_fit();
    if let Some(i) = (0..rules.len()).find(matches_nothing) {
        return Err(rules[i].no_match(experts));
    }
    let pages_nothing = |i: &usize| {
        rules[*i].destination == Destination::Disk
            && to_page[*i] == 0
            && reports[*i].matched_tensors > 0
    };
    match (0..rules.len()).find(pages_nothing) {
        Some(i) => Err(Error::NothingToPage { rule: rules[i].text.clone() }),
        None => Ok((resolved, reports)),
    }
}

/// Whether parts of the tensor can be read when they are needed: single experts, of weights that are large
/// enough for it, whose router chooses right before they are used; or rows of a token embedding that is
/// not multiplied with as well.
pub(super) fn is_pageable(tensor: &ClassifiedTensor, experts: &ExpertMap) -> bool {
    const SMALLEST_SLICE_BYTES: u64 = 16 << 10;
    let is_weights = matches!(
        tensor.kind,
        TensorKind::ExpertGate
            | TensorKind::ExpertUp
            | TensorKind::ExpertDown
            | TensorKind::ExpertGateUp
    );
    if tensor.name == "token_embd.weight" {
        return !is_tied_embedding(experts, tensor);
    }
    let count = experts.experts().unwrap_or(0);
    let is_whole = tensor.name.ends_with("_exps.weight");
    is_weights && is_whole && count > 0 && tensor.bytes / count >= SMALLEST_SLICE_BYTES
}

/// Whether the tensor is the token embedding of a model that uses it as output too.
pub(super) fn is_tied_embedding(experts: &ExpertMap, tensor: &ClassifiedTensor) -> bool {
    let is_output = |tensor: &ClassifiedTensor| tensor.name == "output.weight";
    tensor.name == "token_embd.weight" && !experts.tensors().iter().any(is_output)
}

fn resolve(
    rule: Option<&Rule>,
    own: Option<usize>,
    host_layers: usize,
    pageable: bool,
) -> Resolved {
    let on_device = own.filter(|&layer| layer >= host_layers);
    let is_fit = rule.is_some_and(Rule::is_fit);
    let default_place = match rule.map(|rule| rule.destination) {
        Some(Destination::Disk) if pageable => DefaultPlace::Disk,
        Some(Destination::Cpu | Destination::Disk) => DefaultPlace::Cpu,
        Some(Destination::Device(device)) => DefaultPlace::Device(device),
        // A rule that names the GPU is kept also where the layer is the CPU's.
        Some(Destination::OwnDevice) if !is_fit => {
            DefaultPlace::WithLayer(on_device.unwrap_or(host_layers))
        }
        _ => on_device.map_or(DefaultPlace::Cpu, DefaultPlace::WithLayer),
    };
    Resolved {
        default_place,
        by_rule: rule.is_some(),
        by_fit: is_fit,
        is_candidate: is_fit && default_place != DefaultPlace::Cpu,
    }
}
