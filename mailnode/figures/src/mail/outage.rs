//! Machines that die and return: who notices what when, and what the update log does (DESIGN 4, 5).
//!
//! A machine dies as if its power was cut: nobody refuses a connection, calls are just not answered. A caller gives up
//! when its own membership core avoids the peer, or at the call's deadline, as `mailnode/src/node.rs` does.

use super::delivery::{MANAGER_DEADLINE, STORE_DEADLINE};
use super::job::{Asked, Job, JobId, Kind, Step};
use super::machine::Request;
use super::{Event, Message, Simulation, Waiter, candidates};
use crate::hardware::{ENTRY, FRAME};
use crate::{MICROSECOND, MILLISECOND, SECOND, Time};
use cluster::{Bucket, Load, NodeId, UserMap};
use std::rc::Rc;
use std::time::Duration;

/// As in `mailnode/src/replication.rs`.
pub(super) const REDELIVER_EVERY: Time = 500 * MILLISECOND;
/// Entries of one call (`mailnode/src/wire.rs`).
const PAGE: u64 = 2_000;
/// How often calls to machines that died are looked at.
const CHECK: Time = 50 * MILLISECOND;
/// So long after the last death calls may still be open.
const AFTERMATH: Time = 20 * SECOND;
/// Clients notice that their machine has died, and go to another.
const RECONNECT: Time = SECOND;
/// Processor time for one user in a list of a bucket's users, at either end (soft-state reconstruction).
const LISTED: Time = 2 * MICROSECOND;

impl Simulation {
    pub(super) fn avoids(&self, at: usize, peer: usize) -> bool {
        let id = self.machines[peer].id;
        self.members.as_ref().is_some_and(|members| members.avoids(at, id))
    }

    /// In the view, and not avoided.
    pub(super) fn can_use(&self, at: usize, peer: usize) -> bool {
        let machine = &self.machines[at];
        machine.find(peer, self.ids[peer]).is_some_and(|found| !machine.peers[found].avoided)
    }

    pub(super) fn die(&mut self) {
        let wanted = self.settings.outage.map_or(0, |outage| outage.machines);
        while self.dead.len() < wanted {
            let at = self.dice.below(self.machines.len() as u64) as usize;
            if !self.dead.contains(&at) {
                self.dead.push(at);
                self.machines[at].die();
                if let Some(members) = &mut self.members {
                    members.kill(at);
                }
            }
        }
        for id in self.jobs.ids() {
            let Some(job) = self.jobs.job(id) else { continue };
            if self.dead.contains(&job.front) {
                self.lose(id);
            }
        }
        self.queue.push(self.now + CHECK, Event::Check);
    }

    /// The client's machine has died.
    fn lose(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(id) else { return };
        if let Kind::Retrieval(retrieval) = job.kind {
            self.mailboxes[job.user].mails.extend(retrieval.mails);
        }
        self.report.failed += 1;
        self.again(job.connection, self.now + RECONNECT);
    }

    pub(super) fn come_back(&mut self) {
        for at in std::mem::take(&mut self.dead) {
            self.machines[at].start(self.now);
            // It knows nobody until it has a view.
            self.machines[at].peers.clear();
            if let Some(members) = &mut self.members {
                members.boot(at);
            }
        }
        self.follow_views();
    }

    /// Takes over what membership cores have installed.
    pub(super) fn follow_views(&mut self) {
        let Some(mut members) = self.members.take() else { return };
        for at in members.changes() {
            if !self.machines[at].up {
                continue;
            }
            let view = members.view(at).clone();
            let active: Vec<NodeId> = view.active().map(|member| member.id).collect();
            if view.epoch.0 > 0 && active != self.active_at(at) {
                let map =
                    self.by_epoch.entry(view.epoch).or_insert_with(|| Rc::new(UserMap::new(&view))).clone();
                self.install(at, &active, map);
            }
            for peer in &mut self.machines[at].peers {
                peer.avoided = members.avoids(at, peer.node);
            }
        }
        self.members = Some(members);
    }

    fn active_at(&self, at: usize) -> Vec<NodeId> {
        self.machines[at].peers.iter().map(|peer| peer.node).collect()
    }

    fn install(&mut self, at: usize, active: &[NodeId], map: Rc<UserMap>) {
        let mut peers = candidates(active);
        for peer in &mut peers {
            let known = &self.machines[at].peers;
            let load =
                known.binary_search_by_key(&peer.node, |known| known.node).map(|found| known[found].load);
            peer.load = load.unwrap_or_else(|_| Load::default());
        }
        let fresh = self.machines[at].peers.is_empty();
        self.machines[at].peers = peers;
        let before = std::mem::replace(&mut self.maps[at], map);
        let me = self.machines[at].id;
        let gained: Vec<Bucket> = self.maps[at]
            .buckets_of(me)
            .filter(|&bucket| fresh || before.manager(bucket) != Some(me))
            .collect();
        self.reconstruct(at, &gained);
    }

