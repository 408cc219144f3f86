//! Who is a member (DESIGN 5): one node's part in it, as a state machine. Events and time come in, effects go
//! out; the node runs it on sockets and Leases, the simulator on simulated ones.
//!
//! - Each node renews its own Lease. The holder of the coordinator Lease decides the membership, numbers it with
//!   an epoch, publishes it in that Lease with compare-and-set, and pushes it to every node. A higher epoch
//!   always wins.
//! - Failures are found three ways: a Lease expires; the ring successors' probes fail, and the coordinator, told
//!   of it, probes for itself; an operation times out, and the peer is avoided at once and probed.
//! - Avoiding is local and cheap, expelling is the coordinator's. With the Lease service away nothing can be
//!   published, so nobody is expelled, and dead peers are merely avoided.
//! - A member that answers, however late, is not expelled.
//! - An answered call is news for one peer only and costs no more than that: a busy node tells of thousands a second.
//! - A member that has been dead for `replace_after` is lost for good: it leaves the view, and its entries get new
//!   replicas ([`crate::healing`]). Not while less than half of the members serve: that is an outage, which ends.
//!   One that was draining and gave up its Lease leaves the view at once.

mod coordinator;
mod probing;

use crate::ids::{Epoch, Incarnation, NodeId};
use crate::tree;
use crate::view::{Addresses, Member, MemberState, View};
use probing::Peers;
use std::collections::BTreeMap;
use std::time::Duration;

/// Times, all adjustable; the defaults keep a killed node avoided for less than a second before it is known, and
/// out of the view in less than three.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two probes of a ring successor.
    pub probe_interval: Duration,
    /// A probe without an answer for so long has failed.
    pub probe_timeout: Duration,
    /// Probes in a row that must fail before a peer is reported to the coordinator.
    pub misses_to_report: u32,
    /// Probes in a row that must fail at the coordinator before it expels a peer. More, since nobody checks: with every
    /// hundredth packet lost, three in a row are lost some times a day, and five once in a year.
    pub misses_to_expel: u32,
    /// A peer is avoided after so many failed probes in a row.
    pub misses_to_avoid: u32,
    /// Ring successors that a node probes.
    pub successors: usize,
    /// Without renewal for so long a node's Lease has expired.
    pub lease: Duration,
    pub lease_renewal: Duration,
    pub coordinator_lease: Duration,
    pub coordinator_renewal: Duration,
    /// Changes within this time become one view.
    pub settle: Duration,
    /// Without a renewal and without an answer from any peer for so long a node takes itself for cut off.
    pub isolation: Duration,
    /// A member that has been dead for so long is lost for good.
    pub replace_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self {
            probe_interval: millis(250),
            probe_timeout: millis(250),
            misses_to_report: 3,
            misses_to_expel: 5,
            misses_to_avoid: 2,
            successors: 2,
            lease: millis(3_000),
            lease_renewal: millis(1_000),
            coordinator_lease: millis(2_000),
            coordinator_renewal: millis(500),
            settle: millis(50),
            isolation: millis(3_000),
            replace_after: Duration::from_secs(600),
        }
    }
}

impl Timing {
    /// Renewals all over the cluster should stay below about 50 a second (DESIGN 5).
    pub fn renewal_for(&self, members: usize) -> (Duration, Duration) {
        let spaced = Duration::from_millis(20 * members as u64).max(self.lease_renewal);
        (spaced, spaced.saturating_mul(3).max(self.lease))
    }
}

/// A node's Lease as the observer saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLease {
    pub name: String,
    pub incarnation: Incarnation,
    pub addresses: Addresses,
    pub zone: Option<String>,
    pub draining: bool,
    pub expired: bool,
}

