//! Whether two runs of one protocol say the same.

use std::fmt;

use moe_offload::tune::Environment;
use moe_offload::tune::Summary;
use serde::{Deserialize, Serialize};

use super::error::{BenchError, BenchResult};
use super::protocol::{Prompt, Protocol, Setting};
use super::record::{Answer, Record, SpeedRecord};
use super::t_distribution;
use super::task::Task;

/// Each figure is compared at this level: of equal figures so large a share agrees.
pub const AGREEMENT_LEVEL: f64 = 0.99;
/// Two runs do not agree if equal machines would have so many disagreements less often than this, or
/// one so large.
const RARE: f64 = 0.01;
/// By so much of itself a time or rate may differ from run to run, since the machine does: its neighbours,
/// its clock and its temperature change, and hit all policies alike. The ratios to the baseline, taken
/// within each run, are what is compared strictly.
pub const AGREEMENT_DRIFT: f64 = 0.25;
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
    /// It is a ratio to the baseline's load of the same number.
    pub is_ratio: bool,
    /// How far the means may be apart: Welch's interval at [`AGREEMENT_LEVEL`], for times and rates at
    /// least [`AGREEMENT_DRIFT`] of them; 0 if it is exact.
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
    /// The baseline's, in both; empty for the baseline itself.
    baselines: [Vec<&'a SpeedRecord>; 2],
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
            let base = setting.under(&protocol.baseline);
            let baseline = |records| {
                if base == setting { Vec::new() } else { speeds(records, &base) }
            };
            let loads = Loads {
                setting: &setting,
                baselines: [baseline(first), baseline(second)],
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
        let absolute = [samples(&loads.first), samples(&loads.second)];
        let [a, b] = &loads.baselines;
        let has_baseline = !a.is_empty() || !b.is_empty();
        if !is_exact && has_baseline {
            let ratios = [over(&loads.first, a, of), over(&loads.second, b, of)];
            self.judge(loads, format!("{figure}, over the baseline's"), Kind::Ratio, ratios);
        }
        let kind = if is_exact { Kind::Exact } else { Kind::Absolute };
        self.judge(loads, figure, kind, absolute);
    }

    fn judge(&mut self, loads: &Loads<'_>, figure: String, kind: Kind, samples: [Vec<f64>; 2]) {
        let [first, second] = samples;
        let is_exact = kind == Kind::Exact;
        let is_whole = loads.first.len().min(loads.second.len()) >= loads.repetitions;
        if is_whole && first.is_empty() && second.is_empty() {
            return; // there is no such figure, such as the rate of an answer of one token
        }
        let wanted = loads.repetitions.max(if is_exact { 1 } else { FEWEST_SAMPLES });
        let counts = (first.len(), second.len());
        match (Summary::of(&first), Summary::of(&second)) {
            (Some(first), Some(second)) if counts.0.min(counts.1) >= wanted => {
                let interval = welch(&first, &second, AGREEMENT_LEVEL);
                let allowed = match kind {
                    Kind::Exact => 0.0,
                    Kind::Ratio => interval,
                    Kind::Absolute => interval.max(AGREEMENT_DRIFT * first.mean.abs()),
                };
                self.figures.push(Compared {
                    setting: loads.setting.clone(),
                    is_ratio: kind == Kind::Ratio,
                    bound: allowed,
                    figure,
                    first,
                    second,
                    is_exact,
                    allowed,
                });
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
        t_distribution::most_by_chance(self.varying().count(), 1.0 - AGREEMENT_LEVEL, RARE)
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

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Exact,
    Ratio,
    Absolute,
}

/// Each load's figure over that of the baseline's load of the same number.
fn over(
    loads: &[&SpeedRecord],
    baseline: &[&SpeedRecord],
    of: &dyn Fn(&SpeedRecord) -> Option<f64>,
) -> Vec<f64> {
    let ratio = |load: &&SpeedRecord| {
        let base = baseline.iter().find(|base| base.repetition == load.repetition)?;
        let ratio = of(load)? / of(base)?;
        ratio.is_finite().then_some(ratio)
    };
    loads.iter().filter_map(ratio).collect()
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
    t_distribution::quantile(freedom, f64::midpoint(1.0, level)) * (a + b).sqrt()
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (judged, apart) = self.counts();
        #[allow(clippy::cast_precision_loss)] // hundreds
        let expected = self.varying().count() as f64 * (1.0 - AGREEMENT_LEVEL);
        writeln!(
            f,
            "The two runs {}: of {judged} figures {apart} disagree; by chance alone {expected:.1} \
             would, and up to {} are taken for it, none beyond its bound. Times and rates differ by up \
             to {:.0} % in the mean, ratios to the baseline by up to {:.1} %. Missing: {}.\n",
            if self.agree() { "agree" } else { "do not agree" },
            self.most_by_chance(),
            self.farthest(false) * 100.0,
            self.farthest(true) * 100.0,
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
    /// By how much the means differ at most, of ratios or of what they are made of.
    fn farthest(&self, of_ratios: bool) -> f64 {
        let figures = self.varying().filter(|figure| figure.is_ratio == of_ratios);
        let apart = |figure: &Compared| figure.second.mean / figure.first.mean - 1.0;
        figures.map(|figure| apart(figure).abs()).filter(|x| x.is_finite()).fold(0.0, f64::max)
    }

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
