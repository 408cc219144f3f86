//! A client that reads and deletes all its mail, as with POP3: log-in, list, all bodies, all deletions.

use super::job::{Job, JobId, Kind, Part, Retrieval, Step};
use super::machine::Request;
use super::{Event, Mail, Message, Simulation, Waiter};
use crate::hardware::{ENTRY, FRAME};
use crate::{MILLISECOND, Time};
use std::collections::BTreeMap;

/// A client whose session broke comes again.
const CLIENT_RETRY: Time = 100 * MILLISECOND;

impl Simulation {
    pub(super) fn begin_retrieval(&mut self, connection: usize, front: usize, user: usize) {
        let done = self.machines[front].work(self.now, self.settings.hardware.processor.login);
        let mut manager = self.manager_of(front, user);
        if self.avoids(front, manager) {
            let order = self.maps[front].order(self.mailboxes[user].bucket);
            let mut order = order.into_iter().map(|node| self.index_of(node));
            manager = order.find(|&node| !self.avoids(front, node)).unwrap_or(manager);
        }
        let retrieval = Retrieval {
            manager: self.asked(manager),
            step: Step::Fragments,
            parts: Vec::new(),
            open: 0,
            mails: Vec::new(),
        };
        let kind = Kind::Retrieval(retrieval);
        let job = self.jobs.insert(Job { connection, front, user, began: self.now, kind });
        self.send(front, manager, done, FRAME, Message::Step { job });
    }

    /// The next step begins at the node whose turn it is.
    pub(super) fn step(&mut self, at: usize, id: JobId) {
        let Some(job) = self.jobs.job(id) else { return };
        let (front, user) = (job.front, job.user);
        let Kind::Retrieval(retrieval) = &job.kind else { return };
        let cpu = self.settings.hardware.processor;
        let mails = retrieval.mails.clone();
        let count = mails.len() as Time;
        match retrieval.step {
            Step::Fragments => {
                let done = self.serve(at, front, cpu.verify);
                let nodes: Vec<usize> =
                    self.mailboxes[user].map.nodes().map(|node| self.index_of(node)).collect();
                let nodes = nodes.into_iter().filter(|&node| self.can_use(at, node));
                let shares = nodes.map(|node| (node, 0, 0)).collect();
                self.begin_parts(at, id, done, shares);
            }
            Step::Bodies => {
                let mut shares: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
                for mail in &mails {
                    let Some(node) = self.best_replica(at, mail) else { return self.abort_retrieval(id) };
                    let share = shares.entry(node).or_default();
                    *share = (share.0 + 1, share.1 + u64::from(mail.size));
                }
                let shares = shares.into_iter().map(|(node, (count, bytes))| (node, count, bytes)).collect();
                self.begin_parts(at, id, self.now, shares);
            }
            Step::Tombstones => {
                let done = self.serve(at, front, cpu.entry * count);
                let mut shares: BTreeMap<usize, u64> = BTreeMap::new();
                for mail in &mails {
                    let holders = mail.holders.iter().map(|&holder| usize::from(holder));
                    let (usable, away): (Vec<usize>, Vec<usize>) =
                        holders.partition(|&holder| self.can_use(at, holder));
                    if usable.is_empty() {
                        return self.abort_retrieval(id);
                    }
                    for &holder in &usable {
                        *shares.entry(holder).or_default() += 1;
                        for &peer in &away {
                            *self.machines[holder].log.entry(peer).or_default() += 1;
                        }
                    }
                }
                let shares = shares.into_iter().map(|(node, count)| (node, count, count * ENTRY)).collect();
                self.begin_parts(at, id, done, shares);
            }
        }
    }

    /// Asks several nodes at once.
    fn begin_parts(&mut self, at: usize, id: JobId, from: Time, shares: Vec<(usize, u64, u64)>) {
        let cpu = self.settings.hardware.processor;
        let parts: Vec<Part> = shares
            .iter()
            .map(|&(node, count, bytes)| Part {
                asked: self.asked(node),
                count,
                bytes,
                reads: 0,
                answered: false,
            })
            .collect();
        let Some(Job { kind: Kind::Retrieval(retrieval), .. }) = self.jobs.job(id) else { return };
        let step = retrieval.step;
        retrieval.open = parts.len();
        retrieval.parts = parts;
        if shares.is_empty() {
            self.parts_done(id);
            return;
        }
        for (part, (node, count, bytes)) in shares.into_iter().enumerate() {
            // One call a body; one call for all entries.
            let calls = if step == Step::Bodies { count.max(1) } else { 1 };
            let took = if node == at { 0 } else { cpu.ask * calls };
            let ready = self.machines[at].work(from, took);
            let sent = if step == Step::Tombstones { FRAME + bytes } else { FRAME * calls };
            self.send(at, node, ready, sent, Message::Part { job: id, part: part as u16 });
        }
    }

