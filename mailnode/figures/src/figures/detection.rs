//! Figure 5: how long it takes, by size of the cluster, until a dead machine is avoided, is out of everybody's view
//! (which is the reassignment of its buckets: every node computes it from the view), and until the new managers know
//! the mail maps of the buckets that they gained.

use super::{Size, parallel};
use crate::hardware::{FRAME, Hardware};
use crate::members::{Settings, World};
use crate::table::{Table, fixed};
use crate::{MICROSECOND, SECOND, Time, seconds};
use cluster::reconstruction::MailMaps;
use cluster::{Bucket, Incarnation, NodeId, UserMap, View};
use std::collections::BTreeSet;

/// Users of whom a machine holds mail: 10,000 users a machine, two copies.
const FRAGMENTS: u64 = 20_000;
/// Processor time for one user in an answer, at either end.
const LISTED: Time = 2 * MICROSECOND;
/// Bytes of one user in an answer.
const USER: u64 = 18;

struct Death {
    avoided: Time,
    out: Time,
    rebuilt: Rebuilt,
}

/// The cost of knowing all mail maps again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rebuilt {
    pub took: Time,
    /// Calls made and answered by the busiest node, and by all.
    pub most_calls: u64,
    pub calls: u64,
    /// Users listed in all answers.
    pub users: u64,
}

pub fn tables(size: Size, seed: u64) -> Vec<(&'static str, Table)> {
    let sizes = size.cut(&[3, 10, 30, 100, 300, 1_000]);
    let tries: u64 = if size == Size::Quick { 2 } else { 10 };
    let mut runs: Vec<(usize, bool, u64)> = Vec::new();
    for &nodes in sizes.iter().rev() {
        for coordinator in [false, true] {
            let tries = if nodes >= 300 { tries.min(4) } else { tries };
            runs.extend((0..tries).map(|number| (nodes, coordinator, seed + number)));
        }
    }
    let deaths = parallel(&runs, |&(nodes, coordinator, seed)| death(nodes, coordinator, seed));
    let mut table = Table::new(&[
        "nodes",
        "victim",
        "avoided_by_somebody_s",
        "out_of_all_views_s",
        "out_of_all_views_worst_s",
        "mail_maps_known_after_view_ms",
        "reconstruction_calls_per_node",
        "reconstruction_calls_busiest",
        "reconstruction_users_listed_per_node",
    ]);
    for &nodes in &sizes {
        for coordinator in [false, true] {
            let of_this = runs.iter().zip(&deaths).filter(|(run, _)| run.0 == nodes && run.1 == coordinator);
            let deaths: Vec<&Death> = of_this.filter_map(|(_, death)| death.as_ref()).collect();
            let count = deaths.len().max(1) as f64;
            let mean =
                |value: fn(&Death) -> f64| deaths.iter().map(|death| value(death)).sum::<f64>() / count;
            let worst = deaths.iter().map(|death| death.out).max().unwrap_or_default();
            table.row(&[
                &nodes,
                &(if coordinator { "coordinator" } else { "other" }),
                &fixed(mean(|death| seconds(death.avoided)), 3),
                &fixed(mean(|death| seconds(death.out)), 3),
                &fixed(seconds(worst), 3),
                &fixed(mean(|death| seconds(death.rebuilt.took)) * 1e3, 2),
                &fixed(mean(|death| death.rebuilt.calls as f64) / nodes as f64, 2),
                &fixed(mean(|death| death.rebuilt.most_calls as f64), 1),
                &fixed(mean(|death| death.rebuilt.users as f64) / nodes as f64, 1),
            ]);
        }
    }
    vec![("detection", table)]
}

/// None if the cluster did not agree within a minute, which would be seen as a missing row.
fn death(nodes: usize, coordinator: bool, seed: u64) -> Option<Death> {
    let names: Vec<String> = (0..nodes).map(|at| format!("node-{at}")).collect();
    let mut world = World::new(&names, Settings::default(), seed, true);
    // Long enough for a coordinator, and not always the same moment of a probe's interval.
    world.run_until(5 * SECOND + seed * 37_000_000);
    let holder = world.coordinator()?;
    let victim = if coordinator { holder } else { (holder + 1 + seed as usize % (nodes - 1)) % nodes };
    let id = world.id(victim);
    let before = world.view(holder).clone();
    let others: BTreeSet<NodeId> =
        before.active().map(|member| member.id).filter(|&member| member != id).collect();
    world.kill(victim);
    let avoided = world.until(60 * SECOND, |world| world.up().any(|at| world.avoids(at, id)))?;
    let out = avoided + world.until(60 * SECOND, |world| world.agree_on(&others))?;
    let after = world.view(world.up().next()?).clone();
    Some(Death { avoided, out, rebuilt: reconstruct(&before, &after, FRAGMENTS, &Hardware::SMALL) })
}

/// Every manager asks what [`MailMaps::questions`] says it has to; nodes are idle otherwise.
pub fn reconstruct(before: &View, after: &View, fragments: u64, hardware: &Hardware) -> Rebuilt {
    let (old, new) = (UserMap::new(before), UserMap::new(after));
    let members: Vec<(NodeId, Incarnation)> =
        after.serving().map(|member| (member.id, member.incarnation)).collect();
    let mut calls = vec![0u64; members.len()];
    let mut busy: Vec<Time> = vec![0; members.len()];
    let mut rebuilt = Rebuilt::default();
    let cpu = hardware.processor;
    for (at, (manager, _)) in members.iter().enumerate() {
        let gained: Vec<Bucket> =
            new.buckets_of(*manager).filter(|&bucket| old.manager(bucket) != Some(*manager)).collect();
        for question in MailMaps::default().questions(&gained, &members) {
            let Ok(peer) = members.binary_search_by_key(&question.member, |member| member.0) else {
                continue;
            };
            // A member's fragments are spread evenly over all buckets.
            let users = fragments * question.buckets.len() as u64 / Bucket::COUNT as u64;
            let bytes = FRAME + users * USER;
            let asked = busy[at] + cpu.ask;
            let on_wire = hardware.network.latency + bytes * SECOND / hardware.network.bytes_per_second;
            busy[peer] = busy[peer].max(asked + hardware.network.latency) + cpu.answer + users * LISTED;
            busy[at] = asked;
            let answered = busy[peer] + on_wire + users * LISTED;
            rebuilt.took = rebuilt.took.max(answered);
            rebuilt.users += users;
            if peer != at {
                calls[at] += 1;
                calls[peer] += 1;
                rebuilt.calls += 1;
            }
        }
    }
    rebuilt.most_calls = calls.into_iter().max().unwrap_or_default();
    rebuilt
}
