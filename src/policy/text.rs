//! The text form of a policy.

use std::fmt;
use std::str::FromStr;

use super::regex_rule::{RegexRule, split_rules};
use super::{Fit, LayerSet, OffloadPolicy, Target};
use crate::error::{Error, PolicyFault};

impl fmt::Display for OffloadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::AllExperts => f.write_str("all-experts"),
            Self::FirstLayers(n) => write!(f, "first-layers:{n}"),
            Self::LastLayers(n) => write!(f, "last-layers:{n}"),
            Self::Layers(layers) => write!(f, "layers:{layers}"),
            Self::Regex(rule) => write!(f, "regex:{}={}", rule.pattern(), rule.target()),
            Self::Fit(fit) if *fit == Fit::default() => f.write_str("fit"),
            Self::Fit(fit) => write!(f, "fit:{fit}"),
            Self::On(redirected) => {
                write!(f, "{}={}", redirected.experts, redirected.target)
            }
            Self::FirstMatch(list) => {
                for (i, rule) in list.rules().iter().enumerate() {
                    let separator = if i == 0 { "" } else { ";" };
                    write!(f, "{separator}{rule}")?;
                }
                Ok(())
            }
        }
    }
}

impl FromStr for OffloadPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // No rule begins so, llama.cpp's flags do.
        if text.trim_start().starts_with('-') {
            return Self::from_llama_flags(flags(text));
        }
        let parts = split_rules(text);
        let alone = parts.len() == 1;
        let mut rules = Vec::with_capacity(parts.len());
        for part in parts {
            let part = part.trim();
            match parse_rule(part)? {
                Self::None if !alone => return Err(invalid(text, PolicyFault::NoneInList)),
                Self::None => {}
                rule => rules.push(rule),
            }
        }
        if rules.iter().rev().skip(1).any(Self::is_fit) {
            return Err(invalid(text, PolicyFault::FitNotLast));
        }
        Ok(Self::from_rules(rules))
    }
}

/// The words of a command line: as a shell does, quotes keep spaces and are taken off. Unlike there, a backslash
/// outside of quotes stays, as patterns are full of them.
fn flags(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            // A quote that nothing closes is a character like others.
            '\'' | '"' if rest.as_str().contains(c) => {
                let word = word.get_or_insert_default();
                while let Some(inner) = rest.next().filter(|&inner| inner != c) {
                    let is_escape =
                        c == '"' && inner == '\\' && rest.as_str().starts_with(['"', '\\']);
                    word.extend(if is_escape { rest.next() } else { Some(inner) });
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

fn parse_rule(text: &str) -> Result<OffloadPolicy, Error> {
    if text.is_empty() {
        return Err(invalid(text, PolicyFault::Empty));
    }
    if let Some(rule) = text.strip_prefix("regex:") {
        // A device's name holds no `=`, a pattern may.
        let (pattern, device) =
            rule.rsplit_once('=').ok_or_else(|| invalid(text, PolicyFault::BadRegexRule))?;
        return RegexRule::new(pattern, device.trim().parse()?).map(OffloadPolicy::Regex);
    }
    let (experts, target) = match text.split_once('=') {
        Some((_, device)) if device.contains(",ram:") => {
            return Err(invalid(text, PolicyFault::RamWithoutFit));
        }
        Some((experts, device)) => (experts.trim(), device.trim().parse::<Target>()?),
        None => (text, Target::Cpu),
    };
    let (name, argument) = match experts.split_once(':') {
        Some((name, argument)) => (name.trim(), Some(argument.trim())),
        None => (experts, None),
    };
    let policy = match (name, argument) {
        ("none", None) if !text.contains('=') => OffloadPolicy::None,
        ("fit", argument) if !text.contains('=') => {
            let fit = argument.map(str::parse::<Fit>).transpose();
            OffloadPolicy::Fit(fit.map_err(|error| within(text, error))?.unwrap_or_default())
        }
        ("all-experts", None) => OffloadPolicy::AllExperts,
        ("first-layers", n) => OffloadPolicy::FirstLayers(layer_count(text, n)?),
        ("last-layers", n) => OffloadPolicy::LastLayers(layer_count(text, n)?),
        ("layers", Some(set)) => OffloadPolicy::Layers(
            set.parse::<LayerSet>().map_err(|_| invalid(text, PolicyFault::BadLayerSet))?,
        ),
        ("layers", None) => return Err(invalid(text, PolicyFault::BadLayerSet)),
        ("ram", _) => return Err(invalid(text, PolicyFault::RamWithoutFit)),
        (name, _) if name.starts_with("fit,") => return Err(invalid(text, PolicyFault::BadFit)),
        _ => return Err(invalid(text, PolicyFault::UnknownRule)),
    };
    Ok(policy.on(target))
}

/// What is wrong with `fit`, as a fault of its whole rule.
fn within(text: &str, error: Error) -> Error {
    match error {
        Error::InvalidPolicy { fault, .. } => invalid(text, fault),
        other => other,
    }
}

fn layer_count(text: &str, argument: Option<&str>) -> Result<u32, Error> {
    argument
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .filter(|&n| n > 0)
        .ok_or_else(|| invalid(text, PolicyFault::BadLayerCount))
}

fn invalid(text: &str, fault: PolicyFault) -> Error {
    Error::InvalidPolicy { text: text.to_owned(), fault }
}

impl From<OffloadPolicy> for String {
    fn from(policy: OffloadPolicy) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for OffloadPolicy {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}
