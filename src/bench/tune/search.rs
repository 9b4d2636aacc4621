//! The search: pure, over a function that measures.

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, Dimension, Space};
use super::shortage::Shortage;
use crate::Error;
use crate::bench::error::{BenchError, BenchResult};
use crate::bench::statistics::Summary;

/// A line of values is left after so many in a row that were not faster.
const PATIENCE: usize = 2;

/// An answer that takes so many times as long as the fastest so far need not end.
const HOPELESS: f64 = 3.0;

/// More pairs of the final check would say nothing new.
const MOST_PAIRS: u32 = 1000;

/// When to stop, and what counts as faster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Seconds for everything, the final check included.
    pub seconds: f64,
    /// Pairs of the final check. All of them must be won.
    pub pairs: u32,
    /// The share of an answer's seconds that a setting must save to be taken: noise is smaller.
    pub gain: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seconds: 600.0, pairs: 4, gain: 0.03 }
    }
}

impl Limits {
    /// Whether a search can keep them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for the first that cannot be.
    pub fn check(&self) -> BenchResult<()> {
        let Self { seconds, pairs, gain } = *self;
        let bad =
            |option: &'static str, value: String, expected: &'static str| -> BenchResult<()> {
                Err(Error::InvalidOption { option, value, expected }.into())
            };
        if !seconds.is_finite() || seconds < 0.0 {
            return bad("seconds", seconds.to_string(), "a number of at least 0");
        }
        if !(1..=MOST_PAIRS).contains(&pairs) {
            return bad("pairs", pairs.to_string(), "from 1 to 1000");
        }
        if !(0.0..1.0).contains(&gain) {
            return bad("gain", gain.to_string(), "at least 0 and less than 1");
        }
        Ok(())
    }
}

/// What one load and its answers came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Seconds of loading; they do not count.
    pub load_seconds: f64,
    /// Tokens of the prompt computed per second.
    pub prefill_tokens_per_second: f64,
    /// Tokens per second after the first.
    pub decode_tokens_per_second: f64,
    /// Seconds of an answer, prompt included: what is made small.
    pub answer_seconds: f64,
}

/// How a trial ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was measured.
    Measured(Figures),
    /// It could not be: it does not fit, or the engine refused.
    Failed {
        /// Why.
        reason: String,
        /// The memory that lacked, if it was that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shortage: Option<Shortage>,
    },
}

/// What measuring returns: the outcome, and the seconds that all of it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds with loading and warming up.
    pub seconds: f64,
}

/// A trial to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// What to measure.
    pub candidate: Candidate,
    /// Why.
    pub purpose: Purpose,
    /// An answer that takes longer need not be waited for: the trial has failed.
    pub give_up_seconds: f64,
}

/// Why a trial was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To find something better.
    Search,
    /// For the how-manieth pair of the final check, counted from 1.
    Check(u32),
}

/// One trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Why.
    pub purpose: Purpose,
    /// What.
    pub candidate: Candidate,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds with loading and warming up.
    pub seconds: f64,
}

/// Why the search ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// A whole round over everything that can be set found nothing faster.
    NothingFaster,
    /// What is left of the time is needed for the final check, or for nothing.
    Time,
}

/// A line of values that was left before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// What was being set.
    pub dimension: String,
    /// How many values were not tried.
    pub untried: usize,
}

/// How the final check ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The reference itself was the fastest; there was nothing to check.
    NotNeeded,
    /// The tuned setting was faster in every pair, and by enough.
    Won {
        /// Its seconds over the reference's, pair by pair.
        ratios: Vec<f64>,
    },
    /// It was not, so the reference is what to use.
    Lost {
        /// Its seconds over the reference's, pair by pair, up to the one that it lost.
        ratios: Vec<f64>,
    },
    /// One of the two could not be measured any more.
    Failed {
        /// Why.
        reason: String,
    },
}

