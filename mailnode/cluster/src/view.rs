//! The membership view: a numbered list of members, decided by the coordinator (DESIGN 5).

use crate::ids::{Epoch, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

/// What a member does. Only [`MemberState::Active`] members manage buckets and take new mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Has a Lease, is not yet reachable from the coordinator.
    Joining,
    Active,
    /// Still serves and is read from, takes no new mail and manages nobody.
    Draining,
    /// Out of the view's duties; remembered so that updates are kept for it until it returns or is replaced.
    Dead,
}

/// Where a member is reached: `host:port` each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// Node-to-node protocol.
    pub rpc: String,
    /// Admin and metrics HTTP.
    pub http: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: NodeId,
    pub name: String,
    pub addresses: Addresses,
    /// Failure domain; replicas are put into different ones where possible.
    pub zone: Option<String>,
    pub state: MemberState,
    pub incarnation: Incarnation,
}

impl Member {
    /// It can be read from: active or draining.
    pub const fn serves(&self) -> bool {
        matches!(self.state, MemberState::Active | MemberState::Draining)
    }
}

/// A numbered membership list, sorted by node id. A higher epoch always wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    pub epoch: Epoch,
    pub members: Vec<Member>,
}

impl View {
    pub fn new(epoch: Epoch, mut members: Vec<Member>) -> Self {
        members.sort_by_key(|member| member.id);
        members.dedup_by_key(|member| member.id);
        Self { epoch, members }
    }

    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.binary_search_by_key(&id, |member| member.id).ok().map(|at| &self.members[at])
    }

    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.state == MemberState::Active)
    }

    /// Members that may yet return.
    pub fn dead(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.state == MemberState::Dead)
    }

    /// Members that can be read from: active or draining.
    pub fn serving(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.serves())
    }
}

/// A node's load report (DESIGN 6), small enough to ride on every RPC as eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Operations that wait for this node's disk now (Porcupine's measure, PAPERS A9).
    pub pending: u32,
    /// How full the disk is, in thousandths.
    pub fullness: u16,
    /// Time of a recent flush of the disk, in units of 100 microseconds, so that a slow disk gets less mail.
    pub flush: u16,
}

impl Load {
    /// From here on a disk gets new mail and copies only if there is no other. That it can take no more it says itself, when it is asked to
    /// (`storage`: a reserve for compaction).
    pub const NEARLY_FULL: u16 = 950;

    pub const fn is_nearly_full(&self) -> bool {
        self.fullness >= Self::NEARLY_FULL
    }

    pub const fn to_bits(self) -> u64 {
        ((self.pending as u64) << 32) | ((self.fullness as u64) << 16) | self.flush as u64
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self { pending: (bits >> 32) as u32, fullness: (bits >> 16) as u16, flush: bits as u16 }
    }

    /// Less is better: how many operations wait, and if as many do, how long a flush takes. (Not their product: a flush takes
    /// along all that waits, so a slow disk's queue is long, but not slow in proportion. docs/figures/README.md, figure 3.)
    pub const fn cost(&self) -> u64 {
        ((self.pending as u64) << 16) | self.flush as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_survives_its_eight_bytes() {
        let load = Load { pending: 77_000, fullness: 951, flush: 12 };
        assert_eq!(Load::from_bits(load.to_bits()), load);
        assert!(load.is_nearly_full());
    }

    #[test]
    fn the_queue_counts_and_of_equal_ones_the_faster_disk() {
        let load = |pending, flush| Load { pending, fullness: 0, flush }.cost();
        assert!(load(2, 1) > load(1, 900));
        assert!(load(0, 20) > load(0, 10));
    }
}
