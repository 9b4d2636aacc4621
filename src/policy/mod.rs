//! What a person means by offloading: [`OffloadPolicy`], as a value, as text and as data.
//!
//! | text | what stays in CPU memory |
//! | --- | --- |
//! | `none` | nothing but what the engine always keeps there |
//! | `all-experts` | the experts of every layer |
//! | `first-layers:12` | the experts of the first 12 layers *that have experts* |
//! | `last-layers:8` | the experts of the last 8 layers that have experts |
//! | `layers:0-3,7` | the experts of these layers, numbered as in the file |
//! | `regex:PATTERN=DEVICE` | every tensor whose name the pattern finds, on that device |
//! | `fit` (the default), `fit:10GiB`, `fit:-1GiB` | the experts that do not fit the free memory, a budget, or all but a margin |
//! | `fit:10GiB,ram:5GiB` | no more than so much: what does not fit that either stays on disk, and is read when it is used |
//! | `fit:cache-to-host,fewer-layers` | and the KV cache, then the first layers, if the rest does not fit either |
//! | `--n-cpu-moe 12`, `--cpu-moe`, `-ot …` | what llama.cpp's flags mean ([`OffloadPolicy::from_llama_flags`]) |
//!
//! Rules are joined by `;` and the first that matches a tensor wins. Each of the expert rules may
//! name another device than the CPU: `layers:0-7=RPC0`; or `disk`, to read experts when they are used.

pub(crate) mod bytes;
mod fit;
mod layers;
mod llama_flags;
pub(crate) mod number_pattern;
mod regex_rule;
mod target;
mod text;

use serde::{Deserialize, Serialize};

pub use self::fit::{Fallback, Fit, FitLimit};
pub use self::layers::LayerSet;
pub use self::regex_rule::RegexRule;
pub use self::target::{DeviceName, Target};
use crate::error::{Error, PolicyFault, Result};

/// Which tensors go where. See the [module](self) for the text form.
///
/// ```
/// use moe_offload::OffloadPolicy;
///
/// let policy: OffloadPolicy = r"regex:blk\.0\..*_exps=gpu; all-experts".parse()?;
/// assert_eq!(policy.rules().len(), 2);
/// assert_eq!(policy.to_string(), r"regex:blk\.0\..*_exps=gpu;all-experts");
/// assert_eq!(OffloadPolicy::FirstLayers(12).to_string(), "first-layers:12");
/// # Ok::<(), moe_offload::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
#[non_exhaustive]
pub enum OffloadPolicy {
    /// No offloading: everything on the devices, as far as the engine allows. The baseline.
    None,
    /// The experts of all layers to CPU memory.
    AllExperts,
    /// The experts of the first so many layers that have experts to CPU memory.
    FirstLayers(u32),
    /// The experts of the last so many layers that have experts to CPU memory.
    LastLayers(u32),
    /// The experts of these layers to CPU memory.
    Layers(LayerSet),
    /// Every tensor that a pattern finds to a device.
    Regex(RegexRule),
    /// As many experts on the devices as fit, the rest to CPU memory. Only as the last rule: the
    /// rules before it win. The default; of a model without experts everything goes to the devices.
    Fit(Fit),
    /// One of the expert rules with another device than the CPU; see [`OffloadPolicy::on`].
    On(Redirected),
    /// Several rules, of which the first that matches a tensor wins; see [`OffloadPolicy::then`].
    FirstMatch(RuleList),
}

impl Default for OffloadPolicy {
    /// [`fit`](Self::Fit) into all free memory: what runs most models as fast as the machine can.
    fn default() -> Self {
        Self::Fit(Fit::default())
    }
}

/// An expert rule with another device than the CPU.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Redirected {
    experts: Box<OffloadPolicy>,
    target: Target,
}

impl Redirected {
    /// The rule that says which experts.
    pub fn experts(&self) -> &OffloadPolicy {
        &self.experts
    }

    /// Where they go.
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// Two or more rules, none of them a list itself or [`OffloadPolicy::None`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleList(Vec<OffloadPolicy>);

impl RuleList {
    /// The rules in order.
    pub fn rules(&self) -> &[OffloadPolicy] {
        &self.0
    }
}

impl OffloadPolicy {
    /// Every tensor whose name `pattern` finds goes to `device` (`cpu`, `gpu` or a name). The
    /// syntax is that of the `regex` crate; the pattern may match anywhere in the name.
    ///
    /// # Errors
    /// [`Error::InvalidPattern`] or [`Error::InvalidPolicy`].
    pub fn regex(pattern: &str, device: &str) -> Result<Self> {
        RegexRule::new(pattern, device.parse()?).map(Self::Regex)
    }

