//! Where a new message goes (DESIGN 6; Porcupine's load balancing, PAPERS A9).
//!
//! Every node decides by itself from its own, possibly stale, table of loads. Candidates are the nodes that
//! already hold a fragment of the user, topped up with random nodes to `spread`; the least loaded are chosen,
//! in different zones where there are zones. Draining nodes take nothing, nearly full disks only what nobody else can, and if the
//! candidates are not enough, or all overloaded, the bound is broken: spread is soft.

use crate::ids::NodeId;
use crate::mail_map::MailMap;
use crate::view::Load;
use crate::zones;

/// How candidates are found. The first two exist to be compared with the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Always the first nodes of the user's rendezvous order, whatever their load.
    Static,
    /// Any nodes, whatever their load.
    Random,
    /// The least loaded of this many candidates.
    Spread(usize),
}

/// What a node knows of another when it places mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    pub zone: Option<String>,
    pub load: Load,
    /// Suspected by probes or a time-out: not used while there is anybody else.
    pub avoided: bool,
}

/// More pending operations than this, and a candidate is overloaded: nodes outside the spread are taken.
pub const OVERLOADED: u32 = 512;

/// Nodes that stand in for those that fail, at most: beyond them a message is better tried again later. Bounds what one
/// placement costs in a large cluster.
pub const STAND_INS: usize = 32;

/// Active nodes in the order in which they should be tried; the first `copies` are the replicas to begin with, the
/// rest stand in for those that fail. All nodes, but not more than [`STAND_INS`] stand-ins that can be used.
///
/// `order` is the user's rendezvous order of active nodes (which matters for [`Policy::Static`] only); `random` any 64
/// random bits.
pub fn choose(
    policy: Policy,
    copies: usize,
    order: &[Candidate],
    mail_map: &MailMap,
    random: u64,
) -> Vec<NodeId> {
    let (mut chosen, rest): (Vec<&Candidate>, Vec<&Candidate>) = match policy {
        Policy::Static => (order.iter().collect(), Vec::new()),
        Policy::Random => {
            (draw(&mut Shuffle::new(order.iter().collect(), random), copies + STAND_INS), Vec::new())
        }
        Policy::Spread(spread) => {
            let bound = spread.max(copies).min(order.len());
            let (near, far) = order.iter().partition(|candidate| mail_map.contains(candidate.node));
            let mut near: Vec<&Candidate> = Shuffle::new(near, random).collect();
            let mut far = Shuffle::new(far, !random);
            near.extend(far.by_ref().take(bound.saturating_sub(near.len())));
            let mut rest = near.split_off(bound);
            rest.extend(draw(&mut far, STAND_INS));
            // Stable sorts on top of the shuffle: equal loads are shared evenly.
            near.sort_by_key(|candidate| candidate.load.cost());
            rest.sort_by_key(|candidate| candidate.load.cost());
            (near, rest)
        }
    };
    chosen.extend(rest);
    // Stable: keeps the order above within each class.
    let overload_matters = matches!(policy, Policy::Spread(_));
    chosen.sort_by_key(|candidate| {
        (candidate.last_resort(), overload_matters && candidate.load.pending > OVERLOADED)
    });
    spread_zones(chosen, copies)
}

impl Candidate {
    /// False comes first: nodes with room, then those that are nearly full, then those that may be dead.
    pub(crate) const fn last_resort(&self) -> (bool, bool) {
        (self.avoided, self.load.is_nearly_full())
    }
}

/// So many that can be used, and those that cannot and came first.
fn draw<'a>(from: &mut Shuffle<'a>, usable: usize) -> Vec<&'a Candidate> {
    let mut drawn = Vec::new();
    let mut found = 0;
    while found < usable
        && let Some(candidate) = from.next()
    {
        found += usize::from(candidate.last_resort() == (false, false));
        drawn.push(candidate);
    }
    drawn
}

/// Brings nodes of zones not used yet to the front, without using a nearly full or avoided node for it.
fn spread_zones(candidates: Vec<&Candidate>, copies: usize) -> Vec<NodeId> {
    let (taken, left) = zones::spread(
        candidates,
        copies,
        |candidate| candidate.zone.as_deref(),
        |candidate| candidate.last_resort(),
    );
    taken.into_iter().chain(left).map(|candidate| candidate.node).collect()
}

/// Candidates in random order, drawn one by one (Fisher-Yates, from the end), with a small generator: placement needs
/// no cryptography, and the simulator needs a seed.
struct Shuffle<'a> {
    left: Vec<&'a Candidate>,
    state: u64,
}

impl<'a> Shuffle<'a> {
    const fn new(left: Vec<&'a Candidate>, state: u64) -> Self {
        Self { left, state }
    }
}