/// All that a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The defaults, or the first setting after them that loads.
    pub reference: Candidate,
    /// The fastest of the search.
    pub fastest: Candidate,
    /// What to use: the fastest if it won the final check, else the reference.
    pub chosen: Candidate,
    /// All trials in their order.
    pub trials: Vec<Trial>,
    /// Values that were not tried since their neighbours were not faster.
    pub left: Vec<Left>,
    /// Why the search ended.
    pub stop: Stop,
    /// How the final check ended.
    pub check: Check,
}

/// Finds the setting with the fastest answers: from the reference along one dimension after the
/// other, until a round over all of them finds nothing faster. What it found is then measured against
/// the reference in turn (A B B A …), and only taken if it wins every pair.
///
/// `measure` does one trial; what it fails at as [`Outcome::Failed`] is passed over.
///
/// # Errors
/// [`BenchError::NothingLoads`] if no reference can be measured, [`Error::InvalidOption`] for limits that
/// cannot be kept, and what `measure` returns.
pub fn search(
    space: &Space,
    limits: &Limits,
    measure: impl FnMut(&Attempt) -> BenchResult<Measured>,
) -> BenchResult<Found> {
    limits.check()?;
    let mut search = Search { limits, measure, trials: Vec::new(), left: Vec::new() };
    let reference = search.reference(&space.references)?;
    let (fastest, stop) = search.descend(&space.dimensions, &reference)?;
    let check = search.check(&reference, &fastest)?;
    let chosen = if matches!(check, Check::Won { .. }) { &fastest } else { &reference }.clone();
    let Search { trials, left, .. } = search;
    Ok(Found { reference, fastest, chosen, trials, left, stop, check })
}

struct Search<'a, M> {
    limits: &'a Limits,
    measure: M,
    trials: Vec<Trial>,
    left: Vec<Left>,
}

