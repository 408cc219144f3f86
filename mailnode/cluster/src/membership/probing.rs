//! What we know of peers from probes and operations.

use super::Timing;
use crate::ids::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;

/// From a failed probe to the next.
const SOON: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    misses: u32,
    in_flight: bool,
    next: Duration,
    avoided: bool,
    /// Probed although it is not one of our successors.
    watched: bool,
    /// Last time it answered anything.
    heard: Option<Duration>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Peer>);

impl Peers {
    fn peer(&mut self, id: NodeId) -> &mut Peer {
        self.0.entry(id).or_default()
    }

    pub(super) fn answered(&mut self, id: NodeId, now: Duration, timing: &Timing) {
        let peer = self.peer(id);
        let next = now + timing.probe_interval;
        *peer = Peer { next, avoided: peer.avoided, heard: Some(now), ..Peer::default() };
    }

    /// Something else than a probe was answered.
    pub(super) fn alive(&mut self, id: NodeId, now: Duration) {
        let peer = self.peer(id);
        peer.misses = 0;
        peer.watched = false;
        peer.heard = Some(now);
    }

    /// How many probes in a row have failed. The next one follows soon, until it is decided that the peer is dead; then ever
    /// less often, so that a dead peer costs little.
    pub(super) fn missed(&mut self, id: NodeId, now: Duration, timing: &Timing) -> u32 {
        let peer = self.peer(id);
        peer.in_flight = false;
        peer.misses = peer.misses.saturating_add(1);
        peer.watched = true;
        let pause = if peer.misses < timing.misses_to_expel { SOON } else { SOON * 2 * peer.misses.min(10) };
        peer.next = now + pause;
        peer.misses
    }

    pub(super) fn misses(&self, id: NodeId) -> u32 {
        self.0.get(&id).map_or(0, |peer| peer.misses)
    }

    /// True if it answered in this time.
    pub(super) fn heard_since(&self, id: NodeId, since: Duration) -> bool {
        self.0.get(&id).and_then(|peer| peer.heard).is_some_and(|heard| heard >= since)
    }

    /// Probe it at once, and until it answers.
    pub(super) fn watch(&mut self, id: NodeId, now: Duration) {
        let peer = self.peer(id);
        peer.watched = true;
        peer.next = peer.next.min(now);
    }

    pub(super) fn watched(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().filter(|(_, peer)| peer.watched || peer.avoided).map(|(id, _)| *id)
    }

    /// True if that is a change.
    pub(super) fn set_avoided(&mut self, id: NodeId, avoided: bool) -> bool {
        if !avoided && !self.0.contains_key(&id) {
            return false;
        }
        std::mem::replace(&mut self.peer(id).avoided, avoided) != avoided
    }

    /// Forgets all bad news. True if it was avoided.
    pub(super) fn forgive(&mut self, id: NodeId) -> bool {
        self.0.remove(&id).is_some_and(|peer| peer.avoided)
    }

    /// Those to probe now; they count as being probed.
    pub(super) fn due(&mut self, targets: &[NodeId], now: Duration) -> Vec<NodeId> {
        let mut due = Vec::new();
        for &id in targets {
            let peer = self.peer(id);
            if !peer.in_flight && peer.next <= now {
                peer.in_flight = true;
                due.push(id);
            }
        }
        due
    }

    /// Forgets the others; returns those of them that were avoided.
    pub(super) fn keep(&mut self, wanted: impl Fn(&NodeId) -> bool) -> Vec<NodeId> {
        let mut avoided = Vec::new();
        self.0.retain(|id, peer| {
            let keep = wanted(id) || peer.in_flight;
            avoided.extend((!keep && peer.avoided).then_some(*id));
            keep
        });
        avoided
    }
}
