//! The user map: bucket -> the node that manages its users, computed by every node from the view alone, by
//! rendezvous (highest random weight) hashing, so that a change of membership moves as few buckets as
//! possible and nobody has to agree on anything but the view.

use crate::ids::{Bucket, Epoch, NodeId, UserId};
use crate::view::View;

/// Soft state; equal on all nodes with the same view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMap {
    epoch: Epoch,
    nodes: Vec<NodeId>,
    managers: Vec<NodeId>,
}

impl UserMap {
    /// The map of a view's active members. Cost: members x 4096 hashes.
    pub fn new(view: &View) -> Self {
        let nodes: Vec<NodeId> = view.active().map(|member| member.id).collect();
        let managers = if nodes.is_empty() {
            Vec::new()
        } else {
            Bucket::all()
                .map(|bucket| {
                    nodes.iter().copied().max_by_key(|&node| weight(node, bucket)).unwrap_or_default()
                })
                .collect()
        };
        Self { epoch: view.epoch, nodes, managers }
    }

    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// None only while the view has no active member.
    pub fn manager(&self, bucket: Bucket) -> Option<NodeId> {
        self.managers.get(usize::from(bucket.0)).copied()
    }

    pub fn manager_of(&self, user: UserId) -> Option<NodeId> {
        self.manager(Bucket::of_user(user))
    }

    /// All active nodes, best first. If the manager is suspected the next one takes over at once.
    pub fn order(&self, bucket: Bucket) -> Vec<NodeId> {
        let mut order = self.nodes.clone();
        order.sort_by_cached_key(|&node| std::cmp::Reverse(weight(node, bucket)));
        order
    }

    /// The buckets that a node manages.
    pub fn buckets_of(&self, node: NodeId) -> impl Iterator<Item = Bucket> {
        self.managers
            .iter()
            .enumerate()
            .filter(move |&(_, &manager)| manager == node)
            .map(|(bucket, _)| Bucket(bucket as u16))
    }
}

/// The weight of a node for a bucket; ties are broken by the id.
pub(crate) fn weight(node: NodeId, bucket: Bucket) -> (u64, NodeId) {
    (mix(node.0 ^ mix(u64::from(bucket.0) + 1)), node)
}

/// A bijective 64-bit mix (two multiply-xorshift rounds), uniform enough that buckets are shared evenly.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;
    use crate::view::{Addresses, Member, MemberState};

    fn view(names: &[&str]) -> View {
        let member = |name: &&str| Member {
            id: NodeId::of_name(name),
            name: (*name).to_owned(),
            addresses: Addresses::default(),
            zone: None,
            state: MemberState::Active,
            incarnation: Incarnation(1),
        };
        View::new(Epoch(1), names.iter().map(member).collect())
    }

    #[test]
    fn buckets_are_shared_evenly() {
        let map = UserMap::new(&view(&["a", "b", "c", "d"]));
        for name in ["a", "b", "c", "d"] {
            let count = map.buckets_of(NodeId::of_name(name)).count();
            assert!((900..=1150).contains(&count), "{name}: {count}");
        }
    }

    #[test]
    fn losing_a_node_moves_only_its_buckets_and_to_the_next_in_order() {
        let before = UserMap::new(&view(&["a", "b", "c", "d"]));
        let after = UserMap::new(&view(&["a", "b", "d"]));
        for bucket in Bucket::all() {
            let order = before.order(bucket);
            assert_eq!(Some(order[0]), before.manager(bucket));
            if order[0] == NodeId::of_name("c") {
                assert_eq!(after.manager(bucket), Some(order[1]));
            } else {
                assert_eq!(after.manager(bucket), before.manager(bucket));
            }
        }
    }

    #[test]
    fn a_view_without_active_members_has_no_manager() {
        assert_eq!(UserMap::new(&View::default()).manager(Bucket(0)), None);
    }
}
