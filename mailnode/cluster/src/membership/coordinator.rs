//! The coordinator's decision: which membership follows from Leases and probes.

use super::{Effect, Membership, ObservedLease};
use crate::ids::NodeId;
use crate::view::{Member, MemberState, View};
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
        let news = |lease: &&ObservedLease| {
            let known = self.view.member(lease.id());
            !lease.expired
                && known.is_none_or(|member| {
                    member.state == MemberState::Dead || member.incarnation != lease.incarnation
                })
        };
        self.leases.iter().filter(news).map(ObservedLease::id).collect()
    }

    /// What the membership should be, by what we know now.
    fn desired(&self, now: Duration) -> Vec<Member> {
        let recently = now.saturating_sub(self.timing.probe_interval * 4);
        let mut members: Vec<Member> = Vec::new();
        for member in &self.view.members {
            let lease = self.leases.iter().find(|lease| lease.id() == member.id);
            let judged = self.judge(member, lease, recently);
            if judged.state != MemberState::Dead || !self.is_lost(member.id, now) {
                members.push(judged);
            }
        }
        for lease in self.leases.iter().filter(|lease| !lease.expired) {
            let id = lease.id();
            let reachable = id == self.me || self.peers.heard_since(id, recently);
            // Another node whose name has the same id is refused: it would be taken for this one.
            if reachable && !members.iter().any(|member| member.id == id) {
                members.push(member_of(lease));
            }
        }
        members.sort_by_key(|member| member.id);
        members
    }

    /// Dead for so long that it is replaced. If fewer than half of the members serve, nobody is.
    fn is_lost(&self, id: NodeId, now: Duration) -> bool {
        let over = |since: &Duration| now.saturating_sub(*since) >= self.timing.replace_after;
        self.dead_since.get(&id).is_some_and(over)
            && self.view.serving().count() * 2 >= self.view.members.len()
    }

    fn judge(&self, member: &Member, lease: Option<&ObservedLease>, recently: Duration) -> Member {
        let dead = || Member { state: MemberState::Dead, ..member.clone() };
        let reachable = member.id == self.me || self.peers.heard_since(member.id, recently);
        let Some(lease) = lease.filter(|lease| lease.name == member.name) else {
            // Its Lease is gone: it stopped on purpose, unless it answers yet.
            return if reachable { member.clone() } else { dead() };
        };
        let misses = self.peers.misses(member.id);
        let alive_again = member.state == MemberState::Dead || lease.incarnation != member.incarnation;
        if alive_again {
            // A new life, or back from the dead: in as soon as it answers. What it answered before the probes
            // failed that killed it does not count.
            return if reachable && misses == 0 && !lease.expired {
                member_of(lease)
            } else {
                self.keep_or_kill(member, misses)
            };
        }
        if member.id != self.me && (misses >= self.timing.misses || (lease.expired && misses > 0)) {
            return dead();
        }
        Member { state: member_of(lease).state, zone: lease.zone.clone(), ..member.clone() }
    }

    fn keep_or_kill(&self, member: &Member, misses: u32) -> Member {
        let state = if misses >= self.timing.misses { MemberState::Dead } else { member.state };
        Member { state, ..member.clone() }
    }

    /// Publishes a new view when the membership should be another and has been so for `settle`.
    pub(super) fn coordinate(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.ours {
            self.differs_since = None;
            return;
        }
        // An expired Lease is a reason to look, not to expel: the node may answer.
        let expired = self.leases.iter().filter(|lease| lease.expired).map(ObservedLease::id);
        let without = self.view.serving().map(|member| member.id);
        let without = without.filter(|id| !self.leases.iter().any(|lease| lease.id() == *id));
        let suspects: Vec<NodeId> = expired.chain(without).filter(|&id| id != self.me).collect();
        for id in suspects {
            if self.view.member(id).is_some_and(|member| member.state != MemberState::Dead)
                && self.peers.misses(id) == 0
                && !self.peers.heard_since(id, now.saturating_sub(self.timing.probe_interval))
            {
                self.peers.watch(id, now);
            }
        }
        let desired = self.desired(now);
        if desired == self.view.members {
            self.differs_since = None;
            return;
        }
        let since = *self.differs_since.get_or_insert(now);
        if !self.publishing && now >= since + self.timing.settle {
            self.publishing = true;
            effects.push(Effect::Publish(View::new(self.next_epoch(), desired)));
        }
    }
}
