//! The tree along which news reach all members (DESIGN 7; Scribe's multicast, PAPERS): who has news tells at most [`FAN_OUT`] others, and
//! each of them passes it on to as many. Computed from the list of members and the root alone, so nothing is kept or repaired; whom a dead
//! inner node did not tell learns it as after any lost message.

use crate::ids::NodeId;

/// Nodes that one node passes a message on to.
pub const FAN_OUT: usize = 16;

/// Whom `me` tells, sorted. `nodes`: all members, the least likely to answer last, for they become leaves. Nobody, if one of the two is no
/// member.
pub fn children(nodes: impl IntoIterator<Item = NodeId>, root: NodeId, me: NodeId) -> Vec<NodeId> {
    let mut order: Vec<NodeId> = nodes.into_iter().collect();
    let Some(first) = order.iter().position(|&node| node == root) else { return Vec::new() };
    order.remove(first);
    order.insert(0, root);
    let Some(here) = order.iter().position(|&node| node == me) else { return Vec::new() };
    let mut children: Vec<NodeId> = order.into_iter().skip(here * FAN_OUT + 1).take(FAN_OUT).collect();
    children.sort_unstable();
    children
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_told_once_by_a_node_with_a_bounded_number_of_others_to_tell() {
        for count in [1, 2, 17, 18, 300, 1_000] {
            for root in [0, count / 2, count - 1].map(NodeId) {
                let members = || (0..count).map(NodeId);
                let (mut told, mut depth) = (vec![root], 0);
                let mut last = vec![root];
                while !last.is_empty() {
                    let next: Vec<Vec<NodeId>> =
                        last.iter().map(|&node| children(members(), root, node)).collect();
                    assert!(next.iter().all(|children| children.len() <= FAN_OUT));
                    last = next.concat();
                    told.extend(&last);
                    depth += usize::from(!last.is_empty());
                }
                told.sort_unstable();
                assert!(told.into_iter().eq(members()), "{count} nodes from {root}");
                assert!(depth <= 3);
            }
        }
    }

    #[test]
    fn strangers_tell_nobody_and_are_not_told() {
        let members = || (0..40).map(NodeId);
        assert_eq!(children(members(), NodeId(50), NodeId(1)), []);
        assert_eq!(children(members(), NodeId(1), NodeId(50)), []);
    }
}
