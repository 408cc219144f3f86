//! Many membership cores ([`cluster::membership`]) over a network with delay and loss and a Lease service with
//! compare-and-set: the shell of `mailnode/src/membership.rs`, with its intervals, in simulated time.
//!
//! Not modelled: probes do not queue behind mail, and all machines' monotonic clocks run alike.

mod service;

use crate::dice::Dice;
use crate::queue::Queue;
use crate::{MILLISECOND, Time};
use cluster::membership::{Effect, Event, Membership, Timing};
use cluster::{Incarnation, NodeId, View};
use service::Service;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// As in the shell.
const TICK: Time = 50 * MILLISECOND;
const LOOK: Time = 300 * MILLISECOND;

#[derive(Clone, Debug)]
pub struct Settings {
    pub timing: Timing,
    /// One way between two machines: from this to twice this.
    pub delay: Time,
    /// Packets lost, of 1.
    pub loss: f64,
    /// A write to the Lease service.
    pub service_delay: Time,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            delay: 100 * crate::MICROSECOND,
            loss: 0.0,
            service_delay: 10 * MILLISECOND,
        }
    }
}

enum Message {
    Probe(u64),
    Answer(u64),
    Report(NodeId),
    View { view: View, root: NodeId },
}

enum Next {
    Tick(usize, Incarnation),
    Look(usize, Incarnation),
    Renew(usize, Incarnation),
    Arrive { to: usize, from: usize, message: Message },
    NoAnswer { at: usize, probe: u64 },
    Written { at: usize, view: View },
}

struct Machine {
    id: NodeId,
    name: String,
    incarnation: Incarnation,
    core: Membership,
    up: bool,
    avoided: BTreeSet<NodeId>,
    /// State of the Leases that the core was told last.
    told: u64,
}

/// What was sent, in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub probes: u64,
    pub reports: u64,
    pub views: u64,
    pub renewals: u64,
    pub coordinator_writes: u64,
    pub published: u64,
}

impl Traffic {
    pub const fn since(&self, before: &Self) -> Self {
        Self {
            probes: self.probes - before.probes,
            reports: self.reports - before.reports,
            views: self.views - before.views,
            renewals: self.renewals - before.renewals,
            coordinator_writes: self.coordinator_writes - before.coordinator_writes,
            published: self.published - before.published,
        }
    }
}

pub struct World {
    now: Time,
    settings: Settings,
    dice: Dice,
    machines: Vec<Machine>,
    index: BTreeMap<NodeId, usize>,
    queue: Queue<Next>,
    /// Probes without an answer yet: who, whom.
    open: BTreeMap<u64, (usize, usize)>,
    probes: u64,
    service: Service,
    /// Side of each machine; those of different sides cannot talk.
    sides: Vec<u8>,
    changed: BTreeSet<usize>,
    pub traffic: Traffic,
}

fn duration(time: Time) -> Duration {
    Duration::from_nanos(time)
}

impl World {
    /// `formed`: the machines are members of one view already; otherwise each has just started.
    pub fn new(names: &[String], settings: Settings, seed: u64, formed: bool) -> Self {
        let mut world = Self {
            now: 0,
            settings,
            dice: Dice::new(seed),
            machines: Vec::new(),
            index: BTreeMap::new(),
            queue: Queue::default(),
            open: BTreeMap::new(),
            probes: 0,
            service: Service::default(),
            sides: vec![0; names.len()],
            changed: BTreeSet::new(),
            traffic: Traffic::default(),
        };
        for (at, name) in names.iter().enumerate() {
            let id = NodeId::of_name(name);
            world.index.insert(id, at);
            world.machines.push(Machine {
                id,
                name: name.clone(),
                incarnation: Incarnation(0),
                core: Membership::new(id, world.settings.timing, Duration::ZERO, View::default()),
                up: false,
                avoided: BTreeSet::new(),
                told: 0,
            });
        }
        for at in 0..names.len() {
            world.boot(at);
        }
        if formed {
            world.service.form();
        }
        world
    }

    pub const fn now(&self) -> Time {
        self.now
    }

    pub fn len(&self) -> usize {
        self.machines.len()
    }

    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    pub fn id(&self, at: usize) -> NodeId {
        self.machines[at].id
    }

    pub fn view(&self, at: usize) -> &View {
        self.machines[at].core.view()
    }

    pub fn avoids(&self, at: usize, peer: NodeId) -> bool {
        self.machines[at].avoided.contains(&peer)
    }

