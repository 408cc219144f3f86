//! The Lease service as hosts see it: away, slow, or telling what was true a moment ago.

use crate::dice::Dice;
use lease::{CoordinatorLease, InProcess, LeaseError, LeaseService, MemberLease};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseConditions {
    pub away: bool,
    /// Every request takes up to so long.
    pub slow: Duration,
    /// Reads may be served from a cache.
    pub stale: bool,
}

struct State {
    conditions: LeaseConditions,
    dice: Dice,
    cached_members: Vec<MemberLease>,
    cached_coordinator: Option<CoordinatorLease>,
}

#[derive(Clone)]
pub struct SimLeases {
    truth: InProcess,
    state: Arc<Mutex<State>>,
}

impl SimLeases {
    pub fn new(dice: Dice) -> Self {
        let conditions = LeaseConditions::default();
        let state = State { conditions, dice, cached_members: Vec::new(), cached_coordinator: None };
        Self { truth: InProcess::new(), state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, conditions: LeaseConditions) {
        self.lock().conditions = conditions;
    }

    /// The way there, or back.
    async fn travel(&self) -> Result<(), LeaseError> {
        let (away, time) = {
            let mut state = self.lock();
            let slow = u64::try_from(state.conditions.slow.as_millis()).unwrap_or_default();
            (state.conditions.away, state.dice.millis(1, 3 + slow))
        };
        tokio::time::sleep(time).await;
        if away { Err(LeaseError::Unavailable("simulated".into())) } else { Ok(()) }
    }

    /// True if this read is to be served from the cache.
    fn is_cached(&self) -> bool {
        let mut state = self.lock();
        state.conditions.stale && !state.dice.one_in(4)
    }
}

impl LeaseService for SimLeases {
    async fn renew(&self, lease: &MemberLease) -> Result<(), LeaseError> {
        self.travel().await?;
        self.truth.renew(lease).await?;
        self.travel().await
    }

    async fn members(&self) -> Result<Vec<MemberLease>, LeaseError> {
        self.travel().await?;
        if self.is_cached() {
            return Ok(self.lock().cached_members.clone());
        }
        let members = self.truth.members().await?;
        self.lock().cached_members.clone_from(&members);
        Ok(members)
    }

    async fn release(&self, name: &str) -> Result<(), LeaseError> {
        self.travel().await?;
        self.truth.release(name).await
    }

    async fn coordinator(&self) -> Result<Option<CoordinatorLease>, LeaseError> {
        self.travel().await?;
        if self.is_cached() {
            return Ok(self.lock().cached_coordinator.clone());
        }
        let lease = self.truth.coordinator().await?;
        self.lock().cached_coordinator.clone_from(&lease);
        Ok(lease)
    }

    async fn write_coordinator(&self, expected: u64, lease: CoordinatorLease) -> Result<(), LeaseError> {
        self.travel().await?;
        self.truth.write_coordinator(expected, lease).await?;
        self.travel().await
    }
}
