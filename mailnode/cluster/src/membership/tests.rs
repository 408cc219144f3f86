//! A small deterministic world: machines, a network with delay and loss, a Lease service with compare-and-set.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

const MS: fn(u64) -> Duration = Duration::from_millis;
const STEP: u64 = 10;

fn timing() -> Timing {
    Timing { replace_after: Duration::from_secs(60), ..Timing::default() }
}

struct Random(u64);
impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

enum Message {
    Probe,
    Answer,
    NoAnswer,
    Report(NodeId),
    View { view: View, root: NodeId },
}

struct Machine {
    name: String,
    incarnation: Incarnation,
    core: Membership,
    up: bool,
    next_renewal: u64,
    holds: Option<u64>,
    avoided: BTreeSet<NodeId>,
    isolated: bool,
    draining: bool,
    probes: u64,
}

struct World {
    now: u64,
    random: Random,
    loss_per_mille: u64,
    delay: u64,
    machines: BTreeMap<NodeId, Machine>,
    /// By (due, number): (to, from, message).
    messages: BTreeMap<(u64, u64), (NodeId, NodeId, Message)>,
    sent: u64,
    views_sent: BTreeMap<NodeId, usize>,
    /// The time-out of each probe under way.
    timeouts: BTreeMap<(NodeId, NodeId), (u64, u64)>,
    leases: BTreeMap<String, (ObservedLease, u64)>,
    coordinator: (Option<NodeId>, u64, View),
    lease_service: bool,
    /// A dead machine's system refuses connections at once.
    refuses: bool,
    /// Pairs that cannot talk.
    cut: BTreeSet<(NodeId, NodeId)>,
}

impl World {
    fn new(names: &[&str]) -> Self {
        let mut world = World {
            now: 0,
            random: Random(7),
            loss_per_mille: 0,
            delay: 1,
            machines: BTreeMap::new(),
            messages: BTreeMap::new(),
            sent: 0,
            views_sent: BTreeMap::new(),
            timeouts: BTreeMap::new(),
            leases: BTreeMap::new(),
            coordinator: (None, 0, View::default()),
            lease_service: true,
            refuses: false,
            cut: BTreeSet::new(),
        };
        for name in names {
            world.boot(name);
        }
        world
    }

    /// A node starts, and remembers the view of its last life.
    fn boot(&mut self, name: &str) {
        let id = NodeId::of_name(name);
        let remembered =
            self.machines.get(&id).map(|machine| machine.core.view().clone()).unwrap_or_default();
        let machine = Machine {
            name: name.to_owned(),
            incarnation: Incarnation(self.now + 1),
            core: Membership::new(id, timing(), MS(self.now), remembered),
            up: true,
            next_renewal: self.now + self.random.below(1000),
            holds: None,
            avoided: BTreeSet::new(),
            isolated: false,
            draining: false,
            probes: 0,
        };
        self.machines.insert(id, machine);
        self.renew(id);
    }

    fn renew(&mut self, id: NodeId) -> bool {
        let Some(machine) = self.machines.get_mut(&id) else { return false };
        machine.next_renewal = self.now + 1000;
        if !self.lease_service {
            return false;
        }
        let lease = ObservedLease {
            name: machine.name.clone(),
            incarnation: machine.incarnation,
            addresses: Addresses::default(),
            zone: None,
            draining: machine.draining,
            expired: false,
        };
        self.leases.insert(machine.name.clone(), (lease, self.now));
        true
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let lost = self.random.below(1000) < self.loss_per_mille
            || self.cut.contains(&(from, to))
            || self.cut.contains(&(to, from));
        if !lost {
            let due = self.now + self.delay + self.random.below(self.delay + 1);
            self.queue(due, to, from, message);
        }
    }

    fn queue(&mut self, due: u64, to: NodeId, from: NodeId, message: Message) -> (u64, u64) {
        self.sent += 1;
        self.messages.insert((due, self.sent), (to, from, message));
        (due, self.sent)
    }

