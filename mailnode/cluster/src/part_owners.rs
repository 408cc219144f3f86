//! The nodes that keep a MIME part, whoever's messages it is in (DESIGN 7; PAST's role in POST): the first R of all members in the
//! rendezvous order of the part's name, in different zones where there are zones. Computed from the view alone, like the user map.
//!
//! - A member that is merely dead may return, and stays an owner: only when it is out of the view its parts move. One that drains is
//!   on its way out: no owner, but it is read from.
//! - A part may be elsewhere, too: it was written while an owner was away, or before the view changed. So reading goes on in the
//!   same order through all members.

use crate::ids::{BlobId, NodeId};
use crate::view::{Member, MemberState, View};
use crate::zones;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartOrder {
    /// Where the part belongs: at most R, fewer only in a smaller cluster.
    pub owners: Vec<NodeId>,
    /// All other members, in the order in which they stand in.
    pub others: Vec<NodeId>,
}

impl PartOrder {
    /// Cost: a hash for each member.
    pub fn new(view: &View, copies: usize, part: BlobId) -> Self {
        let mut members: Vec<_> = view.members.iter().collect();
        members.sort_by_cached_key(|member| std::cmp::Reverse((weight(member.id, part), member.id)));
        let (staying, leaving): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.state != MemberState::Draining);
        let (owners, others) = zones::spread(staying, copies, |member| member.zone.as_deref(), |_| ());
        let ids = |members: Vec<&Member>| members.into_iter().map(|member| member.id).collect();
        Self { owners: ids(owners), others: ids([others, leaving].concat()) }
    }

    /// Owners first.
    pub fn all(&self) -> impl Iterator<Item = NodeId> {
        self.owners.iter().chain(&self.others).copied()
    }
}

/// Uniform, and of one node independent of all others: a change of membership moves as few parts as possible.
fn weight(node: NodeId, part: BlobId) -> u64 {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&node.to_bytes());
    bytes[8..].copy_from_slice(&part.0);
    let hash = blake3::hash(&bytes);
    hash.as_bytes().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Incarnation};
    use crate::view::Addresses;

    fn view(members: &[(&str, Option<&str>, MemberState)]) -> View {
        let member = |&(name, zone, state): &(&str, Option<&str>, MemberState)| Member {
            id: NodeId::of_name(name),
            name: name.to_owned(),
            addresses: Addresses::default(),
            zone: zone.map(str::to_owned),
            state,
            incarnation: Incarnation(1),
        };
        View::new(Epoch(1), members.iter().map(member).collect())
    }

    fn part(number: u32) -> BlobId {
        BlobId::of(&number.to_be_bytes())
    }

    #[test]
    fn parts_are_spread_evenly_and_only_those_of_a_lost_node_move() {
        let names = ["a", "b", "c", "d", "e"];
        let all: Vec<_> = names.iter().map(|name| (*name, None, MemberState::Active)).collect();
        let (before, after) = (view(&all), view(&all[..4]));
        let mut owned = [0; 5];
        for number in 0..5_000 {
            let old = PartOrder::new(&before, 2, part(number));
            let new = PartOrder::new(&after, 2, part(number));
            assert_eq!((old.owners.len(), old.others.len()), (2, 3));
            for (count, name) in owned.iter_mut().zip(names) {
                *count += usize::from(old.owners.contains(&NodeId::of_name(name)));
            }
            if !old.owners.contains(&NodeId::of_name("e")) {
                assert_eq!(old.owners, new.owners);
            }
        }
        assert!(owned.iter().all(|count| (1_850..2_150).contains(count)), "{owned:?}");
    }

    #[test]
    fn zones_are_different_a_dead_member_owns_and_a_draining_one_does_not() {
        use MemberState::{Active, Dead, Draining};
        let view = view(&[
            ("a", Some("x"), Active),
            ("b", Some("x"), Active),
            ("c", Some("y"), Active),
            ("d", Some("y"), Dead),
            ("e", Some("z"), Draining),
        ]);
        let mut dead = 0;
        for number in 0..200 {
            let order = PartOrder::new(&view, 2, part(number));
            let zone = |id: &NodeId| view.member(*id).and_then(|member| member.zone.clone());
            assert_ne!(zone(&order.owners[0]), zone(&order.owners[1]));
            assert!(!order.owners.contains(&NodeId::of_name("e")));
            assert_eq!(order.all().count(), 5);
            assert_eq!(order.all().last(), Some(NodeId::of_name("e")));
            dead += usize::from(order.owners.contains(&NodeId::of_name("d")));
        }
        assert!(dead > 50);
    }

    #[test]
    fn a_cluster_smaller_than_the_number_of_copies_owns_all_parts() {
        let view = view(&[("a", None, MemberState::Active)]);
        assert_eq!(PartOrder::new(&view, 3, part(1)).owners, [NodeId::of_name("a")]);
        assert!(PartOrder::new(&View::default(), 3, part(1)).owners.is_empty());
    }
}
