//! Leases, the cluster's membership service (DESIGN 5).
//!
//! Each node renews a Lease of its own, and one node at a time holds the coordinator Lease, which also carries
//! the published view. The trait is cut so that Kubernetes Leases (coordination.k8s.io/v1) fit: a record with a
//! holder, a duration and a version for compare-and-set. As there, a Lease has expired when an *observer* has
//! not seen it change for its duration by the observer's own clock; clocks are never compared.
//!
//! Implementations: [`SharedDirectory`] for processes that share a directory, [`InProcess`] for the nodes of
//! one process.

mod observer;
mod process;
mod shared;
mod trouble;

pub use observer::Observer;
pub use process::InProcess;
pub use shared::SharedDirectory;
pub use trouble::Trouble;

use cluster::{Addresses, Incarnation, NodeId, View};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A node's own Lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberLease {
    pub name: String,
    pub incarnation: Incarnation,
    pub addresses: Addresses,
    #[serde(default)]
    pub zone: Option<String>,
    /// The node wants to be drained.
    #[serde(default)]
    pub draining: bool,
    /// Without renewal for so long it counts as expired.
    pub duration_millis: u64,
    /// Grows with every renewal.
    pub renewals: u64,
}

impl MemberLease {
    /// Not renewed yet: its first renewal writes it.
    pub fn new(name: &str, incarnation: Incarnation, addresses: Addresses, zone: Option<String>) -> Self {
        Self {
            name: name.to_owned(),
            incarnation,
            addresses,
            zone,
            draining: false,
            duration_millis: 0,
            renewals: 0,
        }
    }

    pub fn id(&self) -> NodeId {
        NodeId::of_name(&self.name)
    }

    pub const fn duration(&self) -> Duration {
        Duration::from_millis(self.duration_millis)
    }
}

/// The coordinator Lease and the view that its holder published.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorLease {
    /// Name of the holder; None after a release.
    pub holder: Option<String>,
    pub incarnation: Incarnation,
    pub duration_millis: u64,
    /// Grows with every write: the version for compare-and-set.
    pub version: u64,
    pub view: View,
}

impl CoordinatorLease {
    pub const fn duration(&self) -> Duration {
        Duration::from_millis(self.duration_millis)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else wrote in between: read again.
    #[error("the coordinator Lease was changed by somebody else")]
    Conflict,
    /// The service is away: nobody is declared dead because of it.
    #[error("Lease service: {0}")]
    Unavailable(String),
}

pub trait LeaseService: Clone + Send + Sync + 'static {
    /// Writes this node's Lease.
    fn renew(&self, lease: &MemberLease) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// All nodes' Leases, whether they expired or not. What cannot be read is left out.
    fn members(&self) -> impl Future<Output = Result<Vec<MemberLease>, LeaseError>> + Send;

    /// Takes this node's Lease away: it stops on purpose.
    fn release(&self, name: &str) -> impl Future<Output = Result<(), LeaseError>> + Send;

    /// The coordinator Lease; None if nobody ever held it.
    fn coordinator(&self) -> impl Future<Output = Result<Option<CoordinatorLease>, LeaseError>> + Send;

    /// Writes the coordinator Lease if its version is still `expected` (0: there is none). The version that is
    /// written is `expected + 1`, whatever the argument says.
    ///
    /// # Errors
    /// [`LeaseError::Conflict`] if it is not.
    fn write_coordinator(
        &self,
        expected: u64,
        lease: CoordinatorLease,
    ) -> impl Future<Output = Result<(), LeaseError>> + Send;
}

#[cfg(test)]
mod tests;
