//! The way of a new message (DESIGN 2).

use super::job::{Asked, Delivery, Job, JobId, Kind};
use super::machine::Request;
use super::{Event, Mail, Message, Simulation, Waiter};
use crate::hardware::{ENTRY, FRAME};
use crate::{MILLISECOND, SECOND, Time, workload};
use cluster::{Candidate, NodeId, Policy, Progress, ReplicaWrite, StoreCall, placement};

/// As in `mailnode/src/delivery.rs`.
const SLOW: Time = 800 * MILLISECOND;
pub(super) const STORE_DEADLINE: Time = 15 * SECOND;
/// A manager that has not answered for so long will not (`mailnode/src/node.rs`).
pub(super) const MANAGER_DEADLINE: Time = 2 * SECOND;
/// So long a node waits for news when the manager says that it is none.
const CHANGE: Time = 50 * MILLISECOND;
/// A client whose message was refused for now comes again.
const CLIENT_RETRY: Time = SECOND;
/// Nodes that may stand in, so that memory is bounded.
const STAND_INS: usize = 16;

impl Simulation {
    pub(super) fn begin_delivery(&mut self, connection: usize, front: usize, user: usize) {
        let size = workload::size(&mut self.dice);
        let network = self.settings.hardware.network;
        let arrived = self.machines[front].receive(self.now, size.into(), network.bytes_per_second);
        let took = self.settings.hardware.processor.take;
        let taken = self.machines[front].work(arrived, took);
        let delivery = Delivery {
            size,
            manager: None,
            tried: Vec::new(),
            write: ReplicaWrite::new(1, 1, Vec::new()),
            calls: Vec::new(),
        };
        let kind = Kind::Delivery(delivery);
        let job = self.jobs.insert(Job { connection, front, user, began: self.now, kind });
        self.queue.push(taken, Event::Verify { job });
    }

