//! The node's clocks: wall time, the time that the nodes agree on, the hybrid logical clock over it, and ids.

use crate::wire::Sender;
use cluster::{AgreedTime, ClockError, EntryId, HybridClock, Incarnation, Lateness, NodeId, Sent, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Unix milliseconds by this machine's clock: for people. Whatever is compared with a stamp asks
/// [`NodeClock::millis`].
pub fn wall_millis() -> u64 {
    crate::environment::unix_millis()
}

/// Unix seconds by this machine's clock.
pub fn wall_seconds() -> i64 {
    (wall_millis() / 1000) as i64
}

/// The hybrid clock, and how late peers' messages are; shared by all tasks of the node.
pub struct NodeClock {
    hybrid: Mutex<HybridClock>,
    agreed: Mutex<AgreedTime>,
    life: Incarnation,
    begun: Instant,
    peers: Mutex<BTreeMap<NodeId, Lateness>>,
}

impl NodeClock {
    pub fn new(node: NodeId, life: Incarnation, max_skew: Duration) -> Self {
        Self {
            hybrid: Mutex::new(HybridClock::new(node, max_skew)),
            agreed: Mutex::new(AgreedTime::new(max_skew)),
            life,
            begun: Instant::now(),
            peers: Mutex::default(),
        }
    }

    fn monotonic(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// For a message that is sent now: the latest stamp given or observed, for others to observe.
    pub fn sender(&self, newest_secret: crate::crypto::Version, refilling: bool) -> Sender {
        let clock = self.hybrid.lock().unwrap_or_else(PoisonError::into_inner).latest();
        let sent = Sent { life: self.life, millis: self.monotonic() };
        Sender { clock, wall: wall_millis(), sent, newest_secret, refilling }
    }

    /// What a peer did before it spoke is earlier than what we do from now on. A clock that is too far ahead is not
    /// listened to; what it stamps is refused where it arrives.
    pub fn hear(&self, peer: NodeId, sender: &Sender) {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner).hear(peer, sender.wall, self.monotonic());
        let _ = self.observe(sender.clock);
    }

    /// How long a peer's request was on its way.
    pub fn lateness(&self, peer: NodeId, sent: Sent) -> Duration {
        let now = self.monotonic();
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.entry(peer).or_insert_with(|| Lateness::new(sent, now)).observe(sent, now)
    }

    /// Unix milliseconds, as the nodes agree.
    pub fn millis(&self) -> u64 {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner).now(wall_millis(), self.monotonic())
    }

    /// The same, so long ago.
    pub fn millis_ago(&self, time: Duration) -> u64 {
        self.millis().saturating_sub(time.as_millis() as u64)
    }

    /// How far this machine's clock is ahead of what the nodes agree on, in milliseconds; 0 if it is among them.
    pub fn ahead(&self) -> i64 {
        (wall_millis() as i64).saturating_sub(self.millis() as i64)
    }

    pub fn now(&self) -> Timestamp {
        let millis = self.millis();
        self.hybrid.lock().unwrap_or_else(PoisonError::into_inner).now(millis)
    }

    /// # Errors
    /// If the stamp is further ahead than `maxClockSkew`; then what carried it must be refused.
    pub fn observe(&self, stamp: Timestamp) -> Result<(), ClockError> {
        let millis = self.millis();
        self.hybrid.lock().unwrap_or_else(PoisonError::into_inner).observe(stamp, millis)
    }
}

pub fn new_entry_id() -> EntryId {
    EntryId::new(wall_millis(), u128::from_be_bytes(crate::environment::random_bytes()))
}
