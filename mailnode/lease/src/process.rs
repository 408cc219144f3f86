//! Leases of nodes in one process: a map behind a lock.

use crate::{CoordinatorLease, LeaseError, LeaseService, MemberLease};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Clones share the Leases.
#[derive(Clone, Default)]
pub struct InProcess(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    members: BTreeMap<String, MemberLease>,
    coordinator: Option<CoordinatorLease>,
}

impl InProcess {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseService for InProcess {
    async fn renew(&self, lease: &MemberLease) -> Result<(), LeaseError> {
        self.lock().members.insert(lease.name.clone(), lease.clone());
        Ok(())
    }

    async fn members(&self) -> Result<Vec<MemberLease>, LeaseError> {
        Ok(self.lock().members.values().cloned().collect())
    }

    async fn release(&self, name: &str) -> Result<(), LeaseError> {
        self.lock().members.remove(name);
        Ok(())
    }

    async fn coordinator(&self) -> Result<Option<CoordinatorLease>, LeaseError> {
        Ok(self.lock().coordinator.clone())
    }

    async fn write_coordinator(&self, expected: u64, lease: CoordinatorLease) -> Result<(), LeaseError> {
        let mut inner = self.lock();
        if inner.coordinator.as_ref().map_or(0, |known| known.version) != expected {
            return Err(LeaseError::Conflict);
        }
        inner.coordinator = Some(CoordinatorLease { version: expected + 1, ..lease });
        Ok(())
    }
}