    /// The same experts on another device than the CPU. A `regex` rule changes its device; `none`
    /// stays `none`, and in a list each rule is redirected.
    #[must_use]
    pub fn on(self, target: Target) -> Self {
        match self {
            // It uses the devices anyway.
            Self::None | Self::Fit(_) => self,
            Self::On(redirected) => redirected.experts.on(target),
            Self::Regex(rule) => Self::Regex(rule.with_target(target)),
            Self::FirstMatch(list) => {
                let rules = list.0.into_iter().map(|rule| rule.on(target.clone())).collect();
                Self::FirstMatch(RuleList(rules))
            }
            experts if target == Target::Cpu => experts,
            experts => Self::On(Redirected { experts: Box::new(experts), target }),
        }
    }

    /// The same with other names for devices, where `rename` knows one.
    #[cfg(feature = "llama")]
    pub(crate) fn renamed(self, rename: &impl Fn(&str) -> Option<DeviceName>) -> Self {
        if let Self::FirstMatch(list) = self {
            let rules = list.0.into_iter().map(|rule| rule.renamed(rename)).collect();
            return Self::FirstMatch(RuleList(rules));
        }
        let new = match self.target() {
            Target::Device(name) => rename(name.as_str()),
            _ => None,
        };
        match new {
            Some(name) => self.on(Target::Device(name)),
            None => self,
        }
    }

    /// This policy, then `next` for the tensors that no rule of this one matches.
    ///
    /// ```
    /// use moe_offload::OffloadPolicy;
    /// let policy = OffloadPolicy::regex("_down_exps", "gpu")?.then(OffloadPolicy::AllExperts);
    /// assert_eq!(policy.to_string(), "regex:_down_exps=gpu;all-experts");
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let mut rules = self.into_rules();
        rules.extend(next.into_rules());
        Self::from_rules(rules)
    }

    /// The single rules in order; none for [`OffloadPolicy::None`].
    pub fn rules(&self) -> &[Self] {
        match self {
            Self::None => &[],
            Self::FirstMatch(list) => list.rules(),
            single => std::slice::from_ref(single),
        }
    }

    /// The `fit` rule, if there is one.
    pub(crate) fn fit(&self) -> Option<&Fit> {
        match self.rules().last() {
            Some(Self::Fit(fit)) => Some(fit),
            _ => None,
        }
    }

    fn is_fit(&self) -> bool {
        matches!(self, Self::Fit(_))
    }

    /// Whether it can only be planned for devices whose free memory is known: `fit` without a budget.
    pub fn needs_free_memory(&self) -> bool {
        self.fit().is_some_and(|fit| fit.limit.bytes(None).is_none())
    }

    /// Where a single rule puts what it matches.
    pub(crate) fn target(&self) -> Target {
        match self {
            Self::Regex(rule) => rule.target().clone(),
            Self::On(redirected) => redirected.target.clone(),
            _ => Target::Cpu,
        }
    }

    fn into_rules(self) -> Vec<Self> {
        match self {
            Self::None => Vec::new(),
            Self::FirstMatch(list) => list.0,
            single => vec![single],
        }
    }

    fn from_rules(mut rules: Vec<Self>) -> Self {
        match rules.len() {
            0 => Self::None,
            1 => rules.remove(0),
            _ => Self::FirstMatch(RuleList(rules)),
        }
    }

    /// Checks what the type allows but no text says: zero layers, an empty set, a misplaced target.
    pub(crate) fn validate(&self) -> Result<()> {
        let fault = match self {
            Self::FirstLayers(0) | Self::LastLayers(0) => Some(PolicyFault::BadLayerCount),
            Self::Layers(layers) if layers.is_empty() => Some(PolicyFault::BadLayerSet),
            Self::Fit(fit) if !fit.is_valid() => Some(PolicyFault::BadFit),
            Self::On(redirected) => return redirected.experts.validate(),
            Self::FirstMatch(list) if list.0.iter().rev().skip(1).any(Self::is_fit) => {
                Some(PolicyFault::FitNotLast)
            }
            Self::FirstMatch(list) => return list.0.iter().try_for_each(Self::validate),
            _ => None,
        };
        fault.map_or(Ok(()), |fault| Err(Error::InvalidPolicy { text: self.to_string(), fault }))
    }
}
