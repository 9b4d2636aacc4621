//! Which figures are not to be believed.

use std::fmt;

use moe_offload::plan::CPU;
use moe_offload::plan::human_bytes;
use moe_offload::plan::parse_bytes;

use super::record::{QualityRecord, Record, SpeedRecord};

/// Two clocks may differ by this share of the time, and by [`SLACK_SECONDS`] for each answer: what a
/// busy system takes between two looks at a clock.
const SLACK_SHARE: f64 = 0.1;
const SLACK_SECONDS: f64 = 0.02;

/// Something in a run that contradicts itself, its protocol or a bound.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Other weights are on a device than the policy has to put there.
    Memory {
        /// Where it was found.
        at: String,
        /// The device.
        device: String,
        /// Bytes that the policy has to put there.
        expected_bytes: u64,
        /// Bytes that the engine has there.
        measured_bytes: u64,
    },
    /// A policy that has to differ from the baseline has exactly as much on the devices as that has.
    WithoutEffect {
        /// Where it was found.
        at: String,
    },
    /// More is on the devices than the budget of `fit` allows.
    OverBudget {
        /// Where it was found.
        at: String,
        /// The budget.
        budget_bytes: u64,
        /// Bytes that the engine has there.
        measured_bytes: u64,
    },
    /// The rates stand for another time than passed on the wall clock.
    Clock {
        /// Where it was found.
        at: String,
        /// Seconds that tokens and rates stand for.
        counted_seconds: f64,
        /// Seconds on the other clock.
        wall_seconds: f64,
    },
    /// Tokens of a prompt were not computed anew.
    Reused {
        /// Where it was found.
        at: String,
        /// The prompt.
        prompt: String,
    },
    /// The text differs from the baseline's by more than placement can cause.
    Quality {
        /// Where it was found.
        at: String,
        /// The mean divergence.
        mean_kl_nats: f64,
        /// The bound.
        bound_nats: f64,
    },
    /// A task failed.
    Failed {
        /// Where.
        at: String,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { at, device, expected_bytes, measured_bytes } => write!(
                f,
                "{at}: the policy has to put {} of weights on {device}, but {} are there",
                human_bytes(*expected_bytes),
                human_bytes(*measured_bytes)
            ),
            Self::WithoutEffect { at } => {
                write!(f, "{at}: as much is on the devices as under the baseline")
            }
            Self::OverBudget { at, budget_bytes, measured_bytes } => write!(
                f,
                "{at}: {} are on the devices, over the budget of {}",
                human_bytes(*measured_bytes),
                human_bytes(*budget_bytes)
            ),
            Self::Clock { at, counted_seconds, wall_seconds } => write!(
                f,
                "{at}: tokens and rates stand for {counted_seconds:.3} s, but {wall_seconds:.3} s \
                 passed"
            ),
            Self::Reused { at, prompt } => {
                write!(f, "{at}: the prompt `{prompt}` was not computed from its first token")
            }
            Self::Quality { at, mean_kl_nats, bound_nats } => write!(
                f,
                "{at}: a mean divergence of {mean_kl_nats:.3e} nats from the baseline, over the \
                 bound of {bound_nats:.0e}"
            ),
            Self::Failed { at, reason } => write!(f, "{at}: {reason}"),
        }
    }
}