    /// Asks the manager, or who stands in for it.
    pub(super) fn verify(&mut self, id: JobId) {
        let Some(job) = self.jobs.job(id) else { return };
        let (front, user) = (job.front, job.user);
        let Kind::Delivery(delivery) = &job.kind else { return };
        let tried = delivery.tried.clone();
        let first = self.manager_of(front, user);
        let node = if tried.is_empty() && !self.avoids(front, first) {
            first
        } else {
            let order = self.maps[front].order(self.mailboxes[user].bucket);
            let order = order.into_iter().map(|node| self.index_of(node));
            let mut usable = order.filter(|&node| !tried.contains(&node) && !self.avoids(front, node));
            usable.next().unwrap_or(first)
        };
        let asked = self.asked(node);
        if let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) {
            delivery.manager = Some(asked);
        }
        let at = self.ask(front, node);
        self.send(front, node, at, FRAME, Message::Verify { job: id, acting: node != first });
    }

    /// The cost of asking another node; when the question is ready to go.
    pub(super) fn ask(&mut self, from: usize, to: usize) -> Time {
        let took = self.settings.hardware.processor.ask;
        if from == to { self.now } else { self.machines[from].work(self.now, took) }
    }

    /// The cost of a question that came in, besides that of a call; when it is answered.
    pub(super) fn serve(&mut self, at: usize, from: usize, took: Time) -> Time {
        let call = if at == from { 0 } else { self.settings.hardware.processor.answer };
        self.machines[at].work(self.now, took + call)
    }

    pub(super) fn asked(&self, node: usize) -> Asked {
        Asked { node, life: self.machines[node].life, since: self.now }
    }

    pub(super) fn verify_at(&mut self, at: usize, from: usize, id: JobId, acting: bool) {
        let Some(user) = self.jobs.job(id).map(|job| job.user) else { return };
        let mut done = self.serve(at, from, self.settings.hardware.processor.verify);
        let manages = acting || self.manager_of(at, user) == at;
        if manages && let Some(&ready) = self.ready.get(&(at, self.mailboxes[user].bucket)) {
            done = done.max(ready);
        }
        self.send(at, from, done, FRAME, Message::Verified { job: id, manages });
    }

    pub(super) fn verified(&mut self, id: JobId, manages: bool) {
        let Some(job) = self.jobs.job(id) else { return };
        let (front, user) = (job.front, job.user);
        let Kind::Delivery(delivery) = &mut job.kind else { return };
        if delivery.manager.take().is_none() {
            return;
        }
        if !manages {
            self.queue.push(self.now + CHANGE, Event::Verify { job: id });
            return;
        }
        let copies = self.settings.copies;
        let mut order = self.place(front, user);
        order.truncate(STAND_INS.max(copies));
        if let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) {
            delivery.write = ReplicaWrite::new(copies, copies, vec![order]);
        }
        self.call_replicas(id);
    }

    /// The nodes to try for a new message of this user, best first.
    pub(super) fn place(&mut self, front: usize, user: usize) -> Vec<NodeId> {
        let (id, load) = (self.machines[front].id, self.machines[front].disk.load());
        self.machines[front].report(front, id, load);
        let random = self.dice.roll();
        let (policy, copies) = (self.settings.policy, self.settings.copies);
        let (peers, map) = (&self.machines[front].peers, &self.mailboxes[user].map);
        if policy == Policy::Static {
            // The only one for which the user's order matters.
            let order = self.maps[front].order(self.mailboxes[user].bucket);
            let candidate = |node: &NodeId| {
                peers.binary_search_by_key(node, |peer| peer.node).ok().map(|at| peers[at].clone())
            };
            let ordered: Vec<Candidate> = order.iter().filter_map(candidate).collect();
            return placement::choose(policy, copies, &ordered, map, random);
        }
        placement::choose(policy, copies, peers, map, random)
    }

    fn call_replicas(&mut self, id: JobId) {
        let Some(job) = self.jobs.job(id) else { return };
        let front = job.front;
        let Kind::Delivery(delivery) = &mut job.kind else { return };
        let (size, first) = (u64::from(delivery.size), delivery.calls.len());
        let calls: Vec<StoreCall> = delivery.write.next_calls();
        if first > 0 {
            self.report.replaced += calls.len() as u64;
        }
        for (at, call) in calls.into_iter().enumerate() {
            let node = self.index_of(call.node);
            let asked = self.asked(node);
            if let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) {
                delivery.calls.push((call, asked));
            }
            let call = (first + at) as u8;
            let ready = self.ask(front, node);
            self.send(front, node, ready, size + ENTRY, Message::Store { job: id, call });
            self.slow.push_back((self.now + SLOW, id, call));
        }
        self.decide(id);
    }

    pub(super) fn store_at(&mut self, at: usize, from: usize, job: JobId, call: u8) {
        let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(job) else { return };
        let bytes = u64::from(delivery.size) + ENTRY;
        let done = self.serve(at, from, self.settings.hardware.processor.store);
        let life = self.machines[at].life;
        let request = Request { waiter: Waiter::Store { job, call }, bytes };
        self.queue.push(done, Event::Commit { node: at as u16, life, request });
    }

    pub(super) fn copy_on_disk(&mut self, node: usize, id: JobId, call: u8) {
        let Some(job) = self.jobs.job(id) else { return };
        let (front, user) = (job.front, job.user);
        self.report.copies_by_machine[node] += 1;
        self.send(node, front, self.now, FRAME, Message::Stored { job: id, call });
        let manager = self.manager_of(node, user);
        let notice = Message::Notice { user: user as u32, holder: node as u16 };
        if manager == node {
            let holder = self.machines[node].id;
            self.mailboxes[user].map.add(holder);
        } else {
            let ready = self.machines[node].work(self.now, self.settings.hardware.processor.notice);
            self.send(node, manager, ready, FRAME + ENTRY, notice);
        }
    }

    pub(super) fn stored(&mut self, id: JobId, call: u8) {
        let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) else { return };
        if let Some((call, _)) = delivery.calls.get(usize::from(call)) {
            delivery.write.acked(call);
        }
        self.decide(id);
    }

    pub(super) fn call_is_slow(&mut self, id: JobId, call: u8) {
        let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) else { return };
        let Some((call, _)) = delivery.calls.get(usize::from(call)) else { return };
        delivery.write.slow(call);
        self.call_replicas(id);
    }

    pub(super) fn call_failed(&mut self, id: JobId, call: u8) {
        let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) else { return };
        let Some((call, _)) = delivery.calls.get(usize::from(call)) else { return };
        delivery.write.failed(call);
        self.call_replicas(id);
    }

    fn decide(&mut self, id: JobId) {
        let Some(Job { kind: Kind::Delivery(delivery), .. }) = self.jobs.job(id) else { return };
        let progress = delivery.write.progress(0);
        if progress == Progress::Pending {
            return;
        }
        let Some(job) = self.jobs.remove(id) else { return };
        let Kind::Delivery(delivery) = job.kind else { return };
        if progress == Progress::Impossible {
            self.report.failed += 1;
            self.again(job.connection, self.now + CLIENT_RETRY);
            return;
        }
        let holders = delivery.write.holders(0).into_iter().map(|node| self.index_of(node) as u16);
        let holders: Vec<u16> = holders.collect();
        for node in delivery.write.given_up(0) {
            let peer = self.index_of(node);
            for &holder in &holders {
                *self.machines[usize::from(holder)].log.entry(peer).or_default() += 1;
            }
        }
        self.report.deliver(job.began, self.now);
        self.keep(job.user, Mail { size: delivery.size, holders });
        self.again(job.connection, self.now);
    }
}
