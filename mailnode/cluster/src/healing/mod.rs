//! Re-replication, draining and rebalancing (DESIGN 4, 6): which entries want another replica set, who sees to it,
//! and where the new copies go. One planner for all three; the shell scans, copies and waits.
//!
//! - A replica that is not in the view any more is lost for good, and one that is draining is on its way out: the
//!   entry gets a set without them. A member that is merely dead may return, and counts.
//! - One node sees to an entry: a draining replica that serves, else the first of its replicas that is active.
//!   Two with different views may both do it: the later set wins, and whoever it does not name lets go.
//! - The new set is never smaller than it could be: with nobody to take a copy, all stays as it is.
//! - The most endangered first ([`Task::living`]), and no faster than a [`Throttle`] lets.

mod balance;
mod throttle;

pub use balance::Balance;
pub use throttle::Throttle;

use crate::entry::Entry;
use crate::ids::NodeId;
use crate::mail_map::MailMap;
use crate::placement::{self, Candidate, Policy};
use crate::view::{MemberState, View};

/// What is to be done about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// As many replicas as there should be, none of them lost or leaving; or a tombstone.
    Whole,
    /// Another replica sees to it.
    Others,
    Mine(Task),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Replicas that stay.
    pub keepers: Vec<NodeId>,
    /// Replicas to add; 0 if only those that are gone are to be struck out.
    pub copies: usize,
    /// Replicas that serve now: the fewer, the more endangered.
    pub living: usize,
}

/// One node's judgement by one view.
#[derive(Clone, Debug)]
pub struct Planner<'a> {
    me: NodeId,
    factor: usize,
    view: &'a View,
    /// Members that are not on their way out. One that is dead may return, and can take a copy then.
    staying: usize,
}

impl<'a> Planner<'a> {
    pub fn new(me: NodeId, factor: usize, view: &'a View) -> Self {
        let staying = view.members.iter().filter(|member| member.state != MemberState::Draining).count();
        Self { me, factor, view, staying }
    }

    fn state(&self, node: NodeId) -> Option<MemberState> {
        self.view.member(node).map(|member| member.state)
    }

    pub fn judge(&self, entry: &Entry) -> Judgement {
        let replicas = &entry.replicas.value;
        if !entry.is_live() || !replicas.contains(&self.me) {
            return Judgement::Whole;
        }
        let (mut keepers, mut leaving, mut serving) = (Vec::new(), Vec::new(), Vec::new());
        for &node in replicas {
            match self.state(node) {
                None => {}
                Some(MemberState::Draining) => leaving.push(node),
                Some(MemberState::Active) => {
                    serving.push(node);
                    keepers.push(node);
                }
                Some(MemberState::Joining | MemberState::Dead) => keepers.push(node),
            }
        }
        // A drain must be able to end in a cluster that is too small without the node.
        let wanted = if leaving.is_empty() { self.factor } else { self.factor.min(self.staying.max(1)) };
        let copies = wanted.saturating_sub(keepers.len());
        if copies == 0 && keepers.len() == replicas.len() {
            return Judgement::Whole;
        }
        if leaving.first().or(serving.first()) != Some(&self.me) {
            return Judgement::Others;
        }
        Judgement::Mine(Task { keepers, copies, living: leaving.len() + serving.len() })
    }

    /// The replica set that the entry should have, sorted. None: nobody can take a copy now.
    ///
    /// `candidates`: active nodes in the user's rendezvous order; `random`: any 64 random bits.
    pub fn place(
        &self,
        task: &Task,
        policy: Policy,
        candidates: &[Candidate],
        mail_map: &MailMap,
        random: u64,
    ) -> Option<Vec<NodeId>> {
        let mut replicas = task.keepers.clone();
        let usable = candidates.iter().filter(|candidate| {
            !candidate.avoided
                && !replicas.contains(&candidate.node)
                && self.state(candidate.node) == Some(MemberState::Active)
        });
        let usable: Vec<Candidate> = usable.cloned().collect();
        let nearly_full = usable.iter().filter(|candidate| candidate.load.is_nearly_full());
        let nearly_full: Vec<NodeId> = nearly_full.map(|candidate| candidate.node).collect();
        let zone = |node: NodeId| self.view.member(node).and_then(|member| member.zone.as_deref());
        let mut zones: Vec<&str> = replicas.iter().filter_map(|&node| zone(node)).collect();
        let mut order = placement::choose(policy, task.copies, &usable, mail_map, random);
        for _ in 0..task.copies {
            let taken = |node: NodeId| zone(node).is_some_and(|zone| zones.contains(&zone));
            let best =
                order.iter().enumerate().min_by_key(|&(_, node)| (nearly_full.contains(node), taken(*node)));
            let Some((at, _)) = best else { break };
            let node = order.remove(at);
            zones.extend(zone(node));
            replicas.push(node);
        }
        if task.copies > 0 && replicas.len() == task.keepers.len() {
            return None;
        }
        replicas.sort_unstable();
        Some(replicas)
    }
}

#[cfg(test)]
mod tests;
