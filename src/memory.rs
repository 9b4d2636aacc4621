//! Memory by device: what was measured, and how it compares with a plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::{CPU, Plan, human_bytes};

/// What the engine has allocated on one device, by its own account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// The device, or [`CPU`] for all memory of the host: mapped, allocated or pinned.
    pub name: String,
    /// Bytes of weights. For mapped files the engine counts whole stretches of the file, so that
    /// the CPU's figure can be larger than the tensors in it.
    pub weights_bytes: u64,
    /// Bytes of the KV cache and other state.
    pub context_bytes: u64,
    /// Bytes of the buffers for intermediate results.
    pub compute_bytes: u64,
}

impl DeviceMemory {
    /// All three together.
    pub fn total_bytes(&self) -> u64 {
        self.weights_bytes + self.context_bytes + self.compute_bytes
    }

    /// Raises the context and compute bytes of each device to those of `other`; whether any rose.
    #[cfg(feature = "llama")]
    pub(crate) fn raise(rows: &mut [Self], other: &[Self]) -> bool {
        let mut rose = false;
        for row in rows.iter_mut().filter(|row| row.name != CPU) {
            let Some(other) = other.iter().find(|other| other.name == row.name) else { continue };
            rose |= other.context_bytes > row.context_bytes;
            rose |= other.compute_bytes > row.compute_bytes;
            row.context_bytes = row.context_bytes.max(other.context_bytes);
            row.compute_bytes = row.compute_bytes.max(other.compute_bytes);
        }
        rose
    }

    /// Adds up rows of the same device; the CPU comes last and is always there.
    #[cfg(feature = "llama")]
    pub(crate) fn by_device(rows: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut cpu =
            Self { name: CPU.to_owned(), weights_bytes: 0, context_bytes: 0, compute_bytes: 0 };
        let mut devices: Vec<Self> = Vec::new();
        for row in rows {
            let known = devices.iter().position(|device| device.name == row.name);
            let sum = match known {
                _ if row.name == CPU => &mut cpu,
                Some(i) => &mut devices[i],
                None => {
                    devices.push(row);
                    continue;
                }
            };
            sum.weights_bytes += row.weights_bytes;
            sum.context_bytes += row.context_bytes;
            sum.compute_bytes += row.compute_bytes;
        }
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        devices.push(cpu);
        devices
    }
}

/// A plan's figures beside the measured ones, device by device. Made by [`Plan::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    rows: Vec<VerifiedRow>,
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
    /// # use moe_offload::synth::{self, SynthOptions};
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
        for planned in self.devices().iter().filter(|device| device.name != CPU) {
            let found = measured.iter().find(|memory| memory.name == planned.name);
            let weights = planned.weights_bytes + planned.padding_bytes;
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
        }
        Verification { rows }
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
        Ok(())
    }
}
