//! Savings: only beside a baseline of the same run.

use std::fmt;

use moe_offload::plan::CPU;
use moe_offload::plan::human_bytes;

use crate::protocol::{Protocol, Setting};
use crate::record::{Record, SpeedRecord};
use crate::task::Task;

/// How much less a policy takes on the devices than the baseline does.
///
/// There is no way to make one without a baseline's measured memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Saving {
    /// It is the baseline itself.
    Baseline,
    /// Both were measured in this run.
    Measured {
        /// Bytes on the devices under the baseline: the least of its repetitions.
        baseline_bytes: u64,
        /// Bytes on the devices under the policy: the greatest of its repetitions.
        bytes: u64,
    },
    /// The baseline did not fit, so nobody knows what it would have taken.
    BaselineDidNotFit {
        /// The device that it did not fit.
        device: String,
        /// Bytes that its plan needs there.
        needed_bytes: u64,
        /// Bytes that were free there.
        free_bytes: u64,
    },
    /// There is no device but the CPU.
    NoDevice,
    /// The policy or the baseline was not measured in this run.
    NotMeasured,
}

impl fmt::Display for Saving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Baseline => f.write_str("baseline"),
            Self::Measured { baseline_bytes, bytes } if bytes <= baseline_bytes => {
                let saved = baseline_bytes - bytes;
                #[allow(clippy::cast_precision_loss)] // one decimal is shown
                let percent = saved as f64 * 100.0 / (*baseline_bytes).max(1) as f64;
                // Rounding must not make all of it out of nearly all.
                let percent = if *bytes > 0 { percent.min(99.9) } else { percent };
                write!(f, "{} ({percent:.1} %)", human_bytes(saved))
            }
            Self::Measured { baseline_bytes, bytes } => {
                write!(f, "none: {} more", human_bytes(bytes - baseline_bytes))
            }
            Self::BaselineDidNotFit { device, needed_bytes, free_bytes } => write!(
                f,
                "not known: the baseline did not fit {device} (needs {}, {} free)",
                human_bytes(*needed_bytes),
                human_bytes(*free_bytes)
            ),
            Self::NoDevice => f.write_str("not known: no device but the CPU"),
            Self::NotMeasured => f.write_str("not known: not measured"),
        }
    }
}

pub(super) fn of(protocol: &Protocol, records: &[Record], setting: &Setting) -> Saving {
    if setting.policy == protocol.baseline {
        return Saving::Baseline;
    }
    let baseline = setting.under(&protocol.baseline);
    let refused = records.iter().find_map(|record| match record {
        Record::DoesNotFit {
            task: Task::Speed { setting, .. },
            device,
            needed_bytes,
            free_bytes,
        } if *setting == baseline => Some(Saving::BaselineDidNotFit {
            device: device.clone(),
            needed_bytes: *needed_bytes,
            free_bytes: *free_bytes,
        }),
        _ => None,
    });
    if let Some(refused) = refused {
        return refused;
    }
    let measured = |setting: &Setting| -> Vec<&SpeedRecord> {
        let speeds = records.iter().filter_map(|record| match record {
            Record::Speed(speed) if speed.setting == *setting => Some(speed),
            _ => None,
        });
        speeds.collect()
    };
    let (ours, theirs) = (measured(setting), measured(&baseline));
    let has_device = |speed: &&SpeedRecord| speed.memory.iter().any(|memory| memory.name != CPU);
    let bytes = ours.iter().map(|speed| speed.device_bytes()).max();
    let baseline_bytes = theirs.iter().map(|speed| speed.device_bytes()).min();
    match (bytes, baseline_bytes) {
        (Some(_), Some(_)) if !theirs.iter().any(has_device) => Saving::NoDevice,
        (Some(bytes), Some(baseline_bytes)) => Saving::Measured { baseline_bytes, bytes },
        _ => Saving::NotMeasured,
    }
}
