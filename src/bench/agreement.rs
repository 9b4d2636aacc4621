//! Whether two runs of one protocol say the same.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{BenchError, BenchResult};
use super::protocol::{Protocol, Setting};
use super::record::{Answer, Record, SpeedRecord};
use super::statistics::Summary;
use super::student;
use super::task::Task;

/// Each figure is compared at this level: of equal figures so large a share agrees.
pub const AGREEMENT_LEVEL: f64 = 0.99;
/// Two runs do not agree if equal machines would have so many disagreements less often than this.
const RARE: f64 = 0.01;

type OfAnswer = fn(&Answer) -> Option<f64>;

/// One figure of both runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// Model, policy and sizes.
    pub setting: Setting,
    /// What was measured, with the prompt where there is one.
    pub figure: String,
    /// The first run's samples.
    pub first: Summary,
    /// The second run's.
    pub second: Summary,
    /// How far the means may be apart: Welch's interval; 0 for figures that do not vary, such as
    /// bytes; `None` where a run has too few samples to say.
    pub allowed: Option<f64>,
}

impl Compared {
    /// Whether the means are as near as they may be; `None` if nothing can be said.
    pub fn agrees(&self) -> Option<bool> {
        let apart = (self.first.mean - self.second.mean).abs();
        // Sums of equal samples in another order round differently.
        let rounding = 1e-9 * self.first.mean.abs().max(self.second.mean.abs());
        self.allowed.map(|allowed| apart <= allowed + rounding)
    }
}

/// Two runs beside each other, figure by figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Agreement {
    /// All figures that both have.
    pub figures: Vec<Compared>,
    /// What one of them lacks.
    pub missing: Vec<String>,
}

impl Agreement {
    /// Compares two journals.
    ///
    /// # Errors
    /// [`BenchError::NotComparable`] if protocol, machine, build or model file differ.
    pub fn of(
        (protocol, first): (&Protocol, &[Record]),
        (other, second): (&Protocol, &[Record]),
    ) -> BenchResult<Self> {
        if protocol != other {
            return Err(BenchError::NotComparable { what: "protocol" });
        }
        let environment = |records: &[Record]| {
            records.iter().find_map(|record| match record {
                Record::Environment(environment) => Some(environment.clone()),
                _ => None,
            })
        };
        if let Some((a, b)) = environment(first).zip(environment(second))
            && let Some(what) = a.differs(&b)
        {
            return Err(BenchError::NotComparable { what });
        }
        let mut agreement = Self { figures: Vec::new(), missing: Vec::new() };
        let mut settings: Vec<Setting> = Vec::new();
        for task in protocol.tasks() {
            if let Task::Speed { setting, .. } = task
                && !settings.contains(&setting)
            {
                settings.push(setting);
            }
        }
        for setting in settings {
            agreement.add(&setting, &speeds(first, &setting), &speeds(second, &setting), protocol);
        }
        Ok(agreement)
    }

    fn add(
        &mut self,
        setting: &Setting,
        first: &[&SpeedRecord],
        second: &[&SpeedRecord],
        protocol: &Protocol,
    ) {
        if first.is_empty() && second.is_empty() {
            return; // it fits in neither
        }
        let mut compare = |figure: String,
                           is_exact: bool,
                           of: &dyn Fn(&SpeedRecord) -> Option<f64>| {
            let samples = |speeds: &[&SpeedRecord]| -> Option<Summary> {
                Summary::of(&speeds.iter().filter_map(|speed| of(speed)).collect::<Vec<_>>())
            };
            match (samples(first), samples(second)) {
                (Some(first), Some(second)) => {
                    let allowed = if is_exact { Some(0.0) } else { welch(&first, &second) };
                    let setting = setting.clone();
                    self.figures.push(Compared { setting, figure, first, second, allowed });
                }
                (None, None) => {}
                _ => self.missing.push(format!("{} {} {figure}", setting.model, setting.policy)),
            }
        };
        #[allow(clippy::cast_precision_loss)] // compared as wholes below 2^53
        compare("device bytes".to_owned(), true, &|speed| Some(speed.device_bytes() as f64));
        compare("load s".to_owned(), false, &|speed| Some(speed.load_seconds));
        let figures: [(&str, OfAnswer); 3] = [
            ("first token s", |answer| answer.first_token_seconds),
            ("prefill tokens/s", |answer| answer.prefill_tokens_per_second),
            ("decode tokens/s", |answer| answer.decode_tokens_per_second),
        ];
        for prompt in &protocol.prompts {
            for (name, figure) in figures {
                compare(format!("{name}, {}", prompt.name), false, &|speed| {
                    figure(speed.answers.iter().find(|answer| answer.prompt == prompt.name)?)
                });
            }
        }
    }

