//! Whether two runs of one protocol say the same.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::error::{BenchError, BenchResult};
use super::protocol::{Prompt, Protocol, Setting};
use super::record::{Answer, Record, SpeedRecord};
use super::statistics::Summary;
use super::student;
use super::task::Task;

/// Each figure is compared at this level: of equal figures so large a share agrees.
pub const AGREEMENT_LEVEL: f64 = 0.99;
/// Two runs do not agree if equal machines would have so many disagreements less often than this, or
/// one so large.
const RARE: f64 = 0.01;
/// A figure that varies needs so many samples to say by how much.
const FEWEST_SAMPLES: usize = 2;

type OfAnswer = fn(&Answer) -> Option<f64>;

/// One figure of both runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compared {
    /// Model, policy and sizes.
    pub setting: Setting,
    /// What was measured, with the prompt where there is one.
    pub figure: String,
    /// The first run's samples.
    pub first: Summary,
    /// The second run's.
    pub second: Summary,
    /// It does not vary, such as bytes: all samples of both runs have to be equal.
    pub is_exact: bool,
    /// How far the means may be apart: Welch's interval at [`AGREEMENT_LEVEL`]; 0 if it is exact or
    /// if neither run's samples vary.
    pub allowed: f64,
    /// How far they may be apart at most, even if so few figures disagree that it may be chance: the
    /// same interval at a level that all figures together keep in 99 of 100 pairs of runs.
    pub bound: f64,
}

impl Compared {
    /// Whether all samples are equal, if it is exact, else whether the means are as near as allowed.
    pub fn agrees(&self) -> bool {
        self.is_within(self.allowed)
    }

    /// Whether it is too far apart for chance, however many others agree.
    pub fn is_out_of_bounds(&self) -> bool {
        !self.is_within(self.bound)
    }

    fn is_within(&self, allowed: f64) -> bool {
        let Self { first, second, .. } = self;
        if self.is_exact {
            let (least, greatest) =
                (first.least.min(second.least), first.greatest.max(second.greatest));
            return least.total_cmp(&greatest).is_eq();
        }
        // Sums of equal samples in another order round differently.
        let rounding = 1e-9 * first.mean.abs().max(second.mean.abs());
        (first.mean - second.mean).abs() <= allowed + rounding
    }
}

/// Two runs beside each other, figure by figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Agreement {
    /// All figures that both have.
    pub figures: Vec<Compared>,
    /// What one of them lacks, or has too few samples of.
    pub missing: Vec<String>,
    /// Whether there are several contexts, numbers of threads and micro-batches to tell apart.
    several: [bool; 3],
}

/// The loads of one setting in both runs.
struct Loads<'a> {
    setting: &'a Setting,
    first: Vec<&'a SpeedRecord>,
    second: Vec<&'a SpeedRecord>,
    /// How many of each the protocol asks for.
    repetitions: usize,
}

impl Agreement {
    /// Compares two journals.
    ///
    /// # Errors
    /// [`BenchError::NotComparable`] if protocol, machine, build or model file differ, or if one of
    /// them does not say where it was measured.
    pub fn of(
        (protocol, first): (&Protocol, &[Record]),
        (other, second): (&Protocol, &[Record]),
    ) -> BenchResult<Self> {
        if protocol != other {
            return Err(BenchError::NotComparable { what: "protocol" });
        }
        let (Some(a), Some(b)) = (environment(first), environment(second)) else {
            return Err(BenchError::NotComparable { what: "environment" });
        };
        if let Some(what) = a.differs(b) {
            return Err(BenchError::NotComparable { what });
        }
        let several = [
            protocol.context_tokens.len() > 1,
            protocol.threads.len() > 1,
            protocol.micro_batch_tokens.len() > 1,
        ];
        let mut agreement = Self { figures: Vec::new(), missing: Vec::new(), several };
        for setting in settings(protocol) {
            let loads = Loads {
                setting: &setting,
                first: speeds(first, &setting),
                second: speeds(second, &setting),
                repetitions: protocol.repetitions as usize,
            };
            if loads.first.is_empty() && loads.second.is_empty() {
                if !does_not_fit(first, &setting) || !does_not_fit(second, &setting) {
                    let what = format!("{}: in neither", agreement.name(&setting));
                    agreement.missing.push(what);
                }
                continue;
            }
            agreement.add(&loads, &protocol.prompts);
        }
        agreement.bound();
        Ok(agreement)
    }

