//! The node's clocks: wall time, the hybrid logical clock over it, and ids made from both.

use cluster::{ClockError, EntryId, HybridClock, NodeId, Timestamp};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Unix milliseconds by this machine's clock.
pub fn wall_millis() -> u64 {
    crate::environment::unix_millis()
}

/// Unix seconds by this machine's clock.
pub fn wall_seconds() -> i64 {
    (wall_millis() / 1000) as i64
}

/// The hybrid clock, shared by all tasks of the node.
pub struct NodeClock(Mutex<HybridClock>);

impl NodeClock {
    pub const fn new(node: NodeId, max_skew: Duration) -> Self {
        Self(Mutex::new(HybridClock::new(node, max_skew)))
    }

    pub fn now(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).now(wall_millis())
    }

    /// The latest stamp given or observed, for others to observe.
    pub fn latest(&self) -> Timestamp {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).latest()
    }

    /// # Errors
    /// If the stamp is further ahead than `maxClockSkew`; then what carried it must be refused.
    pub fn observe(&self, stamp: Timestamp) -> Result<(), ClockError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).observe(stamp, wall_millis())
    }
}

pub fn new_entry_id() -> EntryId {
    EntryId::new(wall_millis(), u128::from_be_bytes(crate::environment::random_bytes()))
}
