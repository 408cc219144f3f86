//! Hybrid logical clock (DESIGN 4): loosely synchronised wall time that never goes back and respects
//! causality, with the node id as tie-break, so that all updates of a cluster are totally ordered.

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Totally ordered stamp of an update. `ticks` holds Unix milliseconds in its upper 48 bits and a logical
/// counter in its lower 16; it stays below 2^63 until the year 6429, so it can serve as an IMAP MODSEQ
/// (RFC 7162 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    pub ticks: u64,
    pub node: NodeId,
}

impl Timestamp {
    pub const ZERO: Self = Self { ticks: 0, node: NodeId(0) };

    pub const fn unix_millis(self) -> u64 {
        self.ticks >> 16
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// The update is refused and the operator alarmed: one bad clock must not win for ever.
    #[error(
        "clock of node {node} is {ahead:?} ahead, more than maxClockSkew; check time synchronisation there"
    )]
    TooFarAhead { node: NodeId, ahead: Duration },
}

/// This node's clock. Wall time is an argument of every call, in Unix milliseconds.
#[derive(Debug, Clone)]
pub struct HybridClock {
    node: NodeId,
    last: u64,
    max_skew: Duration,
}

impl HybridClock {
    pub const fn new(node: NodeId, max_skew: Duration) -> Self {
        Self { node, last: 0, max_skew }
    }

    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// A stamp above every stamp that this clock gave or observed.
    pub fn now(&mut self, unix_millis: u64) -> Timestamp {
        self.last = (unix_millis << 16).max(self.last + 1);
        Timestamp { ticks: self.last, node: self.node }
    }

    /// The latest stamp that this clock gave or observed.
    pub const fn latest(&self) -> Timestamp {
        Timestamp { ticks: self.last, node: self.node }
    }

    /// Takes note of a stamp from elsewhere, so that what we do next is later than it.
    ///
    /// # Errors
    /// [`ClockError::TooFarAhead`] if it is more than `maxClockSkew` ahead of our wall clock and of every stamp so far:
    /// what we accepted once is not refused because a clock was set right since.
    pub fn observe(&mut self, stamp: Timestamp, unix_millis: u64) -> Result<(), ClockError> {
        let latest = self.latest().unix_millis().max(unix_millis);
        let ahead = Duration::from_millis(stamp.unix_millis().saturating_sub(latest));
        if ahead > self.max_skew {
            return Err(ClockError::TooFarAhead { node: stamp.node, ahead });
        }
        self.last = self.last.max(stamp.ticks);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_back_even_if_the_wall_clock_does() {
        let mut clock = HybridClock::new(NodeId(1), Duration::from_secs(5));
        let first = clock.now(1_000);
        let second = clock.now(500);
        assert!(second > first);
        assert!(clock.now(2_000) > second);
    }

    #[test]
    fn what_follows_an_observation_is_later() {
        let mut clock = HybridClock::new(NodeId(1), Duration::from_secs(5));
        let seen = Timestamp { ticks: 4_000 << 16, node: NodeId(9) };
        clock.observe(seen, 1_000).unwrap();
        assert!(clock.now(1_000) > seen);
    }

    #[test]
    fn what_was_accepted_is_not_refused_when_a_clock_is_set_back() {
        let mut clock = HybridClock::new(NodeId(1), Duration::from_secs(5));
        let stamp = clock.now(20_000);
        clock.observe(Timestamp { ticks: stamp.ticks + 1, node: NodeId(9) }, 1_000).unwrap();
    }

    #[test]
    fn a_clock_too_far_ahead_is_refused_and_changes_nothing() {
        let mut clock = HybridClock::new(NodeId(1), Duration::from_secs(5));
        let bad = Timestamp { ticks: 7_000 << 16, node: NodeId(9) };
        assert!(matches!(clock.observe(bad, 1_000), Err(ClockError::TooFarAhead { .. })));
        assert!(clock.now(1_000) < bad);
    }
}