    fn event(&mut self, id: NodeId, event: Event) {
        let now = MS(self.now);
        let Some(machine) = self.machines.get_mut(&id).filter(|machine| machine.up) else { return };
        let effects = machine.core.handle(now, event);
        for effect in effects {
            self.carry_out(id, effect);
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Probe(to) => {
                if let Some(machine) = self.machines.get_mut(&id) {
                    machine.probes += 1;
                }
                self.send(id, to, Message::Probe);
                let timeout = self.queue(self.now + 250, id, to, Message::NoAnswer);
                self.timeouts.insert((id, to), timeout);
            }
            Effect::Report { to, about } => self.send(id, to, Message::Report(about)),
            Effect::TakeCoordination => {
                let (holder, renewed, _) = &self.coordinator;
                if self.lease_service && (holder.is_none() || self.now > renewed + 2000) {
                    self.coordinator.0 = Some(id);
                    self.coordinator.1 = self.now;
                    if let Some(machine) = self.machines.get_mut(&id) {
                        machine.holds = Some(self.now);
                    }
                }
            }
            Effect::Publish(view) => {
                if self.lease_service
                    && self.coordinator.0 == Some(id)
                    && view.epoch > self.coordinator.2.epoch
                {
                    self.coordinator.2 = view.clone();
                    self.coordinator.1 = self.now;
                    self.event(id, Event::Published(view));
                } else {
                    self.event(id, Event::PublishFailed);
                }
            }
            Effect::Push { view, root, to } => {
                for to in to {
                    *self.views_sent.entry(id).or_default() += 1;
                    self.send(id, to, Message::View { view: view.clone(), root });
                }
            }
            Effect::Install(_) => {}
            Effect::Avoid(peer, avoided) => {
                let Some(machine) = self.machines.get_mut(&id) else { return };
                if avoided {
                    machine.avoided.insert(peer);
                } else {
                    machine.avoided.remove(&peer);
                }
            }
            Effect::Isolated(isolated) => {
                if let Some(machine) = self.machines.get_mut(&id) {
                    machine.isolated = isolated;
                }
            }
        }
    }

    fn deliver(&mut self, to: NodeId, from: NodeId, message: Message) {
        if !self.machines.get(&to).is_some_and(|machine| machine.up) {
            let probe = matches!(message, Message::Probe) && self.refuses;
            if let Some(timeout) = self.timeouts.remove(&(from, to)).filter(|_| probe) {
                self.messages.remove(&timeout);
                self.event(from, Event::ProbeFailed(to));
            }
            return;
        }
        match message {
            Message::Probe => self.send(to, from, Message::Answer),
            Message::Answer => {
                // The first of answer and time-out counts, as for a call with a deadline.
                if let Some(timeout) = self.timeouts.remove(&(to, from)) {
                    self.messages.remove(&timeout);
                    self.event(to, Event::ProbeAnswered(from));
                }
            }
            Message::NoAnswer => {
                self.timeouts.remove(&(to, from));
                self.event(to, Event::ProbeFailed(from));
            }
            Message::Report(about) => self.event(to, Event::Suspected(about)),
            Message::View { view, root } => self.event(to, Event::ViewReceived { view, root: Some(root) }),
        }
    }