impl ObservedLease {
    pub fn id(&self) -> NodeId {
        NodeId::of_name(&self.name)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time passed; at least every 50 ms.
    Tick,
    Leases(Vec<ObservedLease>),
    /// The coordinator Lease: its holder and the view in it. `ours`: we hold it, surely, for some time yet.
    /// `vacant`: nobody does, and it may be taken.
    Coordinator {
        holder: Option<NodeId>,
        ours: bool,
        vacant: bool,
        view: View,
    },
    /// Our Lease was renewed.
    Renewed,
    ProbeAnswered(NodeId),
    ProbeFailed(NodeId),
    /// A peer is known to answer: a call succeeded.
    OperationSucceeded(NodeId),
    OperationFailed(NodeId),
    /// A member's probes of another fail.
    Suspected(NodeId),
    /// With a root, it travels along that node's tree, and is to be passed on.
    ViewReceived {
        view: View,
        root: Option<NodeId>,
    },
    /// The view we wanted to publish is in the coordinator Lease now.
    Published(View),
    /// It could not be written: we are coordinator no more, or the service is away.
    PublishFailed,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Probe(NodeId),
    /// Tell the coordinator that `about` does not answer.
    Report {
        to: NodeId,
        about: NodeId,
    },
    /// Write ourselves into the vacant coordinator Lease.
    TakeCoordination,
    /// Write this view into the coordinator Lease, which we hold.
    Publish(View),
    /// Send the view to these members, who pass it on along the root's tree.
    Push {
        view: View,
        root: NodeId,
        to: Vec<NodeId>,
    },
    /// This is the view now.
    Install(View),
    /// Route around the peer, or use it again.
    Avoid(NodeId, bool),
    /// Acknowledge no mail that cannot be replicated.
    Isolated(bool),
}

/// What is remembered of a dead member.
#[derive(Clone, Copy, Debug)]
struct Death {
    since: Duration,
    /// It was on its way out.
    drained: bool,
}

/// One node's part in the membership. `now` is its own monotonic time, from any start.
#[derive(Clone, Debug)]
pub struct Membership {
    me: NodeId,
    timing: Timing,
    view: View,
    /// The last view that we told others of.
    pushed: Epoch,
    /// Serving members of the view, by id.
    ring: Vec<NodeId>,
    leases: BTreeMap<NodeId, ObservedLease>,
    holder: Option<NodeId>,
    /// It let the coordinator Lease run out: nobody heard of it for that time, and few probes are left to fail.
    lapsed: Option<NodeId>,
    /// We hold the coordinator Lease.
    ours: bool,
    peers: Peers,
    publishing: bool,
    /// Since when the desired membership has differed from the view (later: not to be tried before).
    differs_since: Option<Duration>,
    renewed: Duration,
    answered: Duration,
    isolated: bool,
    /// The members that the view has dead. Every node keeps it, so that a new coordinator knows; after a restart the
    /// time begins anew.
    deaths: BTreeMap<NodeId, Death>,
    /// The view of an earlier life, until something newer is known.
    remembered: View,
    started: Duration,
}

/// A node that cannot read the coordinator Lease after its start goes by the view it remembers from here on.
const WAIT_FOR_NEWS: Duration = Duration::from_secs(2);

impl Membership {
    /// `remembered` is the last view that this node installed in an earlier life (empty if there is none): the
    /// members it names are not forgotten because everybody was restarted, and epochs go on from there.
    pub fn new(me: NodeId, timing: Timing, now: Duration, remembered: View) -> Self {
        Self {
            me,
            timing,
            view: View::default(),
            ring: Vec::new(),
            leases: BTreeMap::new(),
            holder: None,
            lapsed: None,
            ours: false,
            peers: Peers::default(),
            pushed: Epoch::default(),
            publishing: false,
            differs_since: None,
            renewed: now,
            answered: now,
            isolated: false,
            deaths: BTreeMap::new(),
            remembered,
            started: now,
        }
    }

    pub const fn view(&self) -> &View {
        &self.view
    }

    pub const fn coordinator(&self) -> Option<NodeId> {
        self.holder
    }

