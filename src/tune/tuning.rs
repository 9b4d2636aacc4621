//! What a tuning found, for people and for the file.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::key::TuneKey;
use super::search::{Check, Found, Limits, Outcome, Purpose, Stop, Trial};
use super::shortage::PassedOver;
use super::statistics::Summary;

/// The version of [`Tuning`]: it changes when the same question would be answered in another way.
pub const TUNING_VERSION: u32 = 3;

/// The answer of a [`Tuner`](super::Tuner). Printed, it is a table of all that was tried, with the
/// reasons for what was not, and what to use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Tuning {
    /// [`TUNING_VERSION`].
    pub version: u32,
    /// What it holds for.
    pub key: TuneKey,
    /// By which limits it was found.
    pub limits: Limits,
    /// Policies that were not measured, and why.
    pub passed_over: Vec<PassedOver>,
    /// What was found.
    pub found: Found,
    /// It comes from the file, and nothing was measured now.
    #[serde(skip)]
    pub is_cached: bool,
    /// Why it could not be kept in the file, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
}

impl Tuning {
    /// Whether it still answers its question: its final check was whole, and nothing lacked memory that
    /// is there now.
    pub(super) fn holds(&self, now: &TuneKey) -> bool {
        let failed = self.found.trials.iter().filter_map(|trial| match &trial.outcome {
            Outcome::Failed { shortage, .. } => shortage.as_ref(),
            Outcome::Measured(_) => None,
        });
        let passed_over = self.passed_over.iter().filter_map(|one| one.shortage.as_ref());
        let mut shortages = failed.chain(passed_over);
        !matches!(self.found.check, Check::Failed { .. })
            && !shortages.any(|shortage| shortage.is_over(&self.key, now))
    }

    /// What to use: the defaults unless something else was faster than they in every pair.
    pub fn chosen(&self) -> &Candidate {
        &self.found.chosen
    }

    /// How many times as fast as the reference the chosen setting answers: the median of the pairs of
    /// the final check; 1 for the reference itself.
    pub fn gain(&self) -> f64 {
        match &self.found.check {
            Check::Won { ratios } => Summary::of(ratios).map_or(1.0, |all| 1.0 / all.median),
            _ => 1.0,
        }
    }
}

impl fmt::Display for Tuning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TuneKey { prompt_tokens, answer_tokens, context_tokens, .. } = self.key;
        writeln!(
            f,
            "answers of {answer_tokens} tokens to prompts of {prompt_tokens}, context \
             {context_tokens}{}\n",
            if self.is_cached { "; measured before, taken from the file" } else { "" }
        )?;
        self.fmt_trials(f)?;
        writeln!(f)?;
        for PassedOver { policy, reason, .. } in &self.passed_over {
            writeln!(f, "not tried: {policy}: {reason}")?;
        }
        for left in &self.found.left {
            let (dimension, untried) = (&left.dimension, left.untried);
            writeln!(f, "not tried: {untried} more of {dimension}: two in a row were not faster")?;
        }
        let stop = match self.found.stop {
            Stop::NothingFaster => "nothing else that was tried is faster".to_owned(),
            Stop::Time => {
                format!("{:.0} s are no time for more, with a check", self.limits.seconds)
            }
        };
        writeln!(f, "search stopped: {stop}")?;
        self.fmt_check(f)?;
        if let Some(reason) = &self.not_kept {
            writeln!(f, "not kept for the next time: {reason}")?;
        }
        writeln!(f, "\n{}", self.snippet().trim_end())
    }
}

impl Tuning {
    fn fmt_trials(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trials = &self.found.trials;
        let of = |trial: &Trial| trial.candidate.policy.to_string();
        let width = trials.iter().map(|t| of(t).chars().count()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:8}  {:width$}  {:>7}  {:>11}  {:6}  {:>10}  {:>11}  {:>10}  {:>8}",
            "trial",
            "policy",
            "threads",
            "micro-batch",
            "load",
            "op offload",
            "prefill t/s",
            "decode t/s",
            "answer s"
        )?;
        for (i, trial) in trials.iter().enumerate() {
            let name = match trial.purpose {
                Purpose::Search => (i + 1).to_string(),
                Purpose::Check(pair) => format!("check {pair}"),
            };
            let Candidate { threads, micro_batch_tokens, load_mode, operation_offload, .. } =
                trial.candidate;
            write!(
                f,
                "{name:8}  {:width$}  {threads:>7}  {micro_batch_tokens:>11}  {:6}  {:>10}  ",
                of(trial),
                load_mode.to_string(),
                if operation_offload { "on" } else { "off" },
            )?;
            match &trial.outcome {
                Outcome::Measured(figures) => writeln!(
                    f,
                    "{:>11.1}  {:>10.2}  {:>8.3}",
                    figures.prefill_tokens_per_second,
                    figures.decode_tokens_per_second,
                    figures.answer_seconds
                )?,
                Outcome::Failed { reason, .. } => writeln!(f, "{}", reason.replace('\n', " "))?,
            }
        }
        Ok(())
    }

    fn fmt_check(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found { reference, fastest, check, .. } = &self.found;
        let first = self.found.trials.first().map(|trial| &trial.candidate);
        let what = if first == Some(reference) {
            "the defaults"
        } else {
            "what is nearest to the defaults and loads"
        };
        let list = |ratios: &[f64]| {
            ratios.iter().map(|ratio| format!("{ratio:.3}")).collect::<Vec<_>>().join(", ")
        };
        match check {
            Check::NotNeeded => writeln!(f, "use {what}: {reference}"),
            Check::Won { ratios } => writeln!(
                f,
                "final check against {what}, pair by pair: {} of their seconds\n\
                 use: {fastest}: {:.2} times as fast",
                list(ratios),
                self.gain()
            ),
            Check::Lost { ratios } => writeln!(
                f,
                "final check against {what}, pair by pair: {} of their seconds, which is not {:.0} % \
                 less and never more\nuse {what}: {reference}",
                list(ratios),
                self.limits.gain * 100.0
            ),
            Check::NoTime => writeln!(
                f,
                "no time for a final check against {what}\nuse, as it was faster in the search: {fastest}"
            ),
            Check::Failed { reason } => {
                writeln!(f, "final check: {reason}\nuse {what}: {reference}")
            }
        }
    }
}
