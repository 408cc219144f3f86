//! The user database in TiKV (docs/tikv.md), as this node is configured for it.

use super::backend::{FIELD, RemoteStatus};
use crate::config::TikvDatabaseConfig;
use crate::running::StartError;
use crate::wire::Failure;
use directory_tikv::{Position, Tikv, TikvConfig, Tls};
use std::time::Duration;
use tokio::time::Instant;

/// Locks of the dead, old versions, old tombstones.
const MAINTENANCE: Duration = Duration::from_secs(5 * 60);

pub struct TikvBackend(Box<Tikv>);

/// Where the maintenance is, and when it was last done by this node.
#[derive(Default)]
pub struct Maintenance {
    position: Position,
    last: Option<Instant>,
}

fn wrong(error: impl std::fmt::Display) -> StartError {
    StartError::new(FIELD, error)
}

fn settings(config: &TikvDatabaseConfig) -> TikvConfig {
    let mut settings = TikvConfig::new(config.pd_endpoints.clone());
    if let Some(prefix) = &config.key_prefix {
        settings.key_prefix.clone_from(prefix);
    }
    settings.timeout = config.timeout_seconds.map_or(settings.timeout, Duration::from_secs);
    settings.collect = config.collect.unwrap_or(settings.collect);
    settings.tls = config.tls.as_ref().map(|tls| Tls {
        authority: tls.ca.clone(),
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
    });
    settings
}

impl TikvBackend {
    /// # Errors
    /// Says what is wrong; nothing is connected to.
    pub fn check(config: &TikvDatabaseConfig) -> Result<(), StartError> {
        settings(config).check().map_err(wrong)
    }

    /// # Errors
    /// As [`TikvBackend::check`].
    pub fn new(config: &TikvDatabaseConfig) -> Result<Self, StartError> {
        Ok(Self(Box::new(Tikv::new(settings(config)).map_err(wrong)?)))
    }

    pub const fn records(&self) -> &Tikv {
        &self.0
    }

    /// # Errors
    /// While TiKV was never reached.
    pub async fn is_reachable(&self) -> Result<(), Failure> {
        if self.0.status().connected > 0 {
            return Ok(());
        }
        self.0.ping().await.map_err(|error| Failure::Temporary(error.to_string()))
    }

    pub fn status(&self) -> RemoteStatus {
        let status = self.0.status();
        RemoteStatus {
            reachable: status.reachable,
            reads: status.reads,
            writes: status.writes,
            conflicts: status.conflicts,
            in_doubt: status.in_doubt,
            unavailable: status.unavailable,
            stale: status.stale,
            false_commits: status.false_commits,
        }
    }

    /// Does something every few minutes.
    pub async fn maintain(&self, state: &mut Maintenance) {
        if state.last.is_some_and(|last| last.elapsed() < MAINTENANCE) {
            return;
        }
        state.last = Some(Instant::now());
        match self.0.maintain(&mut state.position).await {
            Ok(done) => tracing::debug!(?done, "user database: maintenance of TiKV"),
            Err(error) => tracing::warn!(%error, "user database: maintenance of TiKV"),
        }
    }
}