    /// How many figures were judged, and how many of them disagree.
    pub fn counts(&self) -> (usize, usize) {
        let judged: Vec<bool> = self.figures.iter().filter_map(Compared::agrees).collect();
        (judged.len(), judged.iter().filter(|agrees| !**agrees).count())
    }

    /// How many disagreements equal machines would have by chance, at most, but in one of a hundred
    /// pairs of runs, if figures were independent of each other. Exact figures have none.
    pub fn most_by_chance(&self) -> usize {
        let varying =
            self.figures.iter().filter(|f| f.allowed.is_some_and(|allowed| allowed > 0.0));
        student::most_by_chance(varying.count(), 1.0 - AGREEMENT_LEVEL, RARE)
    }

    /// Whether the runs agree: nothing is missing, exact figures are equal, and no more of the others
    /// disagree than chance explains.
    pub fn agree(&self) -> bool {
        let exact = self.figures.iter().filter(|figure| figure.allowed == Some(0.0));
        self.missing.is_empty()
            && exact.clone().all(|figure| figure.agrees() != Some(false))
            && self.counts().1 <= self.most_by_chance()
    }
}

fn speeds<'a>(records: &'a [Record], setting: &Setting) -> Vec<&'a SpeedRecord> {
    let speeds = records.iter().filter_map(|record| match record {
        Record::Speed(speed) if speed.setting == *setting => Some(speed),
        _ => None,
    });
    speeds.collect()
}

/// Half of Welch's interval of the difference of two means at [`AGREEMENT_LEVEL`].
fn welch(first: &Summary, second: &Summary) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // a handful of samples
    let parts = |summary: &Summary| {
        let n = summary.samples.len() as f64;
        summary.standard_deviation.map(|deviation| (deviation.powi(2) / n, n))
    };
    let ((a, n), (b, m)) = (parts(first)?, parts(second)?);
    let freedom = (a + b).powi(2) / (a.powi(2) / (n - 1.0) + b.powi(2) / (m - 1.0));
    if a + b == 0.0 {
        return Some(0.0);
    }
    Some(student::quantile(freedom, f64::midpoint(1.0, AGREEMENT_LEVEL)) * (a + b).sqrt())
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (judged, apart) = self.counts();
        let expected = self.figures.iter().filter(|f| f.allowed.is_some_and(|a| a > 0.0)).count();
        #[allow(clippy::cast_precision_loss)] // hundreds
        let expected = expected as f64 * (1.0 - AGREEMENT_LEVEL);
        writeln!(
            f,
            "The two runs {}: of {judged} figures {apart} disagree; by chance alone {expected:.1} \
             would, and up to {} are taken for it. Missing in one of them: {}.\n",
            if self.agree() { "agree" } else { "do not agree" },
            self.most_by_chance(),
            if self.missing.is_empty() { "none".to_owned() } else { self.missing.join("; ") },
        )?;
        writeln!(f, "| model | policy | figure | first | second | apart | allowed | verdict |")?;
        writeln!(f, "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |")?;
        for figure in &self.figures {
            let Compared { setting, figure: name, first, second, allowed } = figure;
            let shown = |summary: &Summary| {
                let deviation = summary.standard_deviation.map(|d| format!(" ± {}", digits(d)));
                format!("{}{}", digits(summary.mean), deviation.unwrap_or_default())
            };
            let percent = (second.mean / first.mean - 1.0) * 100.0;
            let share = allowed.map(|allowed| allowed / first.mean.abs() * 100.0);
            writeln!(
                f,
                "| {} | {} | {name} | {} | {} | {percent:+.1} % | {} | {} |",
                setting.model,
                setting.policy,
                shown(first),
                shown(second),
                share.map_or("-".to_owned(), |share| format!("{share:.1} %")),
                match figure.agrees() {
                    Some(true) => "agrees",
                    Some(false) => "**differs**",
                    None => "too few samples",
                }
            )?;
        }
        Ok(())
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
