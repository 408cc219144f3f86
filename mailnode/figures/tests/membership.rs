//! Membership at scale (DESIGN 5): many cores, a network that loses packets, a Lease service that goes away, coordinators that
//! are cut off.

use cluster::membership::Timing;
use cluster::{Epoch, MemberState, NodeId};
use figures::members::{Settings, World};
use figures::{MILLISECOND, SECOND, Time};
use std::collections::BTreeSet;

fn formed(nodes: usize, seed: u64) -> World {
    let names: Vec<String> = (0..nodes).map(|at| format!("node-{at}")).collect();
    let mut world = World::new(&names, Settings::default(), seed, true);
    world.run_until(5 * SECOND);
    assert!(world.coordinator().is_some() && world.agree_on(&all(&world)));
    world
}

fn all(world: &World) -> BTreeSet<NodeId> {
    (0..world.len()).map(|at| world.id(at)).collect()
}

fn without(world: &World, gone: &[usize]) -> BTreeSet<NodeId> {
    (0..world.len()).filter(|at| !gone.contains(at)).map(|at| world.id(at)).collect()
}

/// Some machine that is not the coordinator.
fn other(world: &World) -> usize {
    (0..world.len()).find(|&at| Some(at) != world.coordinator()).unwrap()
}

/// Nobody leaves the view for so long, although every hundredth packet is lost.
fn loses_no_member(span: Time, seed: u64) {
    let mut world = formed(100, seed);
    world.set_loss(0.01);
    let epoch = world.published().epoch;
    world.run_until(world.now() + span);
    assert_eq!(world.published().epoch, epoch, "{:?}", world.published());
    assert!(world.traffic.probes > span / SECOND * 100 * 5, "it was probed");
}

#[test]
fn a_healthy_cluster_of_a_hundred_loses_no_member_in_five_minutes_of_one_percent_loss() {
    loses_no_member(300 * SECOND, 1);
}

/// Some minutes on an optimised build: `make scale`.
#[test]
#[ignore = "long: make scale"]
fn a_healthy_cluster_of_a_hundred_loses_no_member_in_a_day_of_one_percent_loss() {
    loses_no_member(24 * 3_600 * SECOND, 2);
}

#[test]
fn a_dead_node_is_out_of_all_views_in_less_than_three_seconds_whatever_the_size() {
    for (nodes, seeds) in [(3, 8), (10, 8), (100, 2)] {
        for seed in 1..=seeds {
            let mut world = formed(nodes, seed);
            world.run_until(world.now() + seed * 41 * MILLISECOND);
            let victim = other(&world);
            let left = without(&world, &[victim]);
            world.kill(victim);
            let took = world.until(10 * SECOND, |world| world.agree_on(&left));
            assert!(took.is_some_and(|took| took < 3 * SECOND), "{nodes} nodes, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn with_the_lease_service_away_for_an_hour_nobody_is_expelled_and_the_dead_are_avoided() {
    let mut world = formed(8, 3);
    let everybody = all(&world);
    world.set_service(false);
    world.run_until(world.now() + 1_800 * SECOND);
    assert!(world.agree_on(&everybody));
    let victim = other(&world);
    let id = world.id(victim);
    world.kill(victim);
    world.run_until(world.now() + 1_800 * SECOND);
    assert!(world.agree_on(&everybody), "nothing can be published");
    assert!(world.up().any(|at| world.avoids(at, id)));
    world.set_service(true);
    let left = without(&world, &[victim]);
    assert!(world.until(20 * SECOND, |world| world.agree_on(&left)).is_some());
}

#[test]
fn of_two_coordinators_only_the_one_that_reaches_the_lease_service_decides_and_all_agree_after_the_merge() {
    let mut world = formed(10, 4);
    let old = world.coordinator().unwrap();
    let cut: Vec<usize> = std::iter::once(old).chain((0..10).filter(|&at| at != old).take(3)).collect();
    let before = world.published().epoch;
    for &at in &cut {
        world.set_side(at, 1);
        world.set_reaches_service(at, false);
    }
    let left = without(&world, &cut);
    let rest: Vec<usize> = (0..10).filter(|at| !cut.contains(at)).collect();
    let agreed = |world: &World| {
        rest.iter().all(|&at| world.view(at).active().map(|member| member.id).eq(left.iter().copied()))
    };
    assert!(world.until(15 * SECOND, agreed).is_some());
    assert_ne!(world.coordinator(), Some(old));
    world.run_until(world.now() + 60 * SECOND);
    // The old coordinator takes itself for one yet; nothing came of it.
    for &at in &cut {
        assert_eq!(world.view(at).epoch, before);
        assert_eq!(world.view(at).active().count(), 10);
    }
    for &at in &cut {
        world.set_side(at, 0);
        world.set_reaches_service(at, true);
    }
    let everybody = all(&world);
    assert!(world.until(10 * SECOND, |world| world.agree_on(&everybody)).is_some());
    world.run_until(world.now() + 2 * SECOND);
    let epochs: BTreeSet<Epoch> = (0..10).map(|at| world.view(at).epoch).collect();
    assert_eq!(epochs.len(), 1);
}

#[test]
fn a_partition_that_the_lease_service_bridges_leaves_the_coordinators_side_and_heals() {
    let mut world = formed(10, 5);
    let coordinator = world.coordinator().unwrap();
    let cut: Vec<usize> = (0..10).filter(|&at| at != coordinator).take(4).collect();
    cut.iter().for_each(|&at| world.set_side(at, 1));
    world.run_until(world.now() + 10 * SECOND);
    // Both sides read one view in the Lease: it has those whom the coordinator reaches.
    let left = without(&world, &cut);
    assert!(world.agree_on(&left));
    let dead = world.published().members.iter().filter(|member| member.state == MemberState::Dead);
    assert_eq!(dead.count(), 4, "they are remembered");
    cut.iter().for_each(|&at| world.set_side(at, 0));
    let everybody = all(&world);
    assert!(world.until(10 * SECOND, |world| world.agree_on(&everybody)).is_some());
}

#[test]
fn renewals_stay_below_fifty_a_second_and_probes_do_not_grow_with_the_cluster() {
    for nodes in [10, 200] {
        let mut world = formed(nodes, 6);
        let before = world.traffic;
        world.run_until(world.now() + 20 * SECOND);
        let sent = world.traffic.since(&before);
        let renewals = sent.renewals as f64 / 20.0;
        assert!(renewals <= 51.0, "{nodes} nodes: {renewals} renewals a second");
        let probes = sent.probes as f64 / 20.0 / nodes as f64;
        let most = Timing::default().successors as f64 / Timing::default().probe_interval.as_secs_f64();
        assert!(probes <= most, "{nodes} nodes: {probes} probes a node");
    }
}
