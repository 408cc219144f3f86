//! When to push the update log to a peer (DESIGN 4; PAPERS A8).
//!
//! An update that some replica has not acknowledged stays in the log of every replica that has it, so that any
//! of them can finish the push when the one that began it dies, or when the peer returns. This decides *when*:
//! not at once (the initiator's own acknowledgements usually come first), not to a peer that is away, and with
//! back-off to one that fails.

use crate::ids::NodeId;
use std::collections::HashMap;
use std::time::Duration;

/// Update log rows younger than this are left to their initiator.
pub const GRACE: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    in_flight: bool,
    failures: u32,
    not_before: Duration,
}

/// Time is the node's monotonic time since its start.
#[derive(Clone, Debug, Default)]
pub struct Redelivery {
    peers: HashMap<NodeId, Peer>,
}

impl Redelivery {
    /// True if a batch should go to `peer` now; it counts as begun.
    pub fn begin(&mut self, peer: NodeId, reachable: bool, now: Duration) -> bool {
        let state = self.peers.entry(peer).or_default();
        let go = reachable && !state.in_flight && now >= state.not_before;
        state.in_flight |= go;
        go
    }

    pub fn succeeded(&mut self, peer: NodeId) {
        self.peers.insert(peer, Peer::default());
    }

    pub fn failed(&mut self, peer: NodeId, now: Duration) {
        let state = self.peers.entry(peer).or_default();
        let wait = FIRST_RETRY.saturating_mul(1 << state.failures.min(8)).min(LAST_RETRY);
        *state = Peer { in_flight: false, failures: state.failures + 1, not_before: now + wait };
    }

    /// The peer is back (a new incarnation, or it answers again): no reason to wait.
    pub fn returned(&mut self, peer: NodeId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.failures = 0;
            state.not_before = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(5);

    #[test]
    fn one_batch_at_a_time_and_none_to_a_peer_that_is_away() {
        let mut redelivery = Redelivery::default();
        assert!(!redelivery.begin(PEER, false, Duration::ZERO));
        assert!(redelivery.begin(PEER, true, Duration::ZERO));
        assert!(!redelivery.begin(PEER, true, Duration::ZERO));
        redelivery.succeeded(PEER);
        assert!(redelivery.begin(PEER, true, Duration::ZERO));
    }

    #[test]
    fn failures_back_off_up_to_a_limit_and_a_return_ends_the_wait() {
        let mut redelivery = Redelivery::default();
        let mut now = Duration::ZERO;
        for _ in 0..20 {
            assert!(redelivery.begin(PEER, true, now));
            redelivery.failed(PEER, now);
            assert!(!redelivery.begin(PEER, true, now));
            now += LAST_RETRY;
        }
        redelivery.failed(PEER, now);
        redelivery.returned(PEER);
        assert!(redelivery.begin(PEER, true, now));
    }
}