    /// What the driver does: look at the Leases every 300 ms, renew, tick.
    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        while let Some(first) = self.messages.first_entry().filter(|first| first.key().0 <= now) {
            let (to, from, message) = first.remove();
            self.deliver(to, from, message);
        }
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        for (at, id) in ids.into_iter().enumerate() {
            if !self.machines[&id].up {
                continue;
            }
            if self.machines[&id].next_renewal <= now && self.renew(id) {
                self.event(id, Event::Renewed);
            }
            if (now / STEP + at as u64).is_multiple_of(30) && self.lease_service {
                let expired = |renewed: u64| now > renewed + 3000;
                let leases = self
                    .leases
                    .values()
                    .map(|(lease, renewed)| ObservedLease { expired: expired(*renewed), ..lease.clone() });
                let leases: Vec<ObservedLease> = leases.collect();
                self.event(id, Event::Leases(leases));
                let (holder, renewed, view) = self.coordinator.clone();
                let ours = holder == Some(id);
                if ours {
                    self.coordinator.1 = now;
                }
                let vacant = holder.is_none() || now > renewed + 2000;
                self.event(id, Event::Coordinator { holder, ours, vacant, view });
            }
            if (now / STEP + at as u64).is_multiple_of(5) {
                self.event(id, Event::Tick);
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until the condition holds; the time it took.
    fn until(&mut self, limit: u64, condition: impl Fn(&World) -> bool) -> u64 {
        let begun = self.now;
        while !condition(self) {
            assert!(self.now - begun < limit, "not within {limit} ms");
            self.step();
        }
        self.now - begun
    }

    fn kill(&mut self, id: NodeId) {
        self.machines.get_mut(&id).unwrap().up = false;
    }

    fn up(&self) -> impl Iterator<Item = (&NodeId, &Machine)> {
        self.machines.iter().filter(|(_, machine)| machine.up)
    }

    fn agree_on(&self, active: &[NodeId]) -> bool {
        let wanted: BTreeSet<NodeId> = active.iter().copied().collect();
        self.up().all(|(_, machine)| {
            let seen: BTreeSet<NodeId> = machine.core.view().active().map(|member| member.id).collect();
            seen == wanted
        })
    }

    fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }
}

fn formed(names: &[&str]) -> World {
    let mut world = World::new(names);
    let ids = world.ids();
    let took = world.until(5_000, |world| world.agree_on(&ids));
    assert!(took < 2_000, "{took} ms to form");
    world.run(2_000);
    world
}

/// Ends on purpose: its Lease is taken away.
fn leave(world: &mut World, id: NodeId) {
    world.kill(id);
    let name = world.machines[&id].name.clone();
    world.leases.remove(&name);
}

/// It drains, and all know.
fn drain(world: &mut World, id: NodeId) {
    world.machines.get_mut(&id).unwrap().draining = true;
    let others = without(world, &[id]);
    world.until(5_000, |world| world.agree_on(&others));
}

fn without(world: &World, gone: &[NodeId]) -> Vec<NodeId> {
    world.ids().into_iter().filter(|id| !gone.contains(id)).collect()
}

#[test]
fn nodes_find_each_other_and_agree() {
    let world = formed(&["a", "b", "c", "d", "e"]);
    let epochs: BTreeSet<_> = world.machines.values().map(|machine| machine.core.view().epoch).collect();
    assert_eq!(epochs.len(), 1);
}

#[test]
fn a_killed_node_is_avoided_within_a_second_and_out_within_three() {
    let mut world = formed(&["a", "b", "c", "d", "e"]);
    let coordinator = world.coordinator.0.unwrap();
    let victim = *world.ids().iter().find(|id| **id != coordinator).unwrap();
    world.kill(victim);
    let avoided =
        world.until(2_000, |world| world.up().any(|(_, machine)| machine.avoided.contains(&victim)));
    assert!(avoided <= 1_000, "{avoided} ms");
    let left = without(&world, &[victim]);
    let out = avoided + world.until(5_000, |world| world.agree_on(&left));
    assert!(out <= 3_000, "{out} ms");
    let dead = world.up().all(|(_, machine)| {
        machine.core.view().member(victim).is_some_and(|member| member.state == MemberState::Dead)
    });
    assert!(dead, "it is remembered, so that updates are kept for it");
}

#[test]
fn in_a_large_cluster_news_of_a_dead_node_travel_along_a_tree_and_also_past_a_second_one_that_died_with_it() {
    let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    let mut world = formed(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let coordinator = world.coordinator.0.unwrap();
    let told = tree::children(world.ids(), coordinator, coordinator);
    let inner = *told.iter().find(|&&id| !tree::children(world.ids(), coordinator, id).is_empty()).unwrap();
    let leaf = *world.ids().iter().rfind(|&&id| id != coordinator && !told.contains(&id)).unwrap();
    world.views_sent.clear();
    let before = world.machines[&coordinator].core.view().epoch;
    world.kill(leaf);
    world.until(5_000, |world| world.machines[&coordinator].core.view().epoch > before);
    // It has not been missed yet, and should pass the news on.
    world.kill(inner);
    let left = without(&world, &[leaf, inner]);
    let out = world.until(8_000, |world| world.agree_on(&left));
    assert!(out <= 4_000, "{out} ms");
    let views = world.machines[&coordinator].core.view().epoch.0 - before.0;
    let most = world.views_sent.values().copied().max().unwrap();
    assert!(most as u64 <= views * tree::FAN_OUT as u64, "{most} in {views} views");
}

#[test]
fn a_killed_coordinator_is_replaced_and_out_within_three_seconds() {
    let mut world = formed(&["a", "b", "c", "d"]);
    let victim = world.coordinator.0.unwrap();
    world.kill(victim);
    let left = without(&world, &[victim]);
    let out = world.until(8_000, |world| world.agree_on(&left));
    assert!(out <= 3_000, "{out} ms");
}

#[test]
fn a_coordinator_whose_lease_ran_out_and_that_answers_stays() {
    let ids = [1, 2, 3, 4, 5].map(NodeId);
    let (a, b, c) = (ids[0], ids[1], ids[4]);
    let mut member = Membership::new(a, timing(), MS(0), View::default());
    let member_of = |id| Member {
        id,
        name: format!("{id}"),
        addresses: Addresses::default(),
        zone: None,
        state: MemberState::Active,
        incarnation: Incarnation(1),
    };
    let view = View::new(Epoch(1), ids.map(member_of).to_vec());
    let look = |holder, vacant| Event::Coordinator {
        holder: Some(holder),
        ours: false,
        vacant,
        view: View::default(),
    };
    member.handle(MS(0), Event::ViewReceived { view, root: None });
    member.handle(MS(10), look(c, false));
    let effects = member.handle(MS(2_000), look(c, true));
    assert!(effects.contains(&Effect::Probe(c)), "{effects:?}");
    assert_eq!(member.lapsed, Some(c));
    member.handle(MS(2_010), Event::ProbeFailed(c));
    member.handle(MS(2_020), Event::ProbeAnswered(c));
    assert_eq!(member.lapsed, None);
    member.handle(MS(2_030), look(c, true));
    assert_eq!(member.lapsed, Some(c));
    member.handle(MS(2_040), look(c, false));
    assert_eq!(member.lapsed, None, "it renewed");
    member.handle(MS(4_000), look(c, true));
    member.handle(MS(4_010), look(b, false));
    assert_eq!(member.lapsed, Some(c), "somebody took it over");
}

#[test]
fn two_killed_at_once_are_out_and_a_failed_operation_avoids_at_once() {
    let mut world = formed(&["a", "b", "c", "d", "e"]);
    let coordinator = world.coordinator.0.unwrap();
    let victims: Vec<NodeId> = world.ids().into_iter().filter(|id| *id != coordinator).take(2).collect();
    victims.iter().for_each(|&victim| world.kill(victim));
    world.event(coordinator, Event::OperationFailed(victims[0]));
    assert!(world.machines[&coordinator].avoided.contains(&victims[0]));
    let left = without(&world, &victims);
    assert!(world.until(8_000, |world| world.agree_on(&left)) <= 4_000);
}

#[test]
fn a_restarted_node_is_back_with_its_new_life_and_no_longer_avoided() {
    let mut world = formed(&["a", "b", "c"]);
    let coordinator = world.coordinator.0.unwrap();
    let victim = *world.ids().iter().find(|id| **id != coordinator).unwrap();
    let name = world.machines[&victim].name.clone();
    world.kill(victim);
    let left = without(&world, &[victim]);
    world.until(8_000, |world| world.agree_on(&left));
    world.boot(&name);
    let all = world.ids();
    assert!(world.until(8_000, |world| world.agree_on(&all)) <= 2_000);
    world.run(1_000);
    assert!(world.machines.values().all(|machine| machine.avoided.is_empty()));
    // And without having been missed at all: killed and back before anybody noticed.
    world.kill(victim);
    world.boot(&name);
    let life = world.machines[&victim].incarnation;
    world.until(5_000, |world| {
        world.machines.values().all(|machine| {
            machine.core.view().member(victim).is_some_and(|member| member.incarnation == life)
        })
    });
}

#[test]
fn a_node_that_stopped_on_purpose_is_not_avoided_after_its_return_whoever_asked_it_meanwhile() {
    let mut world = formed(&["a", "b", "c", "d"]);
    let ids = world.ids();
    for victim in ids.clone() {
        let name = world.machines[&victim].name.clone();
        world.kill(victim);
        world.leases.remove(&name);
        world.run(4_000);
        for asking in ids.iter().filter(|id| **id != victim) {
            world.event(*asking, Event::OperationFailed(victim));
        }
        world.run(1_000);
        world.boot(&name);
        world.run(4_000);
        assert!(world.agree_on(&ids));
        let avoided: Vec<_> = world.up().flat_map(|(_, machine)| machine.avoided.iter()).collect();
        assert_eq!(avoided, Vec::<&NodeId>::new(), "{victim} has returned");
    }
}

#[test]
fn with_the_lease_service_away_nobody_is_expelled_and_a_dead_peer_is_avoided() {
    let mut world = formed(&["a", "b", "c", "d"]);
    world.lease_service = false;
    world.run(60_000);
    let all = world.ids();
    assert!(world.agree_on(&all));
    assert!(world.machines.values().all(|machine| !machine.isolated));
    let victim = all[0];
    world.kill(victim);
    world.run(600_000);
    assert!(world.agree_on(&all), "nothing can be published");
    assert!(world.up().any(|(_, machine)| machine.avoided.contains(&victim)));
    world.lease_service = true;
    let left = without(&world, &[victim]);
    world.until(20_000, |world| world.agree_on(&left));
}

#[test]
fn the_side_without_the_coordinator_keeps_its_view_knows_it_is_cut_off_and_comes_back() {
    let mut world = formed(&["a", "b", "c", "d", "e"]);
    let coordinator = world.coordinator.0.unwrap();
    let alone = *world.ids().iter().find(|id| **id != coordinator).unwrap();
    for other in world.ids() {
        world.cut.insert((alone, other));
    }
    // Cut off from its peers and (it renews nothing) from the Lease service.
    world.machines.get_mut(&alone).unwrap().next_renewal = u64::MAX;
    world.run(8_000);
    let left = without(&world, &[alone]);
    let others_agree = left.iter().all(|id| world.machines[id].core.view().active().count() == 4);
    assert!(others_agree);
    assert!(world.machines[&alone].isolated);
    world.cut.clear();
    world.machines.get_mut(&alone).unwrap().next_renewal = world.now;
    let all = world.ids();
    world.until(8_000, |world| world.agree_on(&all));
    world.run(1_000);
    assert!(!world.machines[&alone].isolated);
}

#[test]
fn a_hundred_nodes_with_a_percent_of_loss_lose_no_member_in_two_minutes() {
    let names: Vec<String> = (0..100).map(|n| format!("node-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::new(&names);
    let ids = world.ids();
    world.until(20_000, |world| world.agree_on(&ids));
    world.run(2_000);
    let epoch = world.coordinator.2.epoch;
    world.loss_per_mille = 10;
    let probes: u64 = world.machines.values().map(|machine| machine.probes).sum();
    world.run(120_000);
    assert_eq!(world.coordinator.2.epoch, epoch);
    let probed: u64 = world.machines.values().map(|machine| machine.probes).sum::<u64>() - probes;
    let each = probed as f64 / 100.0 / 120.0;
    assert!(each < 9.0, "{each} probes a second a node, whatever the size");
}

#[test]
fn a_slow_node_is_not_expelled() {
    let mut world = formed(&["a", "b", "c", "d"]);
    let epoch = world.coordinator.2.epoch;
    world.delay = 60;
    world.run(60_000);
    assert_eq!(world.coordinator.2.epoch, epoch);
}

#[test]
fn an_old_view_is_ignored() {
    let mut world = formed(&["a", "b", "c"]);
    let id = world.ids()[0];
    let before = world.machines[&id].core.view().clone();
    world.event(id, Event::ViewReceived { view: View::new(Epoch(1), Vec::new()), root: None });
    assert_eq!(*world.machines[&id].core.view(), before);
}

#[test]
fn after_a_restart_of_all_with_the_leases_lost_epochs_go_on_and_a_member_that_is_away_is_remembered() {
    let mut world = formed(&["a", "b", "c"]);
    let epoch = world.coordinator.2.epoch;
    world.ids().into_iter().for_each(|id| world.kill(id));
    world.run(5_000);
    world.leases.clear();
    world.coordinator = (None, world.now, View::default());
    world.boot("a");
    let first = NodeId::of_name("a");
    world.until(8_000, |world| world.machines[&first].core.view().epoch > epoch);
    let states: Vec<MemberState> =
        world.machines[&first].core.view().members.iter().map(|member| member.state).collect();
    assert_eq!(states.len(), 3, "b and c are not forgotten");
    world.boot("b");
    world.boot("c");
    let all = world.ids();
    world.until(8_000, |world| world.agree_on(&all));
}

#[test]
fn a_node_restarted_while_the_lease_service_is_away_goes_by_the_view_it_remembers() {
    let mut world = formed(&["a", "b", "c"]);
    world.lease_service = false;
    let id = world.ids()[1];
    let name = world.machines[&id].name.clone();
    world.kill(id);
    world.run(1_000);
    world.boot(&name);
    let all = world.ids();
    world.until(4_000, |world| world.agree_on(&all));
}

#[test]
fn a_member_dead_for_replace_after_leaves_the_view_for_good_and_may_join_again() {
    let mut world = formed(&["a", "b", "c", "d"]);
    let coordinator = world.coordinator.0.unwrap();
    let victim = *world.ids().iter().find(|id| **id != coordinator).unwrap();
    let name = world.machines[&victim].name.clone();
    world.kill(victim);
    let known = |world: &World| world.machines[&coordinator].core.view().member(victim).is_some();
    world.run(55_000);
    assert!(known(&world), "it may yet return");
    world.run(12_000);
    assert!(world.up().all(|(_, machine)| machine.core.view().member(victim).is_none()));
    world.boot(&name);
    let all = world.ids();
    world.until(8_000, |world| world.agree_on(&all));
}

#[test]
fn a_new_coordinator_goes_on_counting_and_a_return_ends_it() {
    let mut world = formed(&["a", "b", "c", "d", "e"]);
    let coordinator = world.coordinator.0.unwrap();
    let others: Vec<NodeId> = world.ids().into_iter().filter(|id| *id != coordinator).collect();
    let (lost, back) = (others[0], others[1]);
    let name = world.machines[&back].name.clone();
    world.kill(lost);
    world.kill(back);
    world.run(45_000);
    world.kill(coordinator);
    world.boot(&name);
    world.run(22_000);
    let left = world.machines[&others[2]].core.view().clone();
    assert!(left.member(lost).is_none());
    assert!(left.member(coordinator).is_some_and(|member| member.state == MemberState::Dead));
    assert!(left.active().any(|member| member.id == back));
}

#[test]
fn in_an_outage_of_most_members_nobody_is_replaced() {
    let mut world = formed(&["a", "b", "c"]);
    let coordinator = world.coordinator.0.unwrap();
    for id in world.ids() {
        if id != coordinator {
            world.kill(id);
        }
    }
    world.run(80_000);
    assert_eq!(world.machines[&coordinator].core.view().members.len(), 3);
}

#[test]
fn a_node_whose_death_is_known_at_once_does_not_flap() {
    let mut world = formed(&["a", "b", "c", "d"]);
    world.refuses = true;
    let coordinator = world.coordinator.0.unwrap();
    let victim = *world.ids().iter().find(|id| **id != coordinator).unwrap();
    let epoch = world.coordinator.2.epoch;
    world.kill(victim);
    world.run(10_000);
    assert_eq!(world.coordinator.2.epoch, epoch.next(), "one view without it, and no more");
}

#[test]
fn a_drained_node_that_ends_leaves_the_view_at_once() {
    let mut world = formed(&["a", "b", "c", "d"]);
    let drained = without(&world, &[world.coordinator.0.unwrap()])[0];
    drain(&mut world, drained);
    leave(&mut world, drained);
    let took = world
        .until(10_000, |world| world.up().all(|(_, machine)| machine.core.view().member(drained).is_none()));
    assert!(took < 3_000, "{took} ms");
}

#[test]
fn a_drained_node_whose_lease_outlives_it_leaves_the_view_when_the_lease_goes() {
    let mut world = formed(&["a", "b", "c", "d"]);
    let drained = without(&world, &[world.coordinator.0.unwrap()])[0];
    drain(&mut world, drained);
    world.kill(drained);
    world.run(5_000);
    assert_eq!(world.coordinator.2.member(drained).map(|member| member.state), Some(MemberState::Dead));
    leave(&mut world, drained);
    let took = world
        .until(10_000, |world| world.up().all(|(_, machine)| machine.core.view().member(drained).is_none()));
    assert!(took < 1_000, "{took} ms");
}

#[test]
fn a_draining_node_that_is_killed_is_kept_in_mind_and_so_is_an_active_one_that_ends() {
    let mut world = formed(&["a", "b", "c", "d", "e"]);
    let [killed, ended] = without(&world, &[world.coordinator.0.unwrap()])[..2] else { panic!() };
    drain(&mut world, killed);
    world.kill(killed);
    leave(&mut world, ended);
    world.run(10_000);
    let dead = |world: &World, id| {
        world.up().all(|(_, machine)| {
            machine.core.view().member(id).is_some_and(|member| member.state == MemberState::Dead)
        })
    };
    assert!(dead(&world, killed) && dead(&world, ended));
}
