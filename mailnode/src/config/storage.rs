//! How a node keeps what it stores: the log's files, and MIME parts kept apart (docs/decisions/parts.md).

use super::check::{ConfigError, refuse};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct StorageConfig {
    /// A segment file of the log is closed at this size; space is given back segment by segment.
    pub segment_bytes: u32,
    /// How long a body is kept that no message here refers to any more.
    pub body_lease_seconds: u64,
    pub parts: PartsConfig,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, body_lease_seconds: 48 * 3_600, parts: PartsConfig::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct PartsConfig {
    /// Cut big MIME parts out of new messages. What is stored is read either way.
    pub enabled: bool,
    /// Parts of so many bytes, as they stand in the message, are kept apart.
    pub threshold_bytes: usize,
    /// Leases of parts that messages here refer to are renewed this often.
    pub renew_seconds: u64,
    /// A part that nobody renewed for so long goes to the trash.
    pub lease_seconds: u64,
    /// So long it stays there.
    pub trash_seconds: u64,
}

impl Default for PartsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            threshold_bytes: 64 << 10,
            renew_seconds: 24 * 3_600,
            lease_seconds: 3 * 24 * 3_600,
            trash_seconds: 7 * 24 * 3_600,
        }
    }
}

impl PartsConfig {
    pub const fn renew(&self) -> Duration {
        Duration::from_secs(self.renew_seconds)
    }

    pub const fn trash(&self) -> Duration {
        Duration::from_secs(self.trash_seconds)
    }
}

/// Between two looks for what is due, at most.
const COLLECT: Duration = Duration::from_secs(6 * 3_600);

impl StorageConfig {
    /// What of the store's options is set by it.
    pub fn options(&self) -> storage::Options {
        let (lease, part_lease) =
            (Duration::from_secs(self.body_lease_seconds), Duration::from_secs(self.parts.lease_seconds));
        let shortest = lease.min(part_lease).min(self.parts.trash());
        storage::Options {
            segment_bytes: self.segment_bytes,
            lease,
            part_lease,
            trash: self.parts.trash(),
            collect_interval: (shortest / 4).clamp(Duration::from_secs(1), COLLECT),
            ..storage::Options::default()
        }
    }
}

pub(super) fn check(storage: &StorageConfig) -> Result<(), ConfigError> {
    if !(1 << 20..=1 << 30).contains(&storage.segment_bytes) {
        return Err(refuse("storage.segmentBytes", "must be 1 MiB to 1 GiB"));
    }
    const YEAR: u64 = 365 * 24 * 3_600;
    if !(4..=YEAR).contains(&storage.body_lease_seconds) {
        return Err(refuse("storage.bodyLeaseSeconds", "must be 4 seconds to a year"));
    }
    let parts = &storage.parts;
    if !(64..=1 << 30).contains(&parts.threshold_bytes) {
        return Err(refuse("storage.parts.thresholdBytes", "must be 64 bytes to 1 GiB"));
    }
    if !(1..=YEAR).contains(&parts.renew_seconds) {
        return Err(refuse("storage.parts.renewSeconds", "must be a second to a year"));
    }
    if !(parts.renew_seconds * 2..=YEAR * 2).contains(&parts.lease_seconds) {
        let problem = "must be at least twice renewSeconds, so that one renewal may be missed";
        return Err(refuse("storage.parts.leaseSeconds", problem));
    }
    if !(1..=YEAR).contains(&parts.trash_seconds) {
        return Err(refuse("storage.parts.trashSeconds", "must be a second to a year"));
    }
    Ok(())
}