    pub fn up(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.machines.len()).filter(|&at| self.machines[at].up)
    }

    pub fn coordinator(&self) -> Option<usize> {
        self.service.holder()
    }

    pub fn published(&self) -> &View {
        self.service.view()
    }

    /// Machines whose view or list of avoided peers has changed since the last call.
    pub fn changes(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.changed)
    }

    /// A node starts; it remembers the view of its last life.
    pub fn boot(&mut self, at: usize) {
        let remembered = self.machines[at].core.view().clone();
        let timing = self.settings.timing;
        let now = self.now;
        let machine = &mut self.machines[at];
        machine.incarnation = Incarnation(machine.incarnation.0.max(now / MILLISECOND) + 1);
        machine.core = Membership::new(machine.id, timing, duration(now), remembered);
        machine.up = true;
        machine.avoided.clear();
        machine.told = 0;
        let life = machine.incarnation;
        // Not all at the same moment.
        let spread = |dice: &mut Dice, interval: Time| now + dice.below(interval);
        let (tick, look) = (spread(&mut self.dice, TICK), spread(&mut self.dice, LOOK));
        self.queue.push(tick, Next::Tick(at, life));
        self.queue.push(look, Next::Look(at, life));
        let interval = self.renew(at);
        let renew = spread(&mut self.dice, interval);
        self.queue.push(renew, Next::Renew(at, life));
        self.changed.insert(at);
    }

    pub fn kill(&mut self, at: usize) {
        self.machines[at].up = false;
    }

    pub fn set_loss(&mut self, loss: f64) {
        self.settings.loss = loss;
    }

    pub fn set_service(&mut self, available: bool) {
        self.service.available = available;
    }

    /// Cuts the network: machines of different sides cannot talk; 0 is everybody's side.
    pub fn set_side(&mut self, at: usize, side: u8) {
        self.sides[at] = side;
    }

    /// Cuts a machine off from the Lease service, or connects it again.
    pub fn set_reaches_service(&mut self, at: usize, reaches: bool) {
        self.service.set_reached_by(at, reaches);
    }

    pub fn operation_failed(&mut self, at: usize, peer: NodeId) {
        self.event(at, Event::OperationFailed(peer));
    }

    pub fn next_at(&self) -> Option<Time> {
        self.queue.next_at()
    }

    pub fn run_until(&mut self, end: Time) {
        while self.queue.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Runs until the condition holds, looking after every event; the time it took. None if it takes longer than
    /// `limit`.
    pub fn until(&mut self, limit: Time, condition: impl Fn(&Self) -> bool) -> Option<Time> {
        let begun = self.now;
        let mut next_look = begun;
        while self.now - begun <= limit {
            if self.now >= next_look {
                if condition(self) {
                    return Some(self.now - begun);
                }
                next_look = self.now + 5 * MILLISECOND;
            }
            self.step();
        }
        None
    }

    /// True if the views of all machines that are up have exactly these as active members.
    pub fn agree_on(&self, active: &BTreeSet<NodeId>) -> bool {
        self.up().all(|at| {
            let mut seen = 0;
            self.view(at).active().all(|member| {
                seen += 1;
                active.contains(&member.id)
            }) && seen == active.len()
        })
    }

    fn step(&mut self) {
        let Some((at, next)) = self.queue.pop() else { return };
        self.now = self.now.max(at);
        match next {
            Next::Tick(at, life) => {
                if self.lives(at, life) {
                    self.queue.push(self.now + TICK, Next::Tick(at, life));
                    self.event(at, Event::Tick);
                }
            }
            Next::Look(at, life) => {
                if self.lives(at, life) {
                    self.queue.push(self.now + LOOK, Next::Look(at, life));
                    self.look(at);
                }
            }
            Next::Renew(at, life) => {
                if self.lives(at, life) {
                    let interval = self.renew(at);
                    self.queue.push(self.now + interval, Next::Renew(at, life));
                }
            }
            Next::Arrive { to, from, message } => self.deliver(to, from, message),
            Next::NoAnswer { at, probe } => {
                if let Some((_, to)) = self.open.remove(&probe) {
                    let peer = self.id(to);
                    self.event(at, Event::ProbeFailed(peer));
                }
            }
            Next::Written { at, view } => {
                let event = if self.service.publish(at, &view, self.now) {
                    self.traffic.published += 1;
                    Event::Published(view)
                } else {
                    Event::PublishFailed
                };
                self.event(at, event);
            }
        }
    }

    fn lives(&self, at: usize, life: Incarnation) -> bool {
        let machine = &self.machines[at];
        machine.up && machine.incarnation == life
    }

    /// Renews a machine's Lease, if the service answers; when to do so again.
    fn renew(&mut self, at: usize) -> Time {
        let members = self.view(at).members.len();
        let (interval, lease) = self.settings.timing.renewal_for(members);
        let machine = &self.machines[at];
        let (name, incarnation) = (machine.name.clone(), machine.incarnation);
        if self.service.renew(at, &name, incarnation, self.now, lease.as_nanos() as Time) {
            self.traffic.renewals += 1;
            self.event(at, Event::Renewed);
        }
        interval.as_nanos() as Time
    }

    /// What the shell does every 300 ms. The core is told of the Leases when they changed for it.
    fn look(&mut self, at: usize) {
        let timing = self.settings.timing;
        let Some(state) = self.service.look(at, self.now) else { return };
        if self.machines[at].told != state {
            self.machines[at].told = state;
            let leases = self.service.leases();
            self.event(at, Event::Leases(leases));
        }
        let lasts = timing.coordinator_lease.as_nanos() as Time;
        // Cloning the view is only needed when it is news.
        let mine = self.view(at).epoch;
        let coordinator = self.service.coordinator(at, self.now, lasts);
        if coordinator.ours {
            self.traffic.coordinator_writes += 1;
        }
        let view = if coordinator.view.epoch > mine { coordinator.view.clone() } else { View::default() };
        let (ours, vacant, holder) = (coordinator.ours, coordinator.vacant, coordinator.holder);
        let holder = holder.map(|holder| self.id(holder));
        let event = Event::Coordinator { holder, ours, vacant, view };
        self.event(at, event);
    }

    fn event(&mut self, at: usize, event: Event) {
        let machine = &mut self.machines[at];
        if !machine.up {
            return;
        }
        for effect in machine.core.handle(duration(self.now), event) {
            self.carry_out(at, effect);
        }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Probe(peer) => {
                let Some(&to) = self.index.get(&peer) else { return };
                self.probes += 1;
                self.traffic.probes += 1;
                let probe = self.probes;
                self.open.insert(probe, (at, to));
                let timeout = self.settings.timing.probe_timeout.as_nanos() as Time;
                self.queue.push(self.now + timeout, Next::NoAnswer { at, probe });
                self.send(at, to, Message::Probe(probe));
            }
            Effect::Report { to, about } => {
                self.traffic.reports += 1;
                if let Some(&to) = self.index.get(&to) {
                    self.send(at, to, Message::Report(about));
                }
            }
            Effect::TakeCoordination => {
                let lasts = self.settings.timing.coordinator_lease.as_nanos() as Time;
                if self.service.take(at, self.now, lasts) {
                    self.traffic.coordinator_writes += 1;
                }
            }
            Effect::Publish(view) => {
                self.queue.push(self.now + self.settings.service_delay, Next::Written { at, view });
            }
            Effect::Push { view, root, to } => {
                for to in to.iter().filter_map(|id| self.index.get(id).copied()).collect::<Vec<_>>() {
                    self.traffic.views += 1;
                    self.send(at, to, Message::View { view: view.clone(), root });
                }
            }
            Effect::Install(_) => {
                self.changed.insert(at);
            }
            Effect::Avoid(peer, avoided) => {
                let set = &mut self.machines[at].avoided;
                if avoided {
                    set.insert(peer)
                } else {
                    set.remove(&peer)
                };
                self.changed.insert(at);
            }
            Effect::Isolated(_) => {}
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.sides[from] != self.sides[to] || self.dice.chance(self.settings.loss) {
            return;
        }
        let delay = self.settings.delay + self.dice.below(self.settings.delay + 1);
        self.queue.push(self.now + delay, Next::Arrive { to, from, message });
    }

    fn deliver(&mut self, to: usize, from: usize, message: Message) {
        if !self.machines[to].up {
            return;
        }
        match message {
            Message::Probe(probe) => self.send(to, from, Message::Answer(probe)),
            Message::Answer(probe) => {
                // The first of answer and time-out counts, as for a call with a deadline.
                if self.open.remove(&probe).is_some() {
                    let peer = self.id(from);
                    self.event(to, Event::ProbeAnswered(peer));
                }
            }
            Message::Report(about) => self.event(to, Event::Suspected(about)),
            Message::View { view, root } => self.event(to, Event::ViewReceived { view, root: Some(root) }),
        }
    }
}
