//! A journal summed up.

mod csv;
mod figures;
mod heat_map;
mod markdown;
mod pictures;
mod saving;
mod tables;

use std::collections::BTreeMap;

pub use self::saving::Saving;
use super::checks::{self, Fault};
use super::error::BenchResult;
use super::protocol::{Protocol, Setting};
use super::record::{QualityRecord, Record, SpeedRecord};
use moe_offload::tune::Environment;
use moe_offload::tune::Summary;

/// A run's records, ready to be shown. Everything in it comes from one journal.
#[derive(Clone, Debug)]
pub struct Report {
    protocol: Protocol,
    records: Vec<Record>,
    faults: Vec<Fault>,
}

/// What a figure is drawn from.
type OfAnswer = fn(&super::Answer) -> Option<f64>;

impl Report {
    /// A report of these records, which must be of this protocol's run.
    pub fn new(protocol: Protocol, records: Vec<Record>) -> Self {
        let faults = checks::faults(&protocol, &records);
        Self { protocol, records, faults }
    }

    /// What is not to be believed; none is good news.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// What `setting` saves on the devices beside the baseline of the same run.
    pub fn saving(&self, setting: &Setting) -> Saving {
        saving::of(&self.protocol, &self.records, setting)
    }

    /// The report as Markdown, without pictures.
    pub fn markdown(&self) -> String {
        markdown::write(self)
    }

    /// The first line of [`csv`](Self::csv), which tells its files apart from others.
    pub const CSV_HEADER: &'static str = csv::COLUMNS;

    /// Every single answer as a line of CSV.
    pub fn csv(&self) -> String {
        csv::write(self)
    }

    /// Pictures as SVG texts by file name: speed against device memory, memory by policy, placement,
    /// and which experts were used.
    ///
    /// # Errors
    /// [`BenchError::Picture`](super::BenchError::Picture).
    pub fn pictures(&self) -> BenchResult<BTreeMap<String, String>> {
        let mut pictures = figures::all(self)?;
        for (setting, counted) in self.expert_uses() {
            let name = format!("experts-{}.svg", file_name(&setting.model));
            pictures.insert(name, heat_map::draw(&setting.model, counted)?);
        }
        Ok(pictures)
    }

    fn environment(&self) -> Option<&Environment> {
        self.records.iter().find_map(|record| match record {
            Record::Environment(environment) => Some(environment),
            _ => None,
        })
    }

    /// Whether there was anything but the CPU, as far as the records say.
    fn has_device(&self) -> bool {
        self.environment().is_none_or(|environment| !environment.devices.is_empty())
    }

    fn speeds(&self) -> impl Iterator<Item = &SpeedRecord> {
        self.records.iter().filter_map(|record| match record {
            Record::Speed(speed) => Some(speed),
            _ => None,
        })
    }

    fn qualities(&self) -> impl Iterator<Item = &QualityRecord> {
        self.records.iter().filter_map(|record| match record {
            Record::Quality(quality) => Some(quality),
            _ => None,
        })
    }

    fn expert_uses(&self) -> impl Iterator<Item = (&Setting, &super::ExpertUse)> {
        self.records.iter().filter_map(|record| match record {
            Record::ExpertUse { setting, counted, .. } => Some((setting, counted)),
            _ => None,
        })
    }

    /// Seconds of the same answers with and without counting experts.
    fn counting_seconds(&self, of: &Setting) -> Option<(f64, f64)> {
        self.records.iter().find_map(|record| match record {
            Record::ExpertUse { setting, counted_seconds, uncounted_seconds, .. }
                if setting == of && *uncounted_seconds > 0.0 =>
            {
                Some((*counted_seconds, *uncounted_seconds))
            }
            _ => None,
        })
    }

    /// One setting's records by repetition.
    fn of(&self, setting: &Setting) -> Vec<&SpeedRecord> {
        let mut speeds: Vec<_> = self.speeds().filter(|speed| speed.setting == *setting).collect();
        speeds.sort_by_key(|speed| speed.repetition);
        speeds.dedup_by_key(|speed| speed.repetition);
        speeds
    }

    /// The groups of settings that differ in their policy only: model, then sizes, each under the
    /// baseline.
    fn groups(&self) -> Vec<Setting> {
        let mut groups: Vec<Setting> = Vec::new();
        for task in self.protocol.tasks() {
            let super::Task::Speed { setting, .. } = task else { continue };
            let group = setting.under(&self.protocol.baseline);
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        groups
    }

    /// A figure of one prompt by repetition; `None` where it was not measured.
    fn samples(&self, setting: &Setting, prompt: &str, figure: OfAnswer) -> Vec<Option<f64>> {
        let mut samples = vec![None; self.protocol.repetitions as usize];
        for speed in self.of(setting) {
            let answer = speed.answers.iter().find(|answer| answer.prompt == prompt);
            let sample = samples.get_mut(speed.repetition as usize);
            if let Some((sample, answer)) = sample.zip(answer) {
                *sample = figure(answer);
            }
        }
        samples
    }

    fn summary(&self, setting: &Setting, prompt: &str, figure: OfAnswer) -> Option<Summary> {
        let samples = self.samples(setting, prompt, figure);
        Summary::of(&samples.into_iter().flatten().collect::<Vec<_>>())
    }

    /// Against the baseline, pair by pair.
    fn ratio(&self, setting: &Setting, prompt: &str, figure: OfAnswer) -> Option<Summary> {
        let baseline = setting.under(&self.protocol.baseline);
        let ours = self.samples(setting, prompt, figure);
        Summary::of_ratios(&ours, &self.samples(&baseline, prompt, figure))
    }

    /// Why there are no figures, if it did not fit or failed.
    fn absence(&self, setting: &Setting) -> String {
        let found = self.records.iter().rev().find_map(|record| match record {
            Record::DoesNotFit {
                task: super::Task::Speed { setting: other, .. }, device, ..
            } if other == setting => Some(format!("does not fit {device}")),
            Record::Failed { task: super::Task::Speed { setting: other, .. }, .. }
                if other == setting =>
            {
                Some("failed".to_owned())
            }
            _ => None,
        });
        found.unwrap_or_else(|| "not measured".to_owned())
    }
}

/// A name that is safe in a file's.
fn file_name(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '-' })
        .collect()
}
