//! Expiry by the observer's own clock.

use crate::{CoordinatorLease, MemberLease};
use cluster::{Incarnation, NodeId};
use std::collections::HashMap;
use std::time::Duration;

/// Remembers when each Lease was last seen to change. Times are the observer's, monotonic.
#[derive(Debug, Default)]
pub struct Observer {
    members: HashMap<NodeId, ((Incarnation, u64), Duration)>,
    coordinator: Option<(u64, Duration)>,
}

impl Observer {
    /// For each Lease, whether it expired.
    pub fn members(&mut self, leases: &[MemberLease], now: Duration) -> Vec<bool> {
        self.members.retain(|id, _| leases.iter().any(|lease| lease.id() == *id));
        leases
            .iter()
            .map(|lease| {
                let state = (lease.incarnation, lease.renewals);
                let (seen, since) = self.members.entry(lease.id()).or_insert((state, now));
                if *seen != state {
                    (*seen, *since) = (state, now);
                }
                now.saturating_sub(*since) > lease.duration()
            })
            .collect()
    }

    /// Whether the coordinator Lease may be taken over.
    pub fn coordinator_expired(&mut self, lease: &CoordinatorLease, now: Duration) -> bool {
        let since = match self.coordinator {
            Some((version, since)) if version == lease.version => since,
            _ => {
                self.coordinator = Some((lease.version, now));
                now
            }
        };
        lease.holder.is_none() || now.saturating_sub(since) > lease.duration()
    }
}