/// Everything that is wrong with these records; none if they can be believed.
pub fn faults(protocol: &super::Protocol, records: &[Record]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for record in records {
        match record {
            Record::Speed(speed) => {
                memory(speed, &mut faults);
                let baseline = records.iter().find_map(|record| match record {
                    Record::Speed(other)
                        if other.setting == speed.setting.under(&protocol.baseline) =>
                    {
                        Some(other)
                    }
                    _ => None,
                });
                effect(speed, baseline, &mut faults);
                clocks(speed, &mut faults);
            }
            Record::Quality(found) => quality(found, &mut faults),
            Record::Failed { task, reason } => {
                // What was tried again later and worked is no fault.
                let done = records
                    .iter()
                    .any(|other| other.is_final() && other.task().as_ref() == Some(task));
                let fault = Fault::Failed { at: task.to_string(), reason: reason.clone() };
                if !done && !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
            _ => {}
        }
    }
    faults
}

fn place(speed: &SpeedRecord) -> String {
    format!("{} {} {}", speed.setting.model, speed.setting.policy, speed.repetition + 1)
}

fn memory(speed: &SpeedRecord, faults: &mut Vec<Fault>) {
    for expected in speed.expected.iter().flatten() {
        let measured = speed.memory.iter().find(|memory| memory.name == expected.device);
        let measured_bytes = measured.map_or(0, |memory| memory.weights_bytes);
        if measured_bytes != expected.weights_bytes {
            faults.push(Fault::Memory {
                at: place(speed),
                device: expected.device.clone(),
                expected_bytes: expected.weights_bytes,
                measured_bytes,
            });
        }
    }
}

/// On a machine without devices no policy has an effect.
fn effect(speed: &SpeedRecord, baseline: Option<&SpeedRecord>, faults: &mut Vec<Fault>) {
    let budget = budget_bytes(&speed.policy);
    for memory in speed.memory.iter().filter(|memory| memory.name != CPU) {
        if let Some(budget_bytes) = budget.filter(|&budget| memory.total_bytes() > budget) {
            let measured_bytes = memory.total_bytes();
            faults.push(Fault::OverBudget { at: place(speed), budget_bytes, measured_bytes });
        }
    }
    let Some(baseline) = baseline.filter(|other| other.setting.policy != speed.setting.policy)
    else {
        return;
    };
    let has_to_differ = match (&speed.expected, &baseline.expected) {
        (Some(expected), Some(others)) => expected != others,
        // Under `fit` everything may be on the devices if the budget allows it; but what is measured
        // must have been loaded by a budget.
        _ if speed.setting.policy.fit_percent().is_some() => {
            budget.is_none_or(|budget| budget < baseline.device_bytes())
        }
        _ => false,
    };
    let weights = |speed: &SpeedRecord| -> Vec<(String, u64)> {
        let devices = speed.memory.iter().filter(|memory| memory.name != CPU);
        devices.map(|memory| (memory.name.clone(), memory.weights_bytes)).collect()
    };
    let same = !weights(baseline).is_empty() && weights(speed) == weights(baseline);
    if has_to_differ && same {
        faults.push(Fault::WithoutEffect { at: place(speed) });
    }
}

/// The budget of a policy that is `fit` with one in bytes, for one device.
fn budget_bytes(policy: &str) -> Option<u64> {
    parse_bytes(policy.strip_prefix("fit:")?).ok()
}

fn clocks(speed: &SpeedRecord, faults: &mut Vec<Fault>) {
    for answer in speed.answers.iter().filter(|answer| answer.reused_tokens > 0) {
        faults.push(Fault::Reused { at: place(speed), prompt: answer.prompt.clone() });
    }
    let counted: f64 = speed.answers.iter().map(super::Answer::counted_seconds).sum();
    let wall: f64 = speed.answers.iter().map(|answer| answer.wall_seconds).sum();
    #[allow(clippy::cast_precision_loss)] // a handful
    let slack = wall * SLACK_SHARE + SLACK_SECONDS * speed.answers.len() as f64;
    // The whole task took at least as long as its load and its answers.
    let within = speed.load_seconds + wall <= speed.task_seconds + slack;
    if (counted - wall).abs() > slack {
        let at = place(speed);
        faults.push(Fault::Clock { at, counted_seconds: counted, wall_seconds: wall });
    } else if !within {
        faults.push(Fault::Clock {
            at: place(speed),
            counted_seconds: speed.load_seconds + wall,
            wall_seconds: speed.task_seconds,
        });
    }
}

fn quality(found: &QualityRecord, faults: &mut Vec<Fault>) {
    let Some((against, bound_nats)) = found.quality.against.as_ref().zip(found.kl_bound_nats)
    else {
        return;
    };
    if against.mean_kl_nats > bound_nats {
        faults.push(Fault::Quality {
            at: format!("{} {}", found.setting.model, found.setting.policy),
            mean_kl_nats: against.mean_kl_nats,
            bound_nats,
        });
    }
}