    fn add(&mut self, loads: &Loads<'_>, prompts: &[Prompt]) {
        #[allow(clippy::cast_precision_loss)] // compared as wholes below 2^53
        self.compare(loads, "device bytes".to_owned(), true, &|speed| {
            Some(speed.device_bytes() as f64)
        });
        self.compare(loads, "load s".to_owned(), false, &|speed| Some(speed.load_seconds));
        // Prefill's rate is the tokens of the prompt over the first of these: no other measurement.
        let figures: [(&str, OfAnswer); 2] = [
            ("first token s", |answer| answer.first_token_seconds),
            ("decode tokens/s", |answer| answer.decode_tokens_per_second),
        ];
        for prompt in prompts {
            for (name, figure) in figures {
                self.compare(loads, format!("{name}, {}", prompt.name), false, &|speed| {
                    figure(speed.answers.iter().find(|answer| answer.prompt == prompt.name)?)
                });
            }
        }
    }

    fn compare(
        &mut self,
        loads: &Loads<'_>,
        figure: String,
        is_exact: bool,
        of: &dyn Fn(&SpeedRecord) -> Option<f64>,
    ) {
        let samples = |speeds: &[&SpeedRecord]| -> Vec<f64> {
            speeds.iter().filter_map(|speed| of(speed)).collect()
        };
        let (first, second) = (samples(&loads.first), samples(&loads.second));
        let is_whole = loads.first.len().min(loads.second.len()) >= loads.repetitions;
        if is_whole && first.is_empty() && second.is_empty() {
            return; // there is no such figure, such as the rate of an answer of one token
        }
        let wanted = loads.repetitions.max(if is_exact { 1 } else { FEWEST_SAMPLES });
        let counts = (first.len(), second.len());
        match (Summary::of(&first), Summary::of(&second)) {
            (Some(first), Some(second)) if counts.0.min(counts.1) >= wanted => {
                let level = AGREEMENT_LEVEL;
                let allowed = if is_exact { 0.0 } else { welch(&first, &second, level) };
                let (setting, bound) = (loads.setting.clone(), allowed);
                let compared =
                    Compared { setting, figure, first, second, is_exact, allowed, bound };
                self.figures.push(compared);
            }
            _ => {
                let name = self.name(loads.setting);
                let (a, b) = counts;
                self.missing.push(format!("{name} {figure}: {a} and {b} of {wanted} samples"));
            }
        }
    }

    /// Sets the bound of each figure, as their number is known now.
    fn bound(&mut self) {
        #[allow(clippy::cast_precision_loss)] // hundreds
        let level = 1.0 - RARE / self.varying().count().max(1) as f64;
        for figure in self.figures.iter_mut().filter(|figure| !figure.is_exact) {
            figure.bound = welch(&figure.first, &figure.second, level).max(figure.allowed);
        }
    }

    fn varying(&self) -> impl Iterator<Item = &Compared> {
        self.figures.iter().filter(|figure| !figure.is_exact)
    }

    fn name(&self, setting: &Setting) -> String {
        format!("{} {}{}", setting.model, setting.policy, self.sizes(setting))
    }

    /// Those sizes of which there are several.
    fn sizes(&self, setting: &Setting) -> String {
        let sizes = [
            ("context", setting.context_tokens),
            ("threads", setting.threads),
            ("micro-batch", setting.micro_batch_tokens),
        ];
        let told = sizes.iter().zip(self.several).filter(|(_, several)| *several);
        told.map(|((name, size), _)| format!(", {name} {size}")).collect::<Vec<_>>().concat()
    }

    /// How many figures were judged, and how many of them disagree.
    pub fn counts(&self) -> (usize, usize) {
        let apart = self.figures.iter().filter(|figure| !figure.agrees());
        (self.figures.len(), apart.count())
    }

    /// How many disagreements equal machines would have by chance, at most, but in one of a hundred
    /// pairs of runs, if figures were independent of each other. Exact figures have none.
    pub fn most_by_chance(&self) -> usize {
        student::most_by_chance(self.varying().count(), 1.0 - AGREEMENT_LEVEL, RARE)
    }

