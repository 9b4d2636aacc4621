//! A plan's figures beside what was measured.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CPU, Plan};
use crate::device::DeviceMemory;
use crate::units::human_bytes;

/// A plan's figures beside the measured ones, device by device. Made by [`Plan::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    rows: Vec<VerifiedRow>,
    #[serde(default)]
    by_device: Vec<FreeFell>,
}

/// What a device itself says of a load, beside the engine's account. Its driver takes memory
/// besides, and other programs use it, so these need not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FreeFell {
    /// The device.
    pub device: String,
    /// All that the engine allocated there.
    pub allocated_bytes: u64,
    /// By how much its free memory fell; `None` where the device does not tell.
    pub free_fell_bytes: Option<u64>,
    /// What the plan holds back for what the engine does not count.
    #[serde(default)]
    pub planned_overhead_bytes: u64,
    /// What it really took beyond the engine's account, if the load was warmed up.
    #[serde(default)]
    pub overhead_bytes: Option<u64>,
}

/// One figure of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VerifiedRow {
    /// The device.
    pub device: String,
    /// Which figure: `weights`, `context` or `compute`.
    pub what: String,
    /// What the plan says; `None` where it leaves it to the engine.
    pub planned_bytes: Option<u64>,
    /// What was measured.
    pub measured_bytes: u64,
}

impl VerifiedRow {
    /// Whether plan and measurement agree, to the byte; an open figure always does.
    pub fn holds(&self) -> bool {
        self.planned_bytes.is_none_or(|planned| planned == self.measured_bytes)
    }
}

impl Verification {
    /// All figures.
    pub fn rows(&self) -> &[VerifiedRow] {
        &self.rows
    }

    /// What the devices themselves say.
    pub fn by_device(&self) -> &[FreeFell] {
        &self.by_device
    }

    /// Whether every figure holds.
    pub fn holds(&self) -> bool {
        self.rows.iter().all(VerifiedRow::holds)
    }
}

impl Plan {
    /// Compares the plan with what was measured after loading, for every device but the CPU: the
    /// engine counts mapped files by stretches, not by tensors.
    ///
    /// ```
    /// # use moe_offload_synth::{self as synth, SynthOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("model.gguf");
    /// # synth::family("mixtral-8x7b")?.build(&SynthOptions::tiny())?.save(&path, 1, |_| {})?;
    /// use moe_offload::{ContextOptions, Device, GgufFile, OffloadPolicy};
    ///
    /// let gguf = GgufFile::open(&path)?;
    /// let card = [Device::new("gpu")];
    /// let plan = OffloadPolicy::AllExperts.plan(&gguf, &card, &ContextOptions::default())?;
    /// // Nothing is on the card: the plan does not hold.
    /// assert!(!plan.verify(&[]).holds());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(&self, measured: &[DeviceMemory]) -> Verification {
        let mut rows = Vec::new();
        let mut by_device = Vec::new();
        for planned in self.devices().iter().filter(|device| device.name != CPU) {
            let found = measured.iter().find(|memory| memory.name == planned.name);
            let weights = planned.weights_bytes.saturating_add(planned.padding_bytes);
            let figures = [
                ("weights", Some(weights), found.map(|memory| memory.weights_bytes)),
                ("context", planned.context_bytes, found.map(|memory| memory.context_bytes)),
                ("compute", planned.compute_bytes, found.map(|memory| memory.compute_bytes)),
            ];
            rows.extend(figures.map(|(what, planned_bytes, measured_bytes)| VerifiedRow {
                device: planned.name.clone(),
                what: what.to_owned(),
                planned_bytes,
                measured_bytes: measured_bytes.unwrap_or(0),
            }));
            by_device.push(FreeFell {
                device: planned.name.clone(),
                allocated_bytes: found.map_or(0, DeviceMemory::total_bytes),
                free_fell_bytes: found.and_then(|memory| memory.free_fell_bytes),
                planned_overhead_bytes: planned.overhead_bytes,
                overhead_bytes: found.and_then(|memory| memory.overhead_bytes),
            });
        }
        Verification { rows, by_device }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.rows.iter().map(|row| row.device.chars().count()).max().unwrap_or(0).clamp(6, 60);
        write!(
            f,
            "{:width$}  {:8}  {:>11}  {:>11}  {:>16}",
            "device", "what", "planned", "measured", "difference"
        )?;
        for row in &self.rows {
            let planned = row.planned_bytes.map_or_else(|| "-".to_owned(), human_bytes);
            let difference = match row.planned_bytes {
                Some(planned) => i128::from(row.measured_bytes) - i128::from(planned),
                None => 0,
            };
            let difference = if row.planned_bytes.is_none() {
                "not planned".to_owned()
            } else {
                format!("{difference:+} B")
            };
            write!(
                f,
                "\n{:width$}  {:8}  {planned:>11}  {:>11}  {difference:>16}",
                row.device,
                row.what,
                human_bytes(row.measured_bytes)
            )?;
        }
        for by_device in &self.by_device {
            let FreeFell { device, allocated_bytes, free_fell_bytes, .. } = by_device;
            let rows = [
                ("itself", *allocated_bytes, *free_fell_bytes),
                ("overhead", by_device.planned_overhead_bytes, by_device.overhead_bytes),
            ];
            for (what, counted, told) in rows {
                let Some(told) = told else { continue };
                let difference = i128::from(told) - i128::from(counted);
                let (counted, told) = (human_bytes(counted), human_bytes(told));
                write!(
                    f,
                    "\n{device:width$}  {what:8}  {counted:>11}  {told:>11}  {difference:>+14} B"
                )?;
            }
        }
        Ok(())
    }
}
