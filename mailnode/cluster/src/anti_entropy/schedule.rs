//! Who compares with whom, and when: of two nodes the one with the lower id begins, about once a minute, and soon
//! after a peer returned or was repaired. A few comparisons run at a time.

use crate::ids::{Incarnation, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Between two comparisons that found nothing, about.
const EVERY: Duration = Duration::from_secs(60);
/// After a peer appeared, returned or was repaired: redelivery goes first.
const SOON: Duration = Duration::from_secs(3);
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Comparisons that one node runs at a time.
const AT_ONCE: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Peer {
    life: Incarnation,
    next: Duration,
    running: bool,
    /// It returned, or the view changed, while a comparison was running, which may have missed that.
    again: bool,
    /// Found equal since it returned and since the view changed.
    level: bool,
    failures: u32,
}

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to repair.
    Equal,
    Repaired,
    Failed,
}

/// Time is the node's monotonic time since its start.
#[derive(Clone, Debug)]
pub struct Schedule {
    me: NodeId,
    peers: BTreeMap<NodeId, Peer>,
}

impl Schedule {
    pub const fn new(me: NodeId) -> Self {
        Self { me, peers: BTreeMap::new() }
    }

    /// The peers that can be reached now, with their lives.
    pub fn observe(&mut self, reachable: &[(NodeId, Incarnation)], now: Duration) {
        self.peers.retain(|id, peer| peer.running || reachable.iter().any(|(peer, _)| peer == id));
        for &(id, life) in reachable.iter().filter(|(id, _)| *id > self.me) {
            let fresh =
                Peer { life, next: now + SOON, running: false, again: false, level: false, failures: 0 };
            let peer = self.peers.entry(id).or_insert(fresh);
            if peer.life != life {
                *peer = Peer { running: peer.running, again: peer.running, ..fresh };
            }
        }
    }

    /// The view has changed: what was placed by the old one may need a look.
    pub fn hurry(&mut self, now: Duration) {
        for peer in self.peers.values_mut() {
            (peer.level, peer.again) = (false, peer.running);
            peer.next = peer.next.min(now + SOON);
        }
    }

    /// The peers that were found equal since they returned and since the view changed.
    pub fn level(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.iter().filter(|(_, peer)| peer.level).map(|(id, _)| *id)
    }

    /// A peer to compare with now, the one that has waited longest; it counts as begun.
    pub fn begin(&mut self, now: Duration) -> Option<NodeId> {
        if self.peers.values().filter(|peer| peer.running).count() >= AT_ONCE {
            return None;
        }
        let due = self.peers.iter_mut().filter(|(_, peer)| !peer.running && peer.next <= now);
        let (id, peer) = due.min_by_key(|(_, peer)| peer.next)?;
        peer.running = true;
        Some(*id)
    }

    /// `random`: any bits, so that not all nodes compare at the same time.
    pub fn finished(&mut self, id: NodeId, outcome: Outcome, now: Duration, random: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.running = false;
        let again = std::mem::take(&mut peer.again);
        peer.level = outcome == Outcome::Equal && !again;
        let wait = match outcome {
            Outcome::Equal if again => SOON,
            Outcome::Equal => EVERY * 3 / 4 + Duration::from_millis(random % (EVERY.as_millis() as u64 / 2)),
            Outcome::Repaired => SOON,
            Outcome::Failed => FIRST_RETRY.saturating_mul(1 << peer.failures.min(6)).min(EVERY),
        };
        peer.failures = if outcome == Outcome::Failed { peer.failures.saturating_add(1) } else { 0 };
        peer.next = now + wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Incarnation = Incarnation(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn of_two_nodes_the_lower_begins_and_soon_after_it_saw_the_other() {
        let (one, two) = ((NodeId(1), LIFE), (NodeId(2), LIFE));
        let (mut lower, mut higher) = (Schedule::new(one.0), Schedule::new(two.0));
        lower.observe(&[one, two], seconds(0));
        higher.observe(&[one, two], seconds(0));
        assert_eq!(lower.begin(seconds(1)), None);
        assert_eq!(lower.begin(seconds(3)), Some(two.0));
        assert_eq!(lower.begin(seconds(3)), None, "it is running");
        assert_eq!(higher.begin(seconds(500)), None);
    }

    #[test]
    fn agreement_waits_about_a_minute_and_a_new_life_or_view_ends_the_wait() {
        let mut schedule = Schedule::new(NodeId(1));
        schedule.observe(&[(NodeId(2), LIFE)], seconds(0));
        schedule.begin(seconds(10));
        schedule.finished(NodeId(2), Outcome::Equal, seconds(10), u64::MAX);
        assert_eq!(schedule.begin(seconds(10 + 44)), None);
        schedule.observe(&[(NodeId(2), Incarnation(2))], seconds(20));
        assert_eq!(schedule.begin(seconds(23)), Some(NodeId(2)));
        schedule.finished(NodeId(2), Outcome::Equal, seconds(23), 0);
        schedule.hurry(seconds(30));
        assert_eq!(schedule.begin(seconds(33)), Some(NodeId(2)));
    }

    #[test]
    fn level_is_who_was_found_equal_since_it_returned_and_since_the_view_changed() {
        let (peer, mut schedule) = (NodeId(2), Schedule::new(NodeId(1)));
        let level = |schedule: &Schedule| schedule.level().collect::<Vec<_>>();
        schedule.observe(&[(peer, LIFE)], seconds(0));
        for (at, outcome) in [(3, Outcome::Failed), (10, Outcome::Repaired), (20, Outcome::Equal)] {
            assert_eq!(schedule.begin(seconds(at)), Some(peer));
            assert_eq!(level(&schedule), []);
            schedule.finished(peer, outcome, seconds(at), 0);
        }
        assert_eq!(level(&schedule), [peer]);
        schedule.hurry(seconds(30));
        assert_eq!(level(&schedule), []);
        assert_eq!(schedule.begin(seconds(33)), Some(peer));
        // What this comparison saw may be older than the change.
        schedule.observe(&[(peer, Incarnation(2))], seconds(33));
        schedule.finished(peer, Outcome::Equal, seconds(34), 0);
        assert_eq!(level(&schedule), []);
        assert_eq!(schedule.begin(seconds(37)), Some(peer));
        schedule.finished(peer, Outcome::Equal, seconds(37), 0);
        assert_eq!(level(&schedule), [peer]);
        schedule.observe(&[], seconds(38));
        assert_eq!(level(&schedule), []);
    }

    #[test]
    fn few_run_at_a_time_and_failures_back_off() {
        let mut schedule = Schedule::new(NodeId(0));
        let peers: Vec<_> = (1..=9).map(|id| (NodeId(id), LIFE)).collect();
        schedule.observe(&peers, seconds(0));
        let begun: Vec<_> = std::iter::from_fn(|| schedule.begin(seconds(9))).collect();
        assert_eq!(begun.len(), AT_ONCE);
        let mut schedule = Schedule::new(NodeId(1));
        schedule.observe(&[(NodeId(2), LIFE)], seconds(0));
        let mut now = seconds(10);
        for _ in 0..20 {
            assert_eq!(schedule.begin(now), Some(NodeId(2)));
            schedule.finished(NodeId(2), Outcome::Failed, now, 0);
            assert_eq!(schedule.begin(now + seconds(4)), None);
            now += EVERY;
        }
    }
}
