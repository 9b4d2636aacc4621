//! What failed for memory, so that it can be tried again when there is more.

use serde::{Deserialize, Serialize};

use super::key::TuneKey;
use crate::{Error, OffloadPolicy};

/// A device that had too little memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shortage {
    /// The device.
    pub device: String,
    /// Bytes that it would have needed besides those that were free.
    pub lacking_bytes: u64,
}

/// A policy that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PassedOver {
    /// The policy.
    pub policy: OffloadPolicy,
    /// Why.
    pub reason: String,
    /// The memory that lacked, if it was that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortage: Option<Shortage>,
}

impl Shortage {
    /// What lacked, if that is what the error says.
    pub(super) fn of(error: &Error) -> Option<Self> {
        let Error::DoesNotFit { device, needed_bytes, free_bytes, .. } = error else { return None };
        let lacking_bytes = needed_bytes.saturating_sub(*free_bytes).max(1);
        Some(Self { device: device.clone(), lacking_bytes })
    }

    /// Whether by now so much more is free that it may fit. More than the budget never is.
    pub(super) fn is_over(&self, then: &TuneKey, now: &TuneKey) -> bool {
        let free = |key: &TuneKey| {
            let mut devices = key.environment.devices.iter();
            let free = devices.find(|device| device.name == self.device)?.free_bytes?;
            Some(key.budget_bytes.map_or(free, |budget| free.min(budget)))
        };
        let both = free(then).zip(free(now));
        both.is_some_and(|(then, now)| now >= then.saturating_add(self.lacking_bytes))
    }
}
