//! Where a new message goes (DESIGN 6; Porcupine's load balancing, PAPERS A9).
//!
//! Every node decides by itself from its own, possibly stale, table of loads. Candidates are the nodes that
//! already hold a fragment of the user, topped up with random nodes to `spread`; the least loaded are chosen,
//! in different zones where there are zones. Full and draining nodes take nothing, and if the candidates are
//! not enough, or all overloaded, the bound is broken: spread is soft.

use crate::ids::NodeId;
use crate::mail_map::MailMap;
use crate::view::Load;

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

/// All active nodes in the order in which they should be tried; the first `copies` are the replicas to begin
/// with, the rest stand in for those that fail.
///
/// `order` is the user's rendezvous order of active nodes; `random` any 64 random bits.
pub fn choose(
    policy: Policy,
    copies: usize,
    order: &[Candidate],
    mail_map: &MailMap,
    random: u64,
) -> Vec<NodeId> {
    let mut shuffled: Vec<&Candidate> = order.iter().collect();
    shuffle(&mut shuffled, random);
    let (mut chosen, rest): (Vec<&Candidate>, Vec<&Candidate>) = match policy {
        Policy::Static => (order.iter().collect(), Vec::new()),
        Policy::Random => (shuffled, Vec::new()),
        Policy::Spread(spread) => {
            // A stable sort on top of the shuffle: equal loads are shared evenly.
            shuffled.sort_by_key(|candidate| !mail_map.contains(candidate.node));
            let bound = spread.max(copies).min(shuffled.len());
            let mut rest = shuffled.split_off(bound);
            shuffled.sort_by_key(|candidate| candidate.load.cost());
            rest.sort_by_key(|candidate| candidate.load.cost());
            (shuffled, rest)
        }
    };
    chosen.extend(rest);
    // Stable: keeps the order above within each class.
    let overload_matters = matches!(policy, Policy::Spread(_));
    chosen.sort_by_key(|candidate| {
        let unusable = candidate.load.is_full() || candidate.avoided;
        (unusable, overload_matters && candidate.load.pending > OVERLOADED)
    });
    spread_zones(chosen, copies)
}

/// Brings nodes of zones not used yet to the front, without using a full or avoided node for it.
fn spread_zones(candidates: Vec<&Candidate>, copies: usize) -> Vec<NodeId> {
    let mut left = candidates;
    let mut out: Vec<NodeId> = Vec::with_capacity(left.len());
    let mut zones: Vec<&str> = Vec::new();
    while out.len() < copies && !left.is_empty() {
        let fresh = left.iter().position(|candidate| {
            !candidate.avoided
                && !candidate.load.is_full()
                && candidate.zone.as_deref().is_none_or(|zone| !zones.contains(&zone))
        });
        let candidate = left.remove(fresh.unwrap_or(0));
        zones.extend(candidate.zone.as_deref());
        out.push(candidate.node);
    }
    out.extend(left.iter().map(|candidate| candidate.node));
    out
}

/// Fisher-Yates with a small generator: placement needs no cryptography, and the simulator needs a seed.
fn shuffle<T>(items: &mut [T], mut state: u64) {
    for at in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(at, ((state >> 33) as usize) % (at + 1));
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