    /// A manager asks everybody for the users of the buckets that it gained; until it knows, it answers nobody about
    /// them.
    fn reconstruct(&mut self, at: usize, gained: &[Bucket]) {
        if gained.is_empty() {
            return;
        }
        let latency = self.settings.hardware.network.latency;
        let (ask, answer) = (self.settings.hardware.processor.ask, self.settings.hardware.processor.answer);
        let share = gained.len() as f64 / Bucket::COUNT as f64;
        let peers: Vec<usize> = self.active_at(at).into_iter().map(|node| self.index_of(node)).collect();
        let held = self.mailboxes.len() as f64 * self.settings.copies as f64 / peers.len().max(1) as f64;
        let users = (held * share) as Time;
        let mut ready = self.now;
        for peer in peers {
            let asked = self.machines[at].work(self.now, ask);
            if self.machines[peer].up {
                let listed = self.machines[peer].work(asked + latency, answer + users * LISTED);
                ready = ready.max(self.machines[at].work(listed + latency, users * LISTED));
            } else {
                ready = ready.max(self.now + MANAGER_DEADLINE);
            }
        }
        for &bucket in gained {
            self.ready.insert((at, bucket), ready);
        }
    }

    /// Calls to machines that died end when their caller knows, or at their deadline.
    pub(super) fn check(&mut self) {
        for id in self.jobs.ids() {
            self.check_job(id);
        }
        let last = self.settings.outage.map_or(0, |outage| outage.to) + AFTERMATH;
        if self.now < last {
            self.queue.push(self.now + CHECK, Event::Check);
        }
    }

    fn gone(&self, asked: Asked) -> bool {
        !self.lives(asked.node, asked.life)
    }

    /// True if `at` gives the call up now. At a deadline its membership is told.
    fn gives_up(&mut self, at: usize, asked: Asked, deadline: Time) -> bool {
        let late = self.now - asked.since >= deadline;
        if late && let Some(members) = &mut self.members {
            let peer = self.machines[asked.node].id;
            members.operation_failed(at, peer);
        }
        late || self.avoids(at, asked.node) || !self.can_use(at, asked.node)
    }

    fn check_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.job(id) else { return };
        let front = job.front;
        match &job.kind {
            Kind::Delivery(delivery) => {
                let manager = delivery.manager;
                let calls: Vec<(u8, Asked)> =
                    delivery.calls.iter().enumerate().map(|(at, call)| (at as u8, call.1)).collect();
                if let Some(asked) = manager.filter(|&asked| self.gone(asked))
                    && self.gives_up(front, asked, MANAGER_DEADLINE)
                {
                    if let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) {
                        delivery.manager = None;
                        delivery.tried.push(asked.node);
                        // After three nodes begin with the first again.
                        if delivery.tried.len() >= 3 {
                            delivery.tried.clear();
                        }
                    }
                    self.verify(id);
                }
                for (call, asked) in calls {
                    if self.gone(asked) && self.gives_up(front, asked, STORE_DEADLINE) {
                        self.call_failed(id, call);
                    }
                }
            }
            Kind::Retrieval(retrieval) => {
                let (manager, step) = (retrieval.manager, retrieval.step);
                let asker = if step == Step::Bodies { front } else { manager.node };
                let open: Vec<Asked> =
                    retrieval.parts.iter().filter(|part| !part.answered).map(|part| part.asked).collect();
                let stuck = |me: &mut Self, at: usize, asked: Asked| {
                    me.gone(asked) && me.gives_up(at, asked, MANAGER_DEADLINE)
                };
                if stuck(self, front, manager) || open.into_iter().any(|asked| stuck(self, asker, asked)) {
                    self.abort_retrieval(id);
                }
            }
        }
    }

    /// The loop of `mailnode/src/replication.rs` over the update log.
    pub(super) fn redeliver(&mut self, at: usize) {
        self.queue.push(self.now + REDELIVER_EVERY, Event::Redeliver { node: at as u16 });
        if !self.machines[at].up {
            return;
        }
        let peers: Vec<usize> = self.machines[at].log.keys().copied().collect();
        let now = Duration::from_nanos(self.now);
        for peer in peers {
            let id = self.machines[peer].id;
            if self.machines[at].pushing.get(&peer).is_some_and(|&life| !self.lives(peer, life)) {
                self.machines[at].pushing.remove(&peer);
                self.machines[at].redelivery.failed(id, now);
            }
            let reachable = self.can_use(at, peer);
            if self.machines[at].redelivery.begin(id, reachable, now) {
                self.push_page(at, peer);
            }
        }
    }

    fn push_page(&mut self, at: usize, peer: usize) {
        let rows = self.machines[at].log.get(&peer).copied().unwrap_or_default().min(PAGE);
        if rows == 0 {
            let id = self.machines[peer].id;
            self.machines[at].log.remove(&peer);
            self.machines[at].pushing.remove(&peer);
            self.machines[at].redelivery.succeeded(id);
            return;
        }
        let life = self.machines[peer].life;
        self.machines[at].pushing.insert(peer, life);
        let cpu = self.settings.hardware.processor;
        let ready = self.machines[at].work(self.now, cpu.ask + cpu.entry * rows);
        self.send(at, peer, ready, FRAME + rows * ENTRY, Message::Redelivery { rows: rows as u32 });
    }

    pub(super) fn redelivery_at(&mut self, at: usize, from: usize, rows: u32) {
        let done = self.serve(at, from, self.settings.hardware.processor.entry * Time::from(rows));
        let life = self.machines[at].life;
        let request = Request {
            waiter: Waiter::Redelivery { from: from as u16, rows },
            bytes: u64::from(rows) * ENTRY,
        };
        self.queue.push(done, Event::Commit { node: at as u16, life, request });
    }

    pub(super) fn redelivered(&mut self, at: usize, peer: usize, rows: u32) {
        if let Some(left) = self.machines[at].log.get_mut(&peer) {
            *left = left.saturating_sub(rows.into());
        }
        self.report.redelivered += u64::from(rows);
        self.report.redelivered_at = self.now;
        self.push_page(at, peer);
    }
}
