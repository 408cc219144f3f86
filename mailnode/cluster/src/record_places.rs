//! Which nodes hold the records of a bucket in the embedded user database.
//!
//! The first is the bucket's manager; the others follow in rendezvous order, but zones that have none yet come first, so
//! that a zone that is lost takes as few copies as can be (DESIGN, invariant 2: reading goes on). A member that drains
//! holds records only if there are too few others: else, with those away, a write would be on one disk.

use crate::ids::{Bucket, NodeId};
use crate::user_map::weight;
use crate::view::{Member, MemberState, View};
use crate::zones;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// What of a member decides which records it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    pub node: NodeId,
    /// A hash of the zone's name.
    pub zone: Option<u64>,
    pub active: bool,
}

/// The places of a view: members that serve, by id.
pub fn record_places(view: &View) -> Vec<RecordPlace> {
    let place = |member: &Member| RecordPlace {
        node: member.id,
        zone: member.zone.as_deref().map(|zone| NodeId::of_name(zone).0),
        active: member.state == MemberState::Active,
    };
    view.serving().map(place).collect()
}

/// At most `count` nodes, the manager first. None while there is no active member.
pub fn record_replicas(places: &[RecordPlace], bucket: Bucket, count: usize) -> Vec<NodeId> {
    let mut order = places.to_vec();
    order.sort_by_cached_key(|place| Reverse((place.active, weight(place.node, bucket))));
    if !order.first().is_some_and(|place| place.active) {
        return Vec::new();
    }
    let (taken, _) = zones::spread(order, count, |place| place.zone, |place| !place.active);
    taken.iter().map(|place| place.node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(members: &[(u64, u64, bool)]) -> Vec<RecordPlace> {
        let place = |&(node, zone, active): &(u64, u64, bool)| {
            let zone = Some(zone).filter(|&zone| zone > 0);
            RecordPlace { node: NodeId(node), zone, active }
        };
        members.iter().map(place).collect()
    }

    #[test]
    fn every_bucket_is_in_as_many_zones_as_can_be() {
        let six =
            places(&[(1, 1, true), (2, 1, true), (3, 1, true), (4, 2, true), (5, 2, true), (6, 3, true)]);
        for bucket in Bucket::all() {
            let replicas = record_replicas(&six, bucket, 3);
            let zone = |node: &NodeId| six.iter().find(|place| place.node == *node).map(|place| place.zone);
            let zones: std::collections::BTreeSet<_> = replicas.iter().map(zone).collect();
            assert_eq!((replicas.len(), zones.len()), (3, 3));
            let best = six.iter().max_by_key(|place| weight(place.node, bucket)).map(|place| place.node);
            assert_eq!(replicas.first().copied(), best, "the manager is the first");
        }
    }

    #[test]
    fn who_drains_holds_records_only_while_there_are_too_few_others() {
        let four = [(1, 0, true), (2, 0, true), (3, 0, true), (4, 0, false)];
        for bucket in Bucket::all() {
            assert!(!record_replicas(&places(&four), bucket, 3).contains(&NodeId(4)));
            let few = record_replicas(&places(&four[2..]), bucket, 3);
            assert_eq!(few, [NodeId(3), NodeId(4)]);
        }
        assert_eq!(record_replicas(&places(&four[3..]), Bucket(0), 3), [], "nobody manages");
    }
}
