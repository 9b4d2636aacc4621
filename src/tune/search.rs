//! The search: pure, over a function that measures.

use serde::{Deserialize, Serialize};

use super::candidate::{Candidate, Dimension, Space};
use super::shortage::Shortage;
use super::statistics::Summary;
use crate::error::{Error, Result};

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
    /// Pairs of the final check; fewer where the time is over. All of them must be won.
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
    pub fn check(&self) -> Result<()> {
        let Self { seconds, pairs, gain } = *self;
        let bad = |option: &'static str, value: String, expected: &'static str| -> Result<()> {
            Err(Error::InvalidOption { option, value, expected })
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
    /// There was no time for a single pair: the fastest is what to use, by the search's own figures.
    NoTime,
}

/// All that a search found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// The defaults, or the first setting after them that loads.
    pub reference: Candidate,
    /// The fastest of the search.
    pub fastest: Candidate,
    /// What to use: the fastest if it won the final check, or there was no time for one, else the reference.
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

/// Finds the setting with the fastest answers: after what is likely to be fast, from the fastest so far
/// along one dimension after the other, until a round over all of them finds nothing faster. What it found is
/// then measured against the reference in turn (A B B A …), and only taken if it wins every pair.
///
/// While nothing faster is known, the time is for finding it, but for one pair; then for the pairs. If it is over
/// before the first of them, the fastest is taken as it is: never is time a reason to stay with the reference.
///
/// `measure` does one trial; what it fails at as [`Outcome::Failed`] is passed over. What lacked memory is not
/// tried again with more tokens at once.
///
/// # Errors
/// [`Error::NothingLoads`] if no reference can be measured, [`Error::InvalidOption`] for limits that
/// cannot be kept, and what `measure` returns.
pub fn search(
    space: &Space,
    limits: &Limits,
    measure: impl FnMut(&Attempt) -> Result<Measured>,
) -> Result<Found> {
    limits.check()?;
    let mut search = Search { limits, measure, trials: Vec::new(), left: Vec::new() };
    let reference = search.reference(&space.references)?;
    let (fastest, stop) = search.descend(space, &reference)?;
    let check = search.check(&reference, &fastest)?;
    let is_taken = matches!(check, Check::Won { .. } | Check::NoTime);
    let chosen = if is_taken { &fastest } else { &reference }.clone();
    let Search { trials, left, .. } = search;
    Ok(Found { reference, fastest, chosen, trials, left, stop, check })
}

struct Search<'a, M> {
    limits: &'a Limits,
    measure: M,
    trials: Vec<Trial>,
    left: Vec<Left>,
}