impl<M: FnMut(&Attempt) -> BenchResult<Measured>> Search<'_, M> {
    /// Measures and notes it; the seconds of an answer if it could be measured.
    fn try_out(
        &mut self,
        candidate: &Candidate,
        purpose: Purpose,
        give_up_seconds: f64,
    ) -> BenchResult<Option<f64>> {
        let candidate = candidate.clone();
        let attempt = Attempt { candidate, purpose, give_up_seconds };
        let Measured { outcome, seconds } = (self.measure)(&attempt)?;
        let trial = Trial { purpose, candidate: attempt.candidate, outcome, seconds };
        let answer_seconds = trial.answer_seconds();
        self.trials.push(trial);
        Ok(answer_seconds)
    }

    /// The seconds of an answer, measured now if they are not known; `None` if it failed.
    fn seconds_of(&mut self, candidate: &Candidate) -> BenchResult<Option<f64>> {
        if let Some(trial) = self.trials.iter().find(|trial| trial.candidate == *candidate) {
            return Ok(trial.answer_seconds());
        }
        let known = self.trials.iter().filter_map(Trial::answer_seconds);
        let give_up_seconds = HOPELESS * known.fold(f64::INFINITY, f64::min);
        self.try_out(candidate, Purpose::Search, give_up_seconds)
    }

    fn reference(&mut self, references: &[Candidate]) -> BenchResult<Candidate> {
        for candidate in references {
            if self.seconds_of(candidate)?.is_some() {
                return Ok(candidate.clone());
            }
        }
        let mut lacks_memory = false;
        let reasons = self.trials.iter().map(|Trial { candidate, outcome, .. }| match outcome {
            Outcome::Failed { reason, shortage } => {
                lacks_memory |= shortage.is_some();
                format!("{candidate}: {reason}")
            }
            Outcome::Measured(_) => format!("{candidate}: its answers took no measurable time"),
        });
        let mut reasons: Vec<String> = reasons.collect();
        if reasons.is_empty() {
            reasons.push("there is nothing to try".to_owned());
        }
        Err(BenchError::NothingLoads { reasons, lacks_memory })
    }

    fn descend(
        &mut self,
        dimensions: &[Dimension],
        reference: &Candidate,
    ) -> BenchResult<(Candidate, Stop)> {
        let mut fastest = reference.clone();
        loop {
            let before = fastest.clone();
            // The last round says what was left for good.
            self.left.clear();
            for dimension in dimensions {
                if let Some(stop) = self.improve(dimension, &mut fastest)? {
                    return Ok((fastest, stop));
                }
            }
            if fastest == before {
                return Ok((fastest, Stop::NothingFaster));
            }
        }
    }

    /// Moves along one dimension as far as it gets faster.
    fn improve(
        &mut self,
        dimension: &Dimension,
        fastest: &mut Candidate,
    ) -> BenchResult<Option<Stop>> {
        let before = fastest.clone();
        for line in dimension.lines(&before) {
            let mut in_vain = 0;
            for (i, candidate) in line.iter().enumerate() {
                let is_known = self.trials.iter().any(|trial| trial.candidate == *candidate);
                if !is_known && !self.has_time() {
                    return Ok(Some(Stop::Time));
                }
                let limit = self.seconds_of(fastest)?.unwrap_or(f64::INFINITY);
                let limit = limit * (1.0 - self.limits.gain);
                if self.seconds_of(candidate)?.is_some_and(|seconds| seconds < limit) {
                    *fastest = candidate.clone();
                    in_vain = 0;
                } else {
                    in_vain += 1;
                }
                // Policies and ways to load have no order, so that none says anything of the next.
                let is_ordered =
                    matches!(dimension, Dimension::Threads(_) | Dimension::MicroBatch(_));
                let untried = line.len() - i - 1;
                if is_ordered && in_vain == PATIENCE && untried > 0 {
                    self.left.push(Left { dimension: dimension.name().to_owned(), untried });
                    break;
                }
            }
            // What got faster upwards does not downwards.
            if *fastest != before {
                break;
            }
        }
        Ok(None)
    }

    /// Whether there is time for one more trial and the final check after it, if each takes as long as
    /// the longest so far.
    fn has_time(&self) -> bool {
        let longest = self.trials.iter().map(|trial| trial.seconds).fold(0.0, f64::max);
        let spent: f64 = self.trials.iter().map(|trial| trial.seconds).sum();
        spent + f64::from(1 + 2 * self.limits.pairs) * longest <= self.limits.seconds
    }

    fn check(&mut self, reference: &Candidate, fastest: &Candidate) -> BenchResult<Check> {
        if reference == fastest {
            return Ok(Check::NotNeeded);
        }
        let mut ratios = Vec::new();
        for pair in 1..=self.limits.pairs {
            let order = if pair % 2 == 1 { [reference, fastest] } else { [fastest, reference] };
            let mut seconds = [0.0; 2];
            for (of, candidate) in seconds.iter_mut().zip(order) {
                let purpose = Purpose::Check(pair);
                let Some(measured) = self.try_out(candidate, purpose, f64::INFINITY)? else {
                    let reason = format!("{candidate} could not be measured again");
                    return Ok(Check::Failed { reason });
                };
                *of = measured;
            }
            let [a, b] = seconds;
            let ratio = if pair % 2 == 1 { b / a } else { a / b };
            ratios.push(ratio);
            // What is no number is no win either.
            if !ratio.is_finite() || ratio >= 1.0 {
                return Ok(Check::Lost { ratios });
            }
        }
        let is_enough =
            Summary::of(&ratios).is_some_and(|all| all.median <= 1.0 - self.limits.gain);
        Ok(if is_enough { Check::Won { ratios } } else { Check::Lost { ratios } })
    }
}

impl Trial {
    /// Seconds of an answer; `None` if it failed, or was measured as something that is no time.
    pub fn answer_seconds(&self) -> Option<f64> {
        match &self.outcome {
            Outcome::Measured(figures) => {
                Some(figures.answer_seconds).filter(|seconds| *seconds > 0.0 && seconds.is_finite())
            }
            Outcome::Failed { .. } => None,
        }
    }
}