impl<'a> Iterator for Shuffle<'a> {
    type Item = &'a Candidate;

    fn next(&mut self) -> Option<&'a Candidate> {
        if self.left.is_empty() {
            return None;
        }
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (self.state >> 33) as usize % self.left.len();
        Some(self.left.swap_remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u64, pending: u32) -> Candidate {
        let load = Load { pending, ..Load::default() };
        Candidate { node: NodeId(node), zone: None, load, avoided: false }
    }

    fn map(nodes: &[u64]) -> MailMap {
        nodes.iter().map(|&node| NodeId(node)).collect()
    }

    #[test]
    fn mail_stays_on_the_nodes_of_the_mail_map_while_they_are_not_overloaded() {
        let order: Vec<Candidate> = (1..=9).map(|node| candidate(node, 3)).collect();
        for random in 0..50 {
            let chosen = choose(Policy::Spread(2), 2, &order, &map(&[4, 8]), random);
            assert_eq!(chosen.len(), 9);
            assert!(chosen[..2].contains(&NodeId(4)) && chosen[..2].contains(&NodeId(8)));
        }
    }

    #[test]
    fn the_less_loaded_of_two_candidates_gets_the_only_copy() {
        let order = [candidate(1, 40), candidate(2, 3), candidate(3, 0)];
        assert_eq!(choose(Policy::Spread(2), 1, &order, &map(&[1, 2]), 7)[0], NodeId(2));
    }

    #[test]
    fn overload_breaks_the_bound_and_a_full_disk_comes_last() {
        let mut order = vec![candidate(1, OVERLOADED + 1), candidate(2, OVERLOADED + 2), candidate(3, 400)];
        assert_eq!(choose(Policy::Spread(2), 1, &order, &map(&[1, 2]), 7)[0], NodeId(3));
        order[2].load.fullness = 999;
        assert_eq!(*choose(Policy::Spread(2), 1, &order, &map(&[1, 2]), 7).last().unwrap(), NodeId(3));
        order[1].avoided = true;
        assert_eq!(choose(Policy::Spread(2), 1, &order, &map(&[1, 2]), 7), [1, 3, 2].map(NodeId));
        order.iter_mut().for_each(|candidate| candidate.load.fullness = 960);
        assert_eq!(
            choose(Policy::Spread(2), 2, &order, &map(&[1, 2]), 7)[2],
            NodeId(2),
            "who may be dead is last"
        );
    }

    #[test]
    fn copies_go_to_different_zones_when_there_are_zones() {
        let mut order: Vec<Candidate> = (1..=4).map(|node| candidate(node, 0)).collect();
        for (at, zone) in ["a", "a", "a", "b"].iter().enumerate() {
            order[at].zone = Some((*zone).to_owned());
        }
        for random in 0..50 {
            let chosen = choose(Policy::Spread(2), 2, &order, &map(&[1, 2]), random);
            assert!(chosen[..2].contains(&NodeId(4)), "{chosen:?}");
        }
    }

    #[test]
    fn in_a_large_cluster_there_are_enough_stand_ins_and_no_more_whoever_is_avoided() {
        let mut order: Vec<Candidate> = (1..=1_000).map(|node| candidate(node, 0)).collect();
        for random in 0..20 {
            let chosen = choose(Policy::Spread(2), 2, &order, &map(&[700, 800]), random);
            assert_eq!(chosen.len(), 2 + STAND_INS);
            assert!(chosen[..2].contains(&NodeId(700)) && chosen[..2].contains(&NodeId(800)));
            assert_eq!(choose(Policy::Random, 2, &order, &MailMap::default(), random).len(), 2 + STAND_INS);
        }
        order.iter_mut().skip(5).for_each(|candidate| candidate.avoided = true);
        let chosen = choose(Policy::Spread(2), 2, &order, &map(&[700, 800]), 1);
        assert!(chosen[..5].iter().all(|node| node.0 <= 5), "all that can be used come first: {chosen:?}");
        let mut distinct = chosen.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), chosen.len());
    }

    #[test]
    fn an_avoided_node_is_used_last() {
        let mut order: Vec<Candidate> = (1..=3).map(|node| candidate(node, 0)).collect();
        order[0].avoided = true;
        for random in 0..20 {
            assert_eq!(choose(Policy::Spread(3), 2, &order, &map(&[1]), random)[2], NodeId(1));
        }
    }

    #[test]
    fn random_placement_uses_all_nodes_evenly() {
        let order: Vec<Candidate> = (1..=5).map(|node| candidate(node, 0)).collect();
        let mut counts = [0; 6];
        for random in 0..5_000u64 {
            let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            counts[choose(Policy::Random, 1, &order, &MailMap::default(), random)[0].0 as usize] += 1;
        }
        assert!(counts[1..].iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
