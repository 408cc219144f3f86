//! The coordinator's decision: which membership follows from Leases and probes.

use super::{Death, Effect, Membership, ObservedLease};
use crate::ids::NodeId;
use crate::view::{Member, MemberState, View};
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn member_of(lease: &ObservedLease) -> Member {
    Member {
        id: lease.id(),
        name: lease.name.clone(),
        addresses: lease.addresses.clone(),
        zone: lease.zone.clone(),
        state: if lease.draining { MemberState::Draining } else { MemberState::Active },
        incarnation: lease.incarnation,
    }
}

impl Membership {
    /// Nodes with a live Lease that the view does not have in this life.
    pub(super) fn joining(&self) -> Vec<NodeId> {
        let news = |(id, lease): &(&NodeId, &ObservedLease)| {
            let known = self.view.member(**id);
            !lease.expired
                && known.is_none_or(|member| {
                    member.state == MemberState::Dead || member.incarnation != lease.incarnation
                })
        };
        self.leases.iter().filter(news).map(|(id, _)| *id).collect()
    }

    /// What the membership should be, by what we know now; None if it is so. It costs one look at each member: no
    /// copies while nothing changes.
    fn desired(&self, now: Duration) -> Option<Vec<Member>> {
        let recently = now.saturating_sub(self.timing.probe_interval * 4);
        let mut changes: BTreeMap<NodeId, Option<Member>> = BTreeMap::new();
        for member in &self.view.members {
            let lease = self.leases.get(&member.id);
            let judged = self.judge(member, lease, recently);
            let state = judged.as_ref().map_or(member.state, |judged| judged.state);
            if state == MemberState::Dead && (self.is_lost(member.id, now) || self.has_left(member, lease)) {
                changes.insert(member.id, None);
            } else if judged.as_ref().is_some_and(|judged| judged != member) {
                changes.insert(member.id, judged);
            }
        }
        for (&id, lease) in self.leases.iter().filter(|(_, lease)| !lease.expired) {
            let reachable = id == self.me || self.peers.heard_since(id, recently);
            // Another node whose name has the same id is refused: it would be taken for this one.
            if reachable && (self.view.member(id).is_none() || changes.get(&id) == Some(&None)) {
                changes.insert(id, Some(member_of(lease)));
            }
        }
        if changes.is_empty() {
            return None;
        }
        let unchanged = self.view.members.iter().filter(|member| !changes.contains_key(&member.id)).cloned();
        let mut members: Vec<Member> = unchanged.collect();
        members.extend(changes.into_values().flatten());
        members.sort_by_key(|member| member.id);
        Some(members)
    }

    /// Dead for so long that it is replaced. If fewer than half of the members serve, nobody is.
    fn is_lost(&self, id: NodeId, now: Duration) -> bool {
        let over = |death: &Death| now.saturating_sub(death.since) >= self.timing.replace_after;
        self.deaths.get(&id).is_some_and(over) && self.most_serve()
    }

    /// It was on its way out, and ended on purpose: nobody has to wait for its return, which would hold up the drain of
    /// the next one. Should it come back, it joins as one who drains. That its Lease is gone may be seen after its death.
    fn has_left(&self, member: &Member, lease: Option<&ObservedLease>) -> bool {
        let drained = member.state == MemberState::Draining
            || self.deaths.get(&member.id).is_some_and(|death| death.drained);
        drained && lease.is_none() && self.most_serve()
    }

    /// Less than half: that is an outage, which ends.
    fn most_serve(&self) -> bool {
        self.view.serving().count() * 2 >= self.view.members.len()
    }

    /// What the member should be; None if it may stay as it is.
    fn judge(&self, member: &Member, lease: Option<&ObservedLease>, recently: Duration) -> Option<Member> {
        let dead = || Some(Member { state: MemberState::Dead, ..member.clone() });
        let reachable = member.id == self.me || self.peers.heard_since(member.id, recently);
        let Some(lease) = lease.filter(|lease| lease.name == member.name) else {
            // Its Lease is gone: it stopped on purpose, unless it answers yet.
            return if reachable { None } else { dead() };
        };
        let misses = self.peers.misses(member.id);
        let alive_again = member.state == MemberState::Dead || lease.incarnation != member.incarnation;
        if alive_again {
            // A new life, or back from the dead: in as soon as it answers. What it answered before the probes
            // failed that killed it does not count.
            if reachable && misses == 0 && !lease.expired {
                return Some(member_of(lease));
            }
            return if misses >= self.timing.misses_to_expel { dead() } else { None };
        }
        let lapsed = self.lapsed == Some(member.id) && misses >= self.timing.misses_to_avoid;
        let silent = misses >= self.timing.misses_to_expel || lapsed || (lease.expired && misses > 0);
        if member.id != self.me && silent {
            return dead();
        }
        let state = if lease.draining { MemberState::Draining } else { MemberState::Active };
        if state == member.state && lease.zone == member.zone {
            return None;
        }
        Some(Member { state, zone: lease.zone.clone(), ..member.clone() })
    }

    /// Publishes a new view when the membership should be another and has been so for `settle`.
    pub(super) fn coordinate(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.ours {
            self.differs_since = None;
            return;
        }
        // An expired Lease is a reason to look, not to expel: the node may answer.
        let expired = self.leases.iter().filter(|(_, lease)| lease.expired).map(|(id, _)| *id);
        let without = self.ring.iter().copied().filter(|id| !self.leases.contains_key(id));
        let suspects: Vec<NodeId> = expired.chain(without).filter(|&id| id != self.me).collect();
        for id in suspects {
            if self.view.member(id).is_some_and(|member| member.state != MemberState::Dead)
                && self.peers.misses(id) == 0
                && !self.peers.heard_since(id, now.saturating_sub(self.timing.probe_interval))
            {
                self.peers.watch(id, now);
            }
        }
        let Some(desired) = self.desired(now) else {
            self.differs_since = None;
            return;
        };
        let since = *self.differs_since.get_or_insert(now);
        if !self.publishing && now >= since + self.timing.settle {
            self.publishing = true;
            effects.push(Effect::Publish(View::new(self.next_epoch(), desired)));
        }
    }
}
