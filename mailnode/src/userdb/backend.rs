//! Which user database it is: the one that the nodes make among themselves, or TiKV (feature `tikv`).

use super::client::Client;
#[cfg(feature = "tikv")]
use super::tikv::{Maintenance, TikvBackend};
#[cfg(not(feature = "tikv"))]
use super::without_tikv::{Maintenance, TikvBackend};
use crate::config::UserDatabaseConfig;
use crate::node::Node;
use crate::running::StartError;
use crate::wire::Failure;
use bytes::Bytes;
use directory::{DatabaseError, Key, Kind, Read, Records, Token};
use std::sync::{Arc, OnceLock, Weak};

/// The part of the configuration that errors name.
pub const FIELD: &str = "userDatabase.tikv";

pub enum Backend {
    Embedded(Client),
    Tikv(TikvBackend),
}

/// What a database that is elsewhere has done so far; for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoteStatus {
    pub reachable: bool,
    pub reads: u64,
    pub writes: u64,
    pub conflicts: u64,
    /// Writes of which the caller was told that it is not known whether they happened.
    pub in_doubt: u64,
    /// Operations that ended without an answer.
    pub unavailable: u64,
    /// Reads answered with an older state.
    pub stale: u64,
    /// Commits that the client called done and that were not there.
    pub false_commits: u64,
}

/// What can be found wrong without connecting: files of TLS, a build without TiKV.
///
/// # Errors
/// Names the field.
pub fn check(config: &UserDatabaseConfig) -> Result<(), StartError> {
    config.tikv.as_ref().map_or(Ok(()), TikvBackend::check)
}

impl Backend {
    /// # Errors
    /// If the configuration cannot be meant, or this build has no TiKV.
    pub fn new(config: &UserDatabaseConfig, node: Arc<OnceLock<Weak<Node>>>) -> Result<Self, StartError> {
        match &config.tikv {
            None => Ok(Self::Embedded(Client::new(node))),
            Some(config) => TikvBackend::new(config).map(Self::Tikv),
        }
    }

    pub const fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// # Errors
    /// While TiKV was never reached. Later it may be away: then the node serves what it knows.
    pub async fn is_reachable(&self) -> Result<(), Failure> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Tikv(tikv) => tikv.is_reachable().await,
        }
    }

    /// None if the database is not elsewhere.
    pub fn status(&self) -> Option<RemoteStatus> {
        match self {
            Self::Embedded(_) => None,
            Self::Tikv(tikv) => Some(tikv.status()),
        }
    }

    /// Called again and again, by one node; does something every few minutes.
    pub async fn maintain(&self, state: &mut Maintenance) {
        match self {
            Self::Embedded(_) => {}
            Self::Tikv(tikv) => tikv.maintain(state).await,
        }
    }
}

impl Records for Backend {
    async fn read(&self, key: &Key, stale: bool) -> Result<Read, DatabaseError> {
        match self {
            Self::Embedded(client) => client.read(key, stale).await,
            Self::Tikv(tikv) => tikv.records().read(key, stale).await,
        }
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        match self {
            Self::Embedded(client) => client.compare_and_set(key, expected, token, value).await,
            Self::Tikv(tikv) => tikv.records().compare_and_set(key, expected, token, value).await,
        }
    }

    async fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, DatabaseError> {
        match self {
            Self::Embedded(client) => client.list(kind, after, limit).await,
            Self::Tikv(tikv) => tikv.records().list(kind, after, limit).await,
        }
    }
}