    /// Whether the runs agree: there is something to compare and nothing is missing, exact figures are
    /// equal, no more of the others disagree than chance explains, and none of them by more than that.
    pub fn agree(&self) -> bool {
        let mut exact = self.figures.iter().filter(|figure| figure.is_exact);
        let apart = self.varying().filter(|figure| !figure.agrees()).count();
        !self.figures.is_empty()
            && self.missing.is_empty()
            && exact.all(Compared::agrees)
            && apart <= self.most_by_chance()
            && !self.varying().any(Compared::is_out_of_bounds)
    }
}

/// All settings whose speed the protocol measures.
fn settings(protocol: &Protocol) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    for task in protocol.tasks() {
        if let Task::Speed { setting, .. } = task
            && !settings.contains(&setting)
        {
            settings.push(setting);
        }
    }
    settings
}

fn environment(records: &[Record]) -> Option<&Environment> {
    records.iter().find_map(|record| match record {
        Record::Environment(environment) => Some(environment),
        _ => None,
    })
}

fn speeds<'a>(records: &'a [Record], setting: &Setting) -> Vec<&'a SpeedRecord> {
    let speeds = records.iter().filter_map(|record| match record {
        Record::Speed(speed) if speed.setting == *setting => Some(speed),
        _ => None,
    });
    speeds.collect()
}

fn does_not_fit(records: &[Record], setting: &Setting) -> bool {
    records.iter().any(|record| match record {
        Record::DoesNotFit { task: Task::Speed { setting: other, .. }, .. } => other == setting,
        _ => false,
    })
}

/// Half of Welch's interval of the difference of two means at this level; 0 if no sample varies.
fn welch(first: &Summary, second: &Summary, level: f64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // a handful of samples
    let parts = |summary: &Summary| {
        let n = summary.samples.len() as f64;
        (summary.standard_deviation.unwrap_or(0.0).powi(2) / n, n)
    };
    let ((a, n), (b, m)) = (parts(first), parts(second));
    if a + b == 0.0 {
        return 0.0;
    }
    let freedom = (a + b).powi(2) / (a.powi(2) / (n - 1.0) + b.powi(2) / (m - 1.0));
    student::quantile(freedom, f64::midpoint(1.0, level)) * (a + b).sqrt()
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (judged, apart) = self.counts();
        #[allow(clippy::cast_precision_loss)] // hundreds
        let expected = self.varying().count() as f64 * (1.0 - AGREEMENT_LEVEL);
        writeln!(
            f,
            "The two runs {}: of {judged} figures {apart} disagree; by chance alone {expected:.1} \
             would, and up to {} are taken for it, none beyond its bound. Missing: {}.\n",
            if self.agree() { "agree" } else { "do not agree" },
            self.most_by_chance(),
            if self.missing.is_empty() { "none".to_owned() } else { self.missing.join("; ") },
        )?;
        writeln!(
            f,
            "| model | policy | figure | first | second | apart | allowed | bound | verdict |"
        )?;
        writeln!(f, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")?;
        self.figures.iter().try_for_each(|figure| self.fmt_row(figure, f))
    }
}

impl Agreement {
    fn fmt_row(&self, figure: &Compared, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared { setting, first, second, .. } = figure;
        let shown = |summary: &Summary| {
            let deviation = summary.standard_deviation.map(|d| format!(" ± {}", digits(d)));
            format!("{}{}", digits(summary.mean), deviation.unwrap_or_default())
        };
        // There is no share of nothing.
        let share = |value: f64| Some(value / first.mean * 100.0).filter(|share| share.is_finite());
        let percent = |value: f64| {
            share(value).map_or("-".to_owned(), |share| format!("{:.1} %", share.abs()))
        };
        let apart = share(second.mean - first.mean);
        writeln!(
            f,
            "| {} | {}{} | {} | {} | {} | {} | {} | {} | {} |",
            setting.model,
            setting.policy,
            self.sizes(setting),
            figure.figure,
            shown(first),
            shown(second),
            apart.map_or("-".to_owned(), |share| format!("{share:+.1} %")),
            percent(figure.allowed),
            percent(figure.bound),
            match (figure.agrees(), figure.is_out_of_bounds()) {
                (true, _) => "agrees",
                (false, false) => "differs, perhaps by chance",
                (false, true) => "**differs**",
            }
        )
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