    /// Nodes with a live Lease, members or not: how to reach them.
    pub fn candidates(&self) -> Vec<Member> {
        self.leases.values().filter(|lease| !lease.expired).map(coordinator::member_of).collect()
    }

    /// Takes one event; the effects are to be carried out in order.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let tick = event == Event::Tick;
        match event {
            Event::Tick => {
                if now.saturating_sub(self.started) >= WAIT_FOR_NEWS {
                    self.install_remembered(now, &mut effects);
                }
            }
            Event::Leases(leases) => self.take_leases(leases),
            Event::Coordinator { holder, ours, vacant, view } => {
                self.holder = holder;
                self.note_lapse(vacant, now);
                self.ours = ours;
                self.install(view, now, &mut effects);
                self.install_remembered(now, &mut effects);
                if vacant && !ours {
                    effects.push(Effect::TakeCoordination);
                }
            }
            Event::Renewed => self.renewed = now,
            Event::ProbeAnswered(peer) => {
                self.peers.answered(peer, now, &self.timing);
                self.heard(peer, now, &mut effects);
            }
            Event::OperationSucceeded(peer) => {
                self.peers.alive(peer, now);
                self.heard(peer, now, &mut effects);
                // What follows from it for the membership can wait for the next tick.
                return effects;
            }
            Event::ProbeFailed(peer) => {
                let misses = self.peers.missed(peer, now, &self.timing);
                if misses >= self.timing.misses_to_avoid {
                    self.avoid(peer, &mut effects);
                }
                if misses >= self.timing.misses_to_report
                    && !self.ours
                    && let Some(coordinator) =
                        self.holder.filter(|&holder| holder != peer && holder != self.me)
                {
                    effects.push(Effect::Report { to: coordinator, about: peer });
                }
            }
            Event::OperationFailed(peer) => {
                self.avoid(peer, &mut effects);
                self.peers.watch(peer, now);
            }
            Event::Suspected(peer) => {
                if self.ours && self.view.member(peer).is_some() {
                    self.peers.watch(peer, now);
                }
            }
            Event::ViewReceived { view, root } => {
                let epoch = view.epoch;
                self.install(view, now, &mut effects);
                if let Some(root) = root.filter(|_| epoch == self.view.epoch) {
                    self.push(root, &mut effects);
                }
            }
            Event::Published(view) => {
                self.publishing = false;
                self.install(view, now, &mut effects);
                self.push(self.me, &mut effects);
            }
            Event::PublishFailed => {
                self.publishing = false;
                self.differs_since = Some(now + self.timing.coordinator_renewal);
            }
        }
        self.coordinate(now, &mut effects);
        self.probe(now, tick, &mut effects);
        self.check_isolation(now, &mut effects);
        effects
    }

    /// Of two nodes whose names have one id, the member is kept, else the first.
    fn take_leases(&mut self, leases: Vec<ObservedLease>) {
        self.leases.clear();
        for lease in leases {
            let id = lease.id();
            let member = self.view.member(id).is_some_and(|member| member.name == lease.name);
            if member || !self.leases.contains_key(&id) {
                self.leases.insert(id, lease);
            }
        }
    }

    fn install(&mut self, view: View, now: Duration, effects: &mut Vec<Effect>) {
        if view.epoch <= self.view.epoch {
            return;
        }
        for member in &view.members {
            // A new life of a peer starts with a clean record.
            if self.view.member(member.id).is_some_and(|known| known.incarnation != member.incarnation)
                && self.peers.forgive(member.id)
            {
                effects.push(Effect::Avoid(member.id, false));
            }
        }
        let before = std::mem::replace(&mut self.view, view.clone());
        self.ring = view.serving().map(|member| member.id).collect();
        self.note_deaths(&before, now);
        effects.push(Effect::Install(view));
    }