    pub(super) fn part_at(&mut self, at: usize, from: usize, id: JobId, part: u16) {
        let Some(job) = self.jobs.job(id) else { return };
        let user = job.user;
        let Kind::Retrieval(retrieval) = &job.kind else { return };
        let step = retrieval.step;
        let Some(&Part { count, bytes, .. }) = retrieval.parts.get(usize::from(part)) else { return };
        let cpu = self.settings.hardware.processor;
        let life = self.machines[at].life;
        match step {
            Step::Fragments => {
                let here = |mail: &&Mail| mail.holders.contains(&(at as u16));
                let count = self.mailboxes[user].mails.iter().filter(here).count() as u64;
                let done = self.serve(at, from, cpu.entry * count);
                self.send(at, from, done, FRAME + count * ENTRY, Message::PartDone { job: id, part });
            }
            Step::Bodies => {
                let done =
                    self.serve(at, from, (cpu.entry + if at == from { 0 } else { cpu.answer }) * count);
                let cold = self.settings.hardware.cold;
                let reads = (0..count).filter(|_| self.dice.chance(cold)).count() as u64;
                if reads == 0 {
                    self.send(at, from, done, FRAME + bytes, Message::PartDone { job: id, part });
                    return;
                }
                if let Some(Job { kind: Kind::Retrieval(retrieval), .. }) = self.jobs.job(id)
                    && let Some(part) = retrieval.parts.get_mut(usize::from(part))
                {
                    part.reads = reads;
                }
                for _ in 0..reads {
                    let request =
                        Request { waiter: Waiter::Part { job: id, part }, bytes: bytes / count.max(1) };
                    self.queue.push(done, Event::Read { node: at as u16, life, request });
                }
            }
            Step::Tombstones => {
                let done = self.serve(at, from, cpu.entry * count);
                let request = Request { waiter: Waiter::Part { job: id, part }, bytes };
                self.queue.push(done, Event::Commit { node: at as u16, life, request });
            }
        }
    }

    pub(super) fn part_on_disk(&mut self, node: usize, id: JobId, part: u16) {
        let Some(job) = self.jobs.job(id) else { return };
        let front = job.front;
        let Kind::Retrieval(retrieval) = &mut job.kind else { return };
        let (asker, manager) = (retrieval.step == Step::Bodies, retrieval.manager.node);
        let Some(share) = retrieval.parts.get_mut(usize::from(part)) else { return };
        share.reads = share.reads.saturating_sub(1);
        if share.reads > 0 {
            return;
        }
        let bytes = if asker { FRAME + share.bytes } else { FRAME };
        let to = if asker { front } else { manager };
        self.send(node, to, self.now, bytes, Message::PartDone { job: id, part });
    }

    pub(super) fn part_done(&mut self, id: JobId, part: u16) {
        let Some(Job { kind: Kind::Retrieval(retrieval), .. }) = self.jobs.job(id) else { return };
        let Some(part) = retrieval.parts.get_mut(usize::from(part)) else { return };
        if !std::mem::replace(&mut part.answered, true) {
            retrieval.open -= 1;
            if retrieval.open == 0 {
                self.parts_done(id);
            }
        }
    }

    fn parts_done(&mut self, id: JobId) {
        let Some(job) = self.jobs.job(id) else { return };
        let (front, user) = (job.front, job.user);
        let Kind::Retrieval(retrieval) = &mut job.kind else { return };
        let manager = retrieval.manager.node;
        let count = retrieval.mails.len() as Time;
        retrieval.parts.clear();
        let cpu = self.settings.hardware.processor;
        match retrieval.step {
            Step::Fragments => {
                retrieval.step = Step::Bodies;
                let mails = self.take_mails(manager, user);
                let count = mails.len() as u64;
                let done = self.machines[manager].work(self.now, cpu.entry * count);
                if let Some(Job { kind: Kind::Retrieval(retrieval), .. }) = self.jobs.job(id) {
                    retrieval.mails = mails;
                }
                self.send(manager, front, done, FRAME + count * ENTRY / 3, Message::Step { job: id });
            }
            Step::Bodies => {
                retrieval.step = Step::Tombstones;
                let asked = self.asked(manager);
                if let Some(Job { kind: Kind::Retrieval(retrieval), .. }) = self.jobs.job(id) {
                    retrieval.manager.since = asked.since;
                }
                let done = self.machines[front].work(self.now, cpu.give * count);
                self.send(front, manager, done, FRAME + count * 20, Message::Step { job: id });
            }
            Step::Tombstones => {
                let Some(job) = self.jobs.remove(id) else { return };
                self.report.retrieve(count as usize, self.now);
                self.forget_empty_fragments(user);
                self.again(job.connection, self.now + 2 * self.settings.hardware.network.latency);
            }
        }
    }

    /// All mails of which some replica can be read; nobody else reads them meanwhile (POP3 locks the mailbox).
    fn take_mails(&mut self, manager: usize, user: usize) -> Vec<Mail> {
        let mails = std::mem::take(&mut self.mailboxes[user].mails);
        let readable = |mail: &Mail| mail.holders.iter().any(|&holder| self.can_use(manager, holder.into()));
        let (taken, left): (Vec<Mail>, Vec<Mail>) = mails.into_iter().partition(readable);
        self.report.unreadable += left.len() as u64;
        self.mailboxes[user].mails = left;
        taken
    }

    /// When a fragment's last message is gone, its node leaves the mail map (PAPERS A2).
    fn forget_empty_fragments(&mut self, user: usize) {
        let used: Vec<_> = self.mailboxes[user].mails.iter().flat_map(|mail| mail.holders.clone()).collect();
        let nodes: Vec<_> = self.mailboxes[user].map.nodes().collect();
        for node in nodes {
            if !used.contains(&(self.index_of(node) as u16)) {
                self.mailboxes[user].map.remove(node);
            }
        }
    }

    fn best_replica(&self, at: usize, mail: &Mail) -> Option<usize> {
        let usable = mail.holders.iter().map(|&holder| usize::from(holder));
        usable.filter(|&holder| self.can_use(at, holder)).min_by_key(|&holder| {
            let machine = &self.machines[at];
            machine.find(holder, self.ids[holder]).map_or(u64::MAX, |found| machine.peers[found].load.cost())
        })
    }

    /// The session broke: its mails are there as before, and the client comes again.
    pub(super) fn abort_retrieval(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(id) else { return };
        if let Kind::Retrieval(retrieval) = job.kind {
            self.mailboxes[job.user].mails.extend(retrieval.mails);
        }
        self.report.failed += 1;
        self.again(job.connection, self.now + CLIENT_RETRY);
    }
}
