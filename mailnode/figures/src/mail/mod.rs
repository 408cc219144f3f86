//! Deliveries and retrievals on a cluster: clients in a closed loop (each connection has one operation under way), real
//! placement, replica writes, user map, membership and redelivery, modelled disks, cores and network.
//!
//! A delivery goes the way of DESIGN 2: front, manager, front, replicas, front; the replicas tell the manager. A
//! retrieval reads all fragments through the manager, the bodies from the least loaded replicas, and deletes all.
//!
//! Simpler than the node: one recipient a message; no IMAP, no acknowledgements passed on; a copy that comes too late is
//! forgotten instead of being told to the others; a machine whose front has died loses its clients to the others after
//! a second.

mod delivery;
mod job;
mod machine;
mod outage;
mod report;
mod retrieval;

use crate::dice::Dice;
use crate::hardware::{Disk, Hardware};
use crate::members;
use crate::queue::Queue;
use crate::workload::{self, Skew, Users};
use crate::{MILLISECOND, SECOND, Time};
use cluster::{
    Addresses, Bucket, Candidate, Epoch, Incarnation, Load, MailMap, Member, MemberState, NodeId, Policy,
    UserId, UserMap, View,
};
use job::{JobId, Jobs};
use machine::{Machine, Request};
pub use report::Report;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Some machines die at one time and return, with their disks, at another.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    pub machines: usize,
    pub from: Time,
    pub to: Time,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub nodes: usize,
    pub copies: usize,
    pub policy: Policy,
    pub hardware: Hardware,
    /// So many of the machines have the fast disk.
    pub fast: usize,
    pub connections: usize,
    pub users: usize,
    pub skew: Skew,
    /// What happens before is not counted.
    pub warm_up: Time,
    pub end: Time,
    pub outage: Option<Outage>,
    pub seed: u64,
}

impl Settings {
    /// A cluster of this size at the model's standard load.
    pub fn new(nodes: usize, copies: usize) -> Self {
        Self {
            nodes,
            copies,
            policy: Policy::Spread(2),
            hardware: Hardware::SMALL,
            fast: 0,
            connections: 32,
            users: 500,
            skew: Skew::LogNormal(1.0),
            warm_up: 2 * SECOND,
            end: 10 * SECOND,
            outage: None,
            seed: 1,
        }
    }
}

/// One message in a mailbox.
#[derive(Clone, Debug)]
struct Mail {
    size: u32,
    holders: Vec<u16>,
}

struct Mailbox {
    bucket: Bucket,
    /// What the manager knows.
    map: MailMap,
    mails: Vec<Mail>,
}

/// Who waits for a disk.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    Store { job: JobId, call: u8 },
    Part { job: JobId, part: u16 },
    Redelivery { from: u16, rows: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Verify {
        job: JobId,
        acting: bool,
    },
    Verified {
        job: JobId,
        manages: bool,
    },
    Store {
        job: JobId,
        call: u8,
    },
    Stored {
        job: JobId,
        call: u8,
    },
    Notice {
        user: u32,
        holder: u16,
    },
    /// A retrieval goes on at the manager, or at the front.
    Step {
        job: JobId,
    },
    Part {
        job: JobId,
        part: u16,
    },
    PartDone {
        job: JobId,
        part: u16,
    },
    Redelivery {
        rows: u32,
    },
    Redelivered {
        rows: u32,
    },
}

enum Event {
    Begin { connection: usize },
    Arrive { from: u16, to: u16, life: u32, load: Load, message: Message },
    Commit { node: u16, life: u32, request: Request<Waiter> },
    Read { node: u16, life: u32, request: Request<Waiter> },
    Disk { node: u16, life: u32 },
    Verify { job: JobId },
    Die,
    Return,
    Check,
    Redeliver { node: u16 },
}

pub struct Simulation {
    settings: Settings,
    now: Time,
    dice: Dice,
    queue: Queue<Event>,
    machines: Vec<Machine<Waiter>>,
    /// Their ids, in order.
    ids: Vec<NodeId>,
    users: Users,
    mailboxes: Vec<Mailbox>,
    jobs: Jobs,
    /// Calls that will have taken too long, in order of time.
    slow: VecDeque<(Time, JobId, u8)>,
    members: Option<members::World>,
    /// The user map that each machine goes by.
    maps: Vec<Rc<UserMap>>,
    by_epoch: BTreeMap<Epoch, Rc<UserMap>>,
    /// When a manager will know the mail maps of a bucket that it gained.
    ready: BTreeMap<(usize, Bucket), Time>,
    dead: Vec<usize>,
    report: Report,
}

/// Runs it and says what it did.
pub fn run(settings: Settings) -> Report {
    let mut simulation = Simulation::new(settings);
    simulation.run();
    simulation.finish()
}

