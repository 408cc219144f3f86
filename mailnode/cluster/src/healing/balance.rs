//! Rebalancing (DESIGN 6): a node that is fuller than the average hands old mail to those that are emptier, until
//! the disks are equally full, whatever their sizes: fullness is a share of the disk.
//!
//! Every node decides for itself by the load reports it has. It gives only its own place in a replica set, and
//! stops half-way to the average, so that several that give to one at the same time do not overfill it.

use crate::entry::Entry;
use crate::ids::NodeId;
use crate::mail_map::MailMap;
use crate::placement::Candidate;

/// Thousandths above the average at which a node begins to give.
const MARGIN: u16 = 50;

/// Who gives, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    me: NodeId,
    /// Share of what is here to hand over, in thousandths; 0 if there is no reason to.
    pub share: u64,
    /// Emptier than the average by the margin, the emptiest first.
    takers: Vec<Candidate>,
}

impl Balance {
    /// `nodes`: all active nodes, ourselves included.
    pub fn new(me: NodeId, nodes: &[Candidate]) -> Self {
        let sum: u64 = nodes.iter().map(|node| u64::from(node.load.fullness)).sum();
        let average = sum.checked_div(nodes.len() as u64).unwrap_or_default();
        let average = u16::try_from(average).unwrap_or(u16::MAX);
        let mine = nodes.iter().find(|node| node.node == me).map_or(0, |node| node.load.fullness);
        let mut takers: Vec<Candidate> = nodes.to_vec();
        takers.retain(|node| {
            node.node != me && !node.avoided && node.load.fullness.saturating_add(MARGIN) <= average
        });
        takers.sort_by_key(|node| node.load.fullness);
        let over = u64::from(mine.saturating_sub(average));
        let gives = over >= u64::from(MARGIN) && !takers.is_empty();
        let share = if gives { over * 1_000 / u64::from(mine.max(1)) / 2 } else { 0 };
        Self { me, share, takers }
    }

    /// The replica set of an entry after we have given our place to somebody emptier: to a node of the user's mail
    /// map if there is one, else to the emptiest; never to one in a zone that another replica is in.
    pub fn hand_over(
        &self,
        entry: &Entry,
        mail_map: &MailMap,
        zones: &[Option<String>],
    ) -> Option<Vec<NodeId>> {
        let replicas = &entry.replicas.value;
        if self.share == 0 || !entry.is_live() || !replicas.contains(&self.me) {
            return None;
        }
        let fits = |taker: &&Candidate| {
            !replicas.contains(&taker.node) && (taker.zone.is_none() || !zones.contains(&taker.zone))
        };
        let known = self.takers.iter().filter(fits).find(|taker| mail_map.contains(taker.node));
        let taker = known.or_else(|| self.takers.iter().find(fits))?;
        let mut after: Vec<NodeId> = replicas.iter().copied().filter(|&node| node != self.me).collect();
        after.push(taker.node);
        after.sort_unstable();
        Some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::{entry, stamp};
    use crate::view::Load;

    fn node(id: u64, fullness: u16, zone: Option<&str>) -> Candidate {
        let load = Load { fullness, ..Load::default() };
        Candidate { node: NodeId(id), zone: zone.map(str::to_owned), load, avoided: false }
    }

    fn ids(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|&id| NodeId(id)).collect()
    }

    #[test]
    fn a_full_node_gives_its_place_to_one_of_the_mail_map_else_to_the_emptiest() {
        let nodes = [node(1, 800, None), node(2, 700, None), node(3, 100, None), node(4, 50, None)];
        let balance = Balance::new(NodeId(1), &nodes);
        let entry = entry(1, stamp(1, 1));
        assert!(balance.share > 0 && balance.share < 500, "{}", balance.share);
        assert_eq!(balance.hand_over(&entry, &MailMap::default(), &[]), Some(ids(&[2, 4])));
        let map = ids(&[3]).into_iter().collect();
        assert_eq!(balance.hand_over(&entry, &map, &[]), Some(ids(&[2, 3])));
    }

    #[test]
    fn small_differences_and_emptier_nodes_give_nothing() {
        let nodes = [node(1, 520, None), node(2, 480, None), node(3, 500, None)];
        let entry = entry(1, stamp(1, 1));
        for id in 1..=3 {
            let balance = Balance::new(NodeId(id), &nodes);
            assert_eq!(balance.hand_over(&entry, &MailMap::default(), &[]), None);
        }
        assert_eq!(Balance::new(NodeId(1), &[]).share, 0);
    }

    #[test]
    fn copies_stay_in_different_zones() {
        let nodes = [node(1, 900, Some("a")), node(2, 500, Some("b")), node(3, 10, Some("b"))];
        let balance = Balance::new(NodeId(1), &nodes);
        let zones = [Some("b".to_owned())];
        assert_eq!(balance.hand_over(&entry(1, stamp(1, 1)), &MailMap::default(), &zones), None);
    }

    #[test]
    fn giving_until_it_stops_evens_out_disks_of_any_size() {
        let sizes = [1_000.0, 2_000.0, 4_000.0, 500.0];
        let mut used = [900.0, 300.0, 0.0, 450.0];
        for _ in 0..60 {
            let fullness = |at: usize, used: &[f64; 4]| (used[at] * 1_000.0 / sizes[at]) as u16;
            let nodes: Vec<Candidate> = (0..4).map(|at| node(at as u64, fullness(at, &used), None)).collect();
            for at in 0..4 {
                let balance = Balance::new(NodeId(at as u64), &nodes);
                if let Some(taker) = balance.takers.first() {
                    let moved = used[at] * balance.share as f64 / 1_000.0;
                    used[at] -= moved;
                    used[taker.node.0 as usize] += moved;
                }
            }
        }
        let shares: Vec<f64> = (0..4).map(|at| used[at] / sizes[at]).collect();
        let (least, most) =
            (shares.iter().copied().fold(1.0, f64::min), shares.iter().copied().fold(0.0, f64::max));
        assert!(most - least < 0.2, "{shares:?}");
    }
}