    /// Tells those below us in the root's tree of the view, once.
    fn push(&mut self, root: NodeId, effects: &mut Vec<Effect>) {
        if self.pushed >= self.view.epoch {
            return;
        }
        self.pushed = self.view.epoch;
        let (serving, others): (Vec<&Member>, Vec<&Member>) =
            self.view.members.iter().partition(|member| member.serves());
        let order = serving.into_iter().chain(others).map(|member| member.id);
        let to = tree::children(order, root, self.me);
        if !to.is_empty() {
            effects.push(Effect::Push { view: self.view.clone(), root, to });
        }
    }

    fn note_deaths(&mut self, before: &View, now: Duration) {
        let mut known = std::mem::take(&mut self.deaths);
        for id in self.view.dead().map(|member| member.id) {
            let drained = before.member(id).is_some_and(|member| member.state == MemberState::Draining);
            self.deaths.insert(id, known.remove(&id).unwrap_or(Death { since: now, drained }));
        }
    }

    fn install_remembered(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let remembered = std::mem::take(&mut self.remembered);
        self.install(remembered, now, effects);
    }

    /// Everybody probes a coordinator whose Lease ran out at once, so that its successor need not begin with it.
    fn note_lapse(&mut self, vacant: bool, now: Duration) {
        if !vacant {
            if self.lapsed == self.holder {
                self.lapsed = None;
            }
            return;
        }
        let is_member = |id: &NodeId| *id != self.me && self.view.member(*id).is_some();
        if let Some(holder) = self.holder.filter(is_member).filter(|&holder| self.lapsed != Some(holder)) {
            self.lapsed = Some(holder);
            self.peers.watch(holder, now);
        }
    }

    fn heard(&mut self, peer: NodeId, now: Duration, effects: &mut Vec<Effect>) {
        self.answered = now;
        if self.lapsed == Some(peer) {
            self.lapsed = None;
        }
        if self.peers.set_avoided(peer, false) {
            effects.push(Effect::Avoid(peer, false));
        }
    }

    fn avoid(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        if peer != self.me && self.peers.set_avoided(peer, true) {
            effects.push(Effect::Avoid(peer, true));
        }
    }

    /// Members that we probe: our successors in the ring, whoever is avoided or suspected, and as coordinator
    /// those that want to join.
    fn probe(&mut self, now: Duration, tick: bool, effects: &mut Vec<Effect>) {
        let ring = &self.ring;
        let after = ring.partition_point(|&id| id <= self.me);
        let others = ring.len() - usize::from(ring.binary_search(&self.me).is_ok());
        let around = ring[after..].iter().chain(&ring[..after]).filter(|&&id| id != self.me);
        let mut targets: Vec<NodeId> = around.take(self.timing.successors.min(others)).copied().collect();
        let known = |id: &NodeId| ring.binary_search(id).is_ok() || self.leases.contains_key(id);
        targets.extend(self.peers.watched().filter(known));
        if self.ours {
            targets.extend(self.joining());
        }
        targets.sort_unstable();
        targets.dedup();
        targets.retain(|&target| target != self.me);
        for target in self.peers.due(&targets, now) {
            effects.push(Effect::Probe(target));
        }
        if tick {
            // A dead member is remembered as avoided, so that its return ends that; whoever is forgotten is avoided no more.
            let (targets, view) = (&targets, &self.view);
            let wanted = |id: &NodeId| targets.binary_search(id).is_ok() || view.member(*id).is_some();
            let forgotten = self.peers.keep(wanted);
            effects.extend(forgotten.into_iter().map(|id| Effect::Avoid(id, false)));
        }
    }

    fn check_isolation(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let limit = self.timing.isolation;
        let others = self.view.serving().any(|member| member.id != self.me);
        let cut_off =
            others && now.saturating_sub(self.renewed) > limit && now.saturating_sub(self.answered) > limit;
        if cut_off != self.isolated {
            self.isolated = cut_off;
            effects.push(Effect::Isolated(cut_off));
        }
    }

    /// Epoch that a new view gets.
    const fn next_epoch(&self) -> Epoch {
        self.view.epoch.next()
    }
}

#[cfg(test)]
mod tests;