impl Simulation {
    pub fn new(settings: Settings) -> Self {
        let mut dice = Dice::new(settings.seed);
        let mut names: Vec<String> = (0..settings.nodes).map(|at| format!("node-{at}")).collect();
        // Machines in the order of their ids, as in views.
        names.sort_by_key(|name| NodeId::of_name(name));
        let ids: Vec<NodeId> = names.iter().map(|name| NodeId::of_name(name)).collect();
        let speed = |at: usize| if at < settings.fast { Disk::FAST } else { settings.hardware.disk };
        let machines =
            ids.iter().enumerate().map(|(at, &id)| Machine::new(id, &settings.hardware, speed(at))).collect();
        let users = Users::new(settings.users * settings.nodes, settings.skew, &mut dice.fork(1));
        let mailboxes = (0..users.len())
            .map(|_| {
                let user = UserId(u128::from(dice.roll()) << 64 | u128::from(dice.roll()));
                Mailbox { bucket: Bucket::of_user(user), map: MailMap::default(), mails: Vec::new() }
            })
            .collect();
        let view = first_view(&names);
        let map = Rc::new(UserMap::new(&view));
        let members = settings
            .outage
            .map(|_| members::World::new(&names, members::Settings::default(), settings.seed ^ 0x5eed, true));
        let mut simulation = Self {
            now: 0,
            queue: Queue::default(),
            machines,
            ids: ids.clone(),
            users,
            mailboxes,
            jobs: Jobs::default(),
            slow: VecDeque::new(),
            members,
            maps: vec![map.clone(); settings.nodes],
            by_epoch: BTreeMap::from([(view.epoch, map)]),
            ready: BTreeMap::new(),
            dead: Vec::new(),
            report: Report::new(&settings),
            dice,
            settings,
        };
        for at in 0..simulation.machines.len() {
            simulation.machines[at].peers = candidates(&ids);
        }
        simulation.fill();
        simulation.begin_all();
        simulation
    }

    /// Mailboxes are as full as they will be on average, where the policy put it when nobody was loaded.
    fn fill(&mut self) {
        for user in 0..self.mailboxes.len() {
            while self.dice.chance(workload::WAITING / (workload::WAITING + 1.0)) {
                let order = self.place(0, user);
                let size = workload::size(&mut self.dice);
                let chosen = order.into_iter().take(self.settings.copies);
                let holders: Vec<u16> = chosen.map(|node| self.index_of(node) as u16).collect();
                self.keep(user, Mail { size, holders });
            }
        }
    }

    fn begin_all(&mut self) {
        for connection in 0..self.settings.connections * self.settings.nodes {
            let at = self.dice.below(20 * MILLISECOND);
            self.queue.push(at, Event::Begin { connection });
        }
        if let Some(outage) = self.settings.outage {
            self.queue.push(outage.from, Event::Die);
            self.queue.push(outage.to, Event::Return);
            for node in 0..self.machines.len() {
                let at = self.dice.below(outage::REDELIVER_EVERY);
                self.queue.push(at, Event::Redeliver { node: node as u16 });
            }
        }
    }

    fn run(&mut self) {
        while let Some(at) = self.queue.next_at().filter(|&at| at < self.settings.end) {
            if let Some(members) = self
                .members
                .as_mut()
                .filter(|members| members.next_at().is_some_and(|members_at| members_at <= at))
            {
                members.run_until(at);
                self.now = at;
                self.follow_views();
            }
            while let Some(&(due, job, call)) = self.slow.front().filter(|slow| slow.0 <= at) {
                self.slow.pop_front();
                self.now = due;
                self.call_is_slow(job, call);
            }
            let Some((at, event)) = self.queue.pop() else { return };
            self.now = self.now.max(at);
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begin { connection } => self.begin(connection),
            Event::Arrive { from, to, life, load, message } => {
                let (from, to) = (usize::from(from), usize::from(to));
                if !self.lives(to, life) {
                    return;
                }
                if from != to {
                    let peer = self.machines[from].id;
                    self.machines[to].report(from, peer, load);
                    self.report.reports += 1;
                }
                self.arrive(from, to, message);
            }
            Event::Commit { node, life, request } => {
                if self.lives(node.into(), life) {
                    let done = self.machines[usize::from(node)].disk.commit(request, self.now);
                    self.disk_begun(node.into(), done);
                }
            }
            Event::Read { node, life, request } => {
                if self.lives(node.into(), life) {
                    let done = self.machines[usize::from(node)].disk.read(request, self.now);
                    self.disk_begun(node.into(), done);
                }
            }
            Event::Disk { node, life } => {
                if self.lives(node.into(), life) {
                    self.disk_done(node.into());
                }
            }
            Event::Verify { job } => self.verify(job),
            Event::Die => self.die(),
            Event::Return => self.come_back(),
            Event::Check => self.check(),
            Event::Redeliver { node } => self.redeliver(node.into()),
        }
    }