impl<M: FnMut(&Attempt) -> Result<Measured>> Search<'_, M> {
    /// Measures and notes it; the seconds of an answer if it could be measured.
    fn try_out(
        &mut self,
        candidate: &Candidate,
        purpose: Purpose,
        give_up_seconds: f64,
    ) -> Result<Option<f64>> {
        let candidate = candidate.clone();
        let attempt = Attempt { candidate, purpose, give_up_seconds };
        let Measured { outcome, seconds } = (self.measure)(&attempt)?;
        let trial = Trial { purpose, candidate: attempt.candidate, outcome, seconds };
        let answer_seconds = trial.answer_seconds();
        self.trials.push(trial);
        Ok(answer_seconds)
    }

    /// The seconds of an answer, measured now if they are not known; `None` if it failed.
    fn seconds_of(&mut self, candidate: &Candidate) -> Result<Option<f64>> {
        if let Some(trial) = self.trials.iter().find(|trial| trial.candidate == *candidate) {
            return Ok(trial.answer_seconds());
        }
        if self.trials.iter().any(|trial| trial.shows_too_large(candidate)) {
            return Ok(None);
        }
        let known = self.trials.iter().filter_map(Trial::answer_seconds);
        let give_up_seconds = HOPELESS * known.fold(f64::INFINITY, f64::min);
        self.try_out(candidate, Purpose::Search, give_up_seconds)
    }

    fn reference(&mut self, references: &[Candidate]) -> Result<Candidate> {
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
        Err(Error::NothingLoads { reasons, lacks_memory })
    }

    fn descend(&mut self, space: &Space, reference: &Candidate) -> Result<(Candidate, Stop)> {
        let mut fastest = reference.clone();
        for candidate in &space.likely {
            if !self.has_time(candidate, reference, &fastest) {
                return Ok((fastest, Stop::Time));
            }
            self.take_if_faster(candidate, &mut fastest)?;
        }
        loop {
            let before = fastest.clone();
            // The last round says what was left for good.
            self.left.clear();
            for dimension in &space.dimensions {
                if let Some(stop) = self.improve(dimension, reference, &mut fastest)? {
                    return Ok((fastest, stop));
                }
            }
            if fastest == before {
                return Ok((fastest, Stop::NothingFaster));
            }
        }
    }

    /// Measures it, unless it is known, and takes it if it is faster by enough; whether it was.
    fn take_if_faster(&mut self, candidate: &Candidate, fastest: &mut Candidate) -> Result<bool> {
        let limit = self.seconds_of(fastest)?.unwrap_or(f64::INFINITY) * (1.0 - self.limits.gain);
        let is_faster = self.seconds_of(candidate)?.is_some_and(|seconds| seconds < limit);
        if is_faster {
            *fastest = candidate.clone();
        }
        Ok(is_faster)
    }

    /// Moves along one dimension as far as it gets faster.
    fn improve(
        &mut self,
        dimension: &Dimension,
        reference: &Candidate,
        fastest: &mut Candidate,
    ) -> Result<Option<Stop>> {
        let before = fastest.clone();
        for line in dimension.lines(&before) {
            let mut in_vain = 0;
            for (i, candidate) in line.iter().enumerate() {
                if !self.has_time(candidate, reference, fastest) {
                    return Ok(Some(Stop::Time));
                }
                let is_faster = self.take_if_faster(candidate, fastest)?;
                in_vain = if is_faster { 0 } else { in_vain + 1 };
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

    /// Whether there is time to measure this, as long as the longest trial so far, and for the final check
    /// after it: of one pair if nothing is faster than the reference yet. What is known takes none.
    fn has_time(&self, candidate: &Candidate, reference: &Candidate, fastest: &Candidate) -> bool {
        if self.trials.iter().any(|trial| trial.settles(candidate)) {
            return true;
        }
        let longest = self.trials.iter().map(|trial| trial.seconds).fold(0.0, f64::max);
        let check = if reference == fastest {
            2.0 * longest
        } else {
            f64::from(self.limits.pairs) * self.pair_seconds(reference, fastest)
        };
        longest + check <= self.left_seconds()
    }

    fn left_seconds(&self) -> f64 {
        self.limits.seconds - self.trials.iter().map(|trial| trial.seconds).sum::<f64>()
    }

    /// How long a pair of the final check takes, by how long both took before.
    fn pair_seconds(&self, reference: &Candidate, fastest: &Candidate) -> f64 {
        let took = |candidate: &Candidate| {
            let trials = self.trials.iter().filter(|trial| trial.candidate == *candidate);
            trials.map(|trial| trial.seconds).fold(0.0, f64::max)
        };
        took(reference) + took(fastest)
    }

    fn check(&mut self, reference: &Candidate, fastest: &Candidate) -> Result<Check> {
        if reference == fastest {
            return Ok(Check::NotNeeded);
        }
        let mut ratios = Vec::new();
        for pair in 1..=self.limits.pairs {
            if self.pair_seconds(reference, fastest) > self.left_seconds() {
                break;
            }
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
        if ratios.is_empty() {
            return Ok(Check::NoTime);
        }
        let is_enough =
            Summary::of(&ratios).is_some_and(|all| all.median <= 1.0 - self.limits.gain);
        Ok(if is_enough { Check::Won { ratios } } else { Check::Lost { ratios } })
    }
}

impl Trial {
    /// Whether nothing has to be measured to know how this candidate does.
    fn settles(&self, candidate: &Candidate) -> bool {
        self.candidate == *candidate || self.shows_too_large(candidate)
    }

    /// Whether it lacked memory, and so does this candidate, which has as much on the devices, or more.
    fn shows_too_large(&self, candidate: &Candidate) -> bool {
        let lacked = matches!(&self.outcome, Outcome::Failed { shortage: Some(_), .. });
        let own = &self.candidate;
        lacked
            && own.policy == candidate.policy
            && own.load_mode == candidate.load_mode
            && own.operation_offload == candidate.operation_offload
            && own.micro_batch_tokens <= candidate.micro_batch_tokens
    }

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
