use super::*;
use crate::entry::Register;
use crate::entry::tests::{entry, stamp};
use crate::ids::{Epoch, Incarnation};
use crate::view::{Addresses, Load, Member};
use MemberState::{Active, Dead, Draining};
use std::collections::BTreeSet;

fn view(members: &[(u64, MemberState, Option<&str>)]) -> View {
    let member = |&(id, state, zone): &(u64, MemberState, Option<&str>)| Member {
        id: NodeId(id),
        name: id.to_string(),
        addresses: Addresses::default(),
        zone: zone.map(str::to_owned),
        state,
        incarnation: Incarnation(1),
    };
    View::new(Epoch(1), members.iter().map(member).collect())
}

fn ids(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().map(|&id| NodeId(id)).collect()
}

fn on(replicas: &[u64]) -> Entry {
    let mut entry = entry(1, stamp(1, 1));
    entry.replicas = Register::new(ids(replicas), stamp(1, 1));
    entry
}

fn candidates(view: &View) -> Vec<Candidate> {
    let candidate = |member: &Member| Candidate {
        node: member.id,
        zone: member.zone.clone(),
        load: Load::default(),
        avoided: false,
    };
    view.active().map(candidate).collect()
}

fn planned(view: &View, me: u64, factor: usize, entry: &Entry) -> Option<Vec<NodeId>> {
    let planner = Planner::new(NodeId(me), factor, view);
    let Judgement::Mine(task) = planner.judge(entry) else { return None };
    planner.place(&task, Policy::Spread(2), &candidates(view), &MailMap::default(), 7)
}

#[test]
fn a_dead_member_may_return_and_one_that_left_the_view_is_replaced_by_the_first_living_replica() {
    let dead = view(&[(1, Dead, None), (2, Active, None), (3, Active, None), (4, Active, None)]);
    assert_eq!(Planner::new(NodeId(2), 2, &dead).judge(&on(&[1, 2])), Judgement::Whole);
    let lost = view(&[(2, Active, None), (3, Active, None), (4, Active, None)]);
    let task = Task { keepers: ids(&[2, 3]), copies: 1, living: 2 };
    assert_eq!(Planner::new(NodeId(2), 3, &lost).judge(&on(&[1, 2, 3])), Judgement::Mine(task));
    assert_eq!(Planner::new(NodeId(3), 3, &lost).judge(&on(&[1, 2, 3])), Judgement::Others);
    assert_eq!(planned(&lost, 2, 3, &on(&[1, 2, 3])), Some(ids(&[2, 3, 4])));
}

#[test]
fn if_the_first_replica_is_dead_the_next_one_sees_to_it() {
    let view = view(&[(1, Dead, None), (2, Active, None), (4, Active, None), (5, Active, None)]);
    assert_eq!(planned(&view, 2, 3, &on(&[1, 2, 3])).map(|set| set.len()), Some(3));
    assert_eq!(planned(&view, 2, 2, &on(&[1, 2, 3])), Some(ids(&[1, 2])), "struck out, nothing copied");
}

#[test]
fn a_draining_node_moves_its_own_entries_to_a_full_set_without_it() {
    let view = view(&[(1, Active, None), (2, Draining, None), (3, Active, None)]);
    assert_eq!(planned(&view, 2, 2, &on(&[1, 2])), Some(ids(&[1, 3])));
    assert_eq!(Planner::new(NodeId(1), 2, &view).judge(&on(&[1, 2])), Judgement::Others);
    assert_eq!(Planner::new(NodeId(2), 2, &view).judge(&on(&[1, 3])), Judgement::Whole, "it is no replica");
}

#[test]
fn a_drain_of_a_cluster_too_small_ends_with_as_many_copies_as_can_be() {
    let view = view(&[(1, Active, None), (2, Draining, None)]);
    assert_eq!(planned(&view, 2, 2, &on(&[1, 2])), Some(ids(&[1])));
    assert_eq!(planned(&view, 2, 2, &on(&[2])), Some(ids(&[1])));
}

#[test]
fn a_draining_node_keeps_its_copy_while_the_only_one_to_take_it_is_dead_and_may_return() {
    let view = view(&[(1, Active, None), (2, Draining, None), (3, Dead, None)]);
    assert_eq!(planned(&view, 2, 2, &on(&[1, 2])), None);
}