    fn arrive(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Verify { job, acting } => self.verify_at(to, from, job, acting),
            Message::Verified { job, manages } => self.verified(job, manages),
            Message::Store { job, call } => self.store_at(to, from, job, call),
            Message::Stored { job, call } => self.stored(job, call),
            Message::Notice { user, holder } => {
                let took = self.settings.hardware.processor.notice;
                self.machines[to].work(self.now, took);
                let holder = self.machines[usize::from(holder)].id;
                self.mailboxes[user as usize].map.add(holder);
            }
            Message::Step { job } => self.step(to, job),
            Message::Part { job, part } => self.part_at(to, from, job, part),
            Message::PartDone { job, part } => self.part_done(job, part),
            Message::Redelivery { rows } => self.redelivery_at(to, from, rows),
            Message::Redelivered { rows } => self.redelivered(to, from, rows),
        }
    }

    fn disk_begun(&mut self, node: usize, done: Option<Time>) {
        if let Some(done) = done {
            let life = self.machines[node].life;
            self.queue.push(done, Event::Disk { node: node as u16, life });
        }
    }

    fn disk_done(&mut self, node: usize) {
        for waiter in self.machines[node].disk.done() {
            match waiter {
                Waiter::Store { job, call } => self.copy_on_disk(node, job, call),
                Waiter::Part { job, part } => self.part_on_disk(node, job, part),
                Waiter::Redelivery { from, rows } => {
                    self.send(
                        node,
                        from.into(),
                        self.now,
                        crate::hardware::FRAME,
                        Message::Redelivered { rows },
                    );
                }
            }
        }
        let done = self.machines[node].disk.begin(self.now);
        self.disk_begun(node, done);
    }

    /// A connection begins its next operation.
    fn begin(&mut self, connection: usize) {
        let home = connection / self.settings.connections;
        let Some(front) = self.front(home) else {
            self.queue.push(self.now + SECOND, Event::Begin { connection });
            return;
        };
        let user = self.users.draw(&mut self.dice);
        if self.dice.chance(workload::RETRIEVALS) {
            self.begin_retrieval(connection, front, user);
        } else {
            self.begin_delivery(connection, front, user);
        }
    }

    /// The connection's machine, or any other while that is away.
    fn front(&mut self, home: usize) -> Option<usize> {
        let ready = |at: usize| {
            let machine = &self.machines[at];
            machine.up && machine.find(at, machine.id).is_some()
        };
        if ready(home) {
            return Some(home);
        }
        let others: Vec<usize> = (0..self.machines.len()).filter(|&at| ready(at)).collect();
        let chosen = self.dice.below(others.len() as u64) as usize;
        others.get(chosen).copied()
    }

    /// The client has its answer, and begins again.
    fn again(&mut self, connection: usize, at: Time) {
        self.queue.push(at + 2 * self.settings.hardware.network.latency, Event::Begin { connection });
    }

    /// Sends a message that is ready to go at `at`; to oneself it costs nothing.
    fn send(&mut self, from: usize, to: usize, at: Time, bytes: u64, message: Message) {
        let network = self.settings.hardware.network;
        let load = self.machines[from].disk.load();
        let arrives = if from == to {
            at
        } else {
            let sent = self.machines[from].send(at, bytes, network.bytes_per_second) + network.latency;
            self.machines[to].receive(sent, bytes, network.bytes_per_second)
        };
        let life = self.machines[to].life;
        self.queue.push(arrives, Event::Arrive { from: from as u16, to: to as u16, life, load, message });
    }

    fn lives(&self, at: usize, life: u32) -> bool {
        self.machines[at].up && self.machines[at].life == life
    }

    fn index_of(&self, node: NodeId) -> usize {
        self.ids.binary_search(&node).unwrap_or_default()
    }

    /// Who manages the user by what this machine knows.
    fn manager_of(&self, at: usize, user: usize) -> usize {
        let manager = self.maps[at].manager(self.mailboxes[user].bucket);
        self.index_of(manager.unwrap_or_default())
    }

    fn keep(&mut self, user: usize, mail: Mail) {
        for &holder in &mail.holders {
            let id = self.machines[usize::from(holder)].id;
            self.mailboxes[user].map.add(id);
        }
        self.mailboxes[user].mails.push(mail);
    }

    fn finish(mut self) -> Report {
        self.report.close(&self.machines, &self.mailboxes, self.settings.end);
        self.report
    }
}

fn candidates(ids: &[NodeId]) -> Vec<Candidate> {
    let candidate = |&node: &NodeId| Candidate { node, zone: None, load: Load::default(), avoided: false };
    ids.iter().map(candidate).collect()
}

fn first_view(names: &[String]) -> View {
    let member = |name: &String| Member {
        id: NodeId::of_name(name),
        name: name.clone(),
        addresses: Addresses::default(),
        zone: None,
        state: MemberState::Active,
        incarnation: Incarnation(1),
    };
    View::new(Epoch(1), names.iter().map(member).collect())
}

#[cfg(test)]
mod tests;
