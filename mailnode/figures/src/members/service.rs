//! The Lease service: each machine's Lease, and the coordinator's with the view in it, written with compare-and-set.

use crate::Time;
use cluster::membership::ObservedLease;
use cluster::{Addresses, Epoch, Incarnation, Member, MemberState, NodeId, View};
use std::collections::{BTreeMap, BTreeSet};

struct Lease {
    observed: ObservedLease,
    until: Time,
}

pub struct Service {
    pub available: bool,
    leases: BTreeMap<usize, Lease>,
    holder: Option<usize>,
    held_until: Time,
    view: View,
    /// Grows with whatever a core would see.
    state: u64,
    next_expiry: Time,
    cut_off: BTreeSet<usize>,
}

/// The coordinator Lease as one machine sees it.
pub struct Coordinator<'a> {
    pub holder: Option<usize>,
    pub ours: bool,
    pub vacant: bool,
    pub view: &'a View,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            available: true,
            leases: BTreeMap::new(),
            holder: None,
            held_until: 0,
            view: View::default(),
            state: 1,
            next_expiry: Time::MAX,
            cut_off: BTreeSet::new(),
        }
    }
}

impl Service {
    pub const fn holder(&self) -> Option<usize> {
        self.holder
    }

    pub const fn view(&self) -> &View {
        &self.view
    }

    pub fn set_reached_by(&mut self, at: usize, reaches: bool) {
        if reaches {
            self.cut_off.remove(&at)
        } else {
            self.cut_off.insert(at)
        };
    }

    fn answers(&self, at: usize) -> bool {
        self.available && !self.cut_off.contains(&at)
    }

    /// Everybody is a member already, so that a run need not begin with forming the cluster.
    pub fn form(&mut self) {
        self.view = View::new(Epoch(1), self.leases.values().map(member).collect());
    }

    /// True if it was written.
    pub fn renew(&mut self, at: usize, name: &str, incarnation: Incarnation, now: Time, lasts: Time) -> bool {
        if !self.answers(at) {
            return false;
        }
        let observed = ObservedLease {
            name: name.to_owned(),
            incarnation,
            addresses: Addresses::default(),
            zone: None,
            draining: false,
            expired: false,
        };
        let until = now + lasts;
        self.next_expiry = self.next_expiry.min(until);
        if self.leases.get(&at).is_none_or(|lease| lease.observed != observed) {
            self.state += 1;
        }
        self.leases.insert(at, Lease { observed, until });
        true
    }

    /// What a core would see has this number now; None if the service does not answer.
    pub fn look(&mut self, at: usize, now: Time) -> Option<u64> {
        if !self.answers(at) {
            return None;
        }
        if now > self.next_expiry {
            self.next_expiry = Time::MAX;
            for lease in self.leases.values_mut() {
                if now > lease.until && !lease.observed.expired {
                    lease.observed.expired = true;
                    self.state += 1;
                } else if !lease.observed.expired {
                    self.next_expiry = self.next_expiry.min(lease.until);
                }
            }
        }
        Some(self.state)
    }

    pub fn leases(&self) -> Vec<ObservedLease> {
        self.leases.values().map(|lease| lease.observed.clone()).collect()
    }

    /// Reads the coordinator Lease, and renews it if it is this machine's.
    pub fn coordinator(&mut self, at: usize, now: Time, lasts: Time) -> Coordinator<'_> {
        let ours = self.holder == Some(at);
        let vacant = !ours && (self.holder.is_none() || now > self.held_until);
        if ours {
            self.held_until = now + lasts;
        }
        Coordinator { holder: self.holder, ours, vacant, view: &self.view }
    }

    pub fn take(&mut self, at: usize, now: Time, lasts: Time) -> bool {
        let vacant = self.holder.is_none() || now > self.held_until;
        if vacant && self.answers(at) {
            self.holder = Some(at);
            self.held_until = now + lasts;
            return true;
        }
        false
    }

    pub fn publish(&mut self, at: usize, view: &View, now: Time) -> bool {
        let may = self.answers(at) && self.holder == Some(at) && view.epoch > self.view.epoch;
        if may {
            self.view = view.clone();
            self.held_until = self.held_until.max(now);
        }
        may
    }
}

fn member(lease: &Lease) -> Member {
    Member {
        id: NodeId::of_name(&lease.observed.name),
        name: lease.observed.name.clone(),
        addresses: Addresses::default(),
        zone: None,
        state: MemberState::Active,
        incarnation: lease.observed.incarnation,
    }
}