#[test]
fn with_nobody_to_take_a_copy_all_stays_as_it_is() {
    let view = view(&[(2, Active, None)]);
    assert_eq!(planned(&view, 2, 2, &on(&[1, 2])), None);
    let both = self::view(&[(2, Active, None), (3, Active, None)]);
    let planner = Planner::new(NodeId(2), 2, &both);
    let Judgement::Mine(task) = planner.judge(&on(&[1, 2])) else { panic!() };
    let mut candidates = candidates(&both);
    let map = MailMap::default();
    candidates[1] = Candidate { avoided: true, ..candidates[1].clone() };
    assert_eq!(planner.place(&task, Policy::Spread(2), &candidates, &map, 1), None, "a suspect");
}

#[test]
fn new_copies_go_to_the_mail_map_and_to_other_zones() {
    let names =
        [(2, Active, Some("a")), (3, Active, Some("a")), (4, Active, Some("b")), (5, Active, Some("b"))];
    let view = view(&names);
    let planner = Planner::new(NodeId(2), 2, &view);
    let Judgement::Mine(task) = planner.judge(&on(&[1, 2])) else { panic!() };
    for random in 0..30 {
        let chosen = planner.place(&task, Policy::Spread(3), &candidates(&view), &MailMap::default(), random);
        assert!(chosen.is_some_and(|set| set.contains(&NodeId(4)) || set.contains(&NodeId(5))));
        let map = ids(&[2, 5]).into_iter().collect();
        let chosen = planner.place(&task, Policy::Spread(2), &candidates(&view), &map, random);
        assert_eq!(chosen, Some(ids(&[2, 5])));
    }
}

#[test]
fn a_nearly_full_disk_gets_a_copy_when_there_is_no_other() {
    let view = view(&[(2, Active, Some("a")), (3, Active, Some("a")), (4, Active, Some("b"))]);
    let planner = Planner::new(NodeId(2), 2, &view);
    let Judgement::Mine(task) = planner.judge(&on(&[1, 2])) else { panic!() };
    let mut candidates = candidates(&view);
    let place = |candidates: &[Candidate]| {
        planner.place(&task, Policy::Spread(2), candidates, &MailMap::default(), 1)
    };
    assert_eq!(place(&candidates), Some(ids(&[2, 4])));
    candidates[2].load.fullness = 990;
    assert_eq!(place(&candidates), Some(ids(&[2, 3])), "room counts more than another zone");
    candidates[1].load.fullness = 990;
    assert_eq!(place(&candidates), Some(ids(&[2, 4])));
}

#[test]
fn tombstones_and_entries_of_others_are_left_alone() {
    let view = view(&[(2, Active, None), (3, Active, None)]);
    let mut gone = on(&[1, 2]);
    gone.expunged = Some(stamp(5, 1));
    assert_eq!(Planner::new(NodeId(2), 2, &view).judge(&gone), Judgement::Whole);
    assert_eq!(Planner::new(NodeId(3), 2, &view).judge(&on(&[1, 2])), Judgement::Whole);
}

/// Nodes leave for good, drain and join at random; every node judges everything after each change.
#[test]
fn whatever_happens_every_entry_is_seen_to_by_one_node_and_comes_back_to_its_factor() {
    let mut random = 5u64;
    let mut below = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut members: Vec<(u64, MemberState, Option<&str>)> = (1..=6).map(|id| (id, Active, None)).collect();
    let mut entries: Vec<Entry> = (1..=6).flat_map(|a| [on(&[a, a % 6 + 1])]).collect();
    let mut next = 7;
    for round in 0..200u64 {
        // One change at a time, so that nothing is lost that has two copies.
        let at = below(members.len() as u64) as usize;
        match below(3) {
            0 if members.len() > 4 => drop(members.remove(at)),
            1 if members.len() > 4 => members[at].1 = Draining,
            _ => {
                members.push((next, Active, None));
                next += 1;
            }
        }
        let view = view(&members);
        for entry in &mut entries {
            let replicas = entry.replicas.value.clone();
            let responsible: Vec<_> =
                replicas.iter().filter_map(|node| planned(&view, node.0, 2, entry)).collect();
            assert!(responsible.len() <= 1, "two nodes with one view see to one entry");
            if let Some(set) = responsible.first() {
                entry.replicas = Register::new(set.clone(), stamp(2 + round, 1));
            }
            let active: BTreeSet<NodeId> = view.active().map(|member| member.id).collect();
            let live = entry.replicas.value.iter().filter(|node| active.contains(node)).count();
            assert_eq!(
                (live, entry.replicas.value.len()),
                (2, 2),
                "round {round}: {:?}",
                entry.replicas.value
            );
        }
        // A drained node goes.
        members.retain(|(_, state, _)| *state != Draining);
    }
}
