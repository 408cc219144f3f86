//! The shell around [`cluster::membership`]: feeds it Leases, probes and the outcome of calls, and carries out
//! what it says.

use crate::log_heads;
use crate::node::Node;
use crate::wire::{Request, Response};
use cluster::membership::{Effect, Event, Membership, ObservedLease, Timing};
use cluster::{Epoch, Incarnation, Member, NodeId, View};
use lease::{CoordinatorLease, LeaseError, LeaseService, MemberLease, Observer, Trouble};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(50);
/// How often the Leases are read, which asks nobody where they are watched.
const LOOK: Duration = Duration::from_millis(300);
/// A node that did not run for so long was stopped: it is avoided by then, and may be out of the view.
const STOPPED: Duration = Duration::from_secs(1);
/// After that it learns of a newer view by its next look at the Leases or the next probe, within this time.
const CATCH_UP: Duration = Duration::from_millis(600);
/// Events that wait for the machine; more are dropped, as the next probe tells the same.
const EVENTS: usize = 4096;

/// What the rest of the node tells the membership, and asks it.
pub struct MembershipHandle {
    events: mpsc::Sender<Event>,
    known: Arc<Mutex<Known>>,
    isolated: Arc<AtomicBool>,
    running: Arc<Running>,
}

/// Whether this process ran all the time.
struct Running(Mutex<(Instant, Option<Instant>)>);

impl Running {
    fn new() -> Self {
        Self(Mutex::new((Instant::now(), None)))
    }

    /// Called all the time.
    fn tick(&self) {
        let mut times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if times.0.elapsed() > STOPPED {
            times.1 = Some(Instant::now());
        }
        times.0 = Instant::now();
    }

    /// How long to wait until the view is not from before a stop.
    fn wait(&self) -> Duration {
        let (ticked, woken) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ticked.elapsed() > STOPPED {
            return CATCH_UP;
        }
        woken.map_or(Duration::ZERO, |at| CATCH_UP.saturating_sub(at.elapsed()))
    }
}

#[derive(Default)]
struct Known {
    coordinator: Option<NodeId>,
    /// Nodes with a Lease that may not be in the view yet.
    candidates: Vec<Member>,
}

/// The other end of a [`MembershipHandle`].
pub struct Driver {
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    known: Arc<Mutex<Known>>,
    isolated: Arc<AtomicBool>,
    running: Arc<Running>,
}

impl MembershipHandle {
    pub fn new() -> (Self, Driver) {
        let (sender, events) = mpsc::channel(EVENTS);
        let (known, isolated): (Arc<Mutex<Known>>, Arc<AtomicBool>) = Default::default();
        let running = Arc::new(Running::new());
        let driver = Driver {
            events,
            sender: sender.clone(),
            known: known.clone(),
            isolated: isolated.clone(),
            running: running.clone(),
        };
        (Self { events: sender, known, isolated, running }, driver)
    }

    fn tell(&self, event: Event) {
        // Full: dropping one is safe, probes repeat what matters.
        let _ = self.events.try_send(event);
    }

    pub fn operation_succeeded(&self, node: NodeId) {
        self.tell(Event::OperationSucceeded(node));
    }

    pub fn operation_failed(&self, node: NodeId) {
        self.tell(Event::OperationFailed(node));
    }

    pub fn suspect_reported(&self, about: NodeId) {
        self.tell(Event::Suspected(about));
    }

    pub fn view_received(&self, view: View, root: Option<NodeId>) {
        self.tell(Event::ViewReceived { view, root });
    }

    pub fn coordinator(&self) -> Option<NodeId> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).coordinator
    }

    /// A node that is not in the view but has a Lease.
    pub fn candidate(&self, id: NodeId) -> Option<Member> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.candidates.iter().find(|member| member.id == id).cloned()
    }

    /// If this process was stopped, its view is from before: waits until it has had the time to learn of the next.
    pub async fn after_stop(&self) {
        loop {
            let wait = self.running.wait();
            if wait.is_zero() {
                return;
            }
            tracing::warn!(?wait, "this process was stopped; its view is looked up first");
            tokio::time::sleep(wait).await;
        }
    }

    /// Neither the Lease service nor any peer answers us.
    pub fn is_isolated(&self) -> bool {
        self.isolated.load(Ordering::Relaxed)
    }
}

/// Runs until the node stops; then releases its Leases.
pub async fn run<L: LeaseService>(
    node: Arc<Node>,
    mut driver: Driver,
    leases: L,
    mut lease: MemberLease,
    mut stopping: watch::Receiver<bool>,
) {
    tokio::select! {
        biased;
        _ = stopping.wait_for(|stopping| *stopping) => return,
        admitted = log_heads::admit(&node, &leases) => if !admitted {
            return;
        },
    }
    let replace_after = Duration::from_secs(node.healing.settings.replace_after_seconds);
    let timing = Timing { replace_after, ..Timing::default() };
    let started = Instant::now();
    let mut core = Membership::new(node.id, timing, Duration::ZERO, remembered(&node.store));
    let renewals = Arc::default();
    let shell = Shell { node: node.clone(), leases, sender: driver.sender.clone(), started, renewals };
    let (mut tick, mut look) = (tokio::time::interval(TICK), tokio::time::interval(LOOK));
    let mut renew = Instant::now();
    let mut under_way = JoinSet::new();
    let leases_seen = Arc::new(tokio::sync::Mutex::new(LeasesSeen::default()));
    loop {
        let event = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => break,
            _ = look.tick() => {
                let (shell, leases_seen) = (shell.clone(), leases_seen.clone());
                let epoch = core.view().epoch;
                while under_way.try_join_next().is_some() {}
                under_way.spawn(async move { shell.look(&leases_seen, &timing, epoch).await });
                continue;
            }
            _ = tick.tick() => Event::Tick,
            // After the timers, which come rarely: events may come in a flood.
            Some(event) = driver.events.recv() => event,
        };
        driver.running.tick();
        let (interval, duration) = timing.renewal_for(sharing_renewals(core.view().members.len()));
        let draining = node.healing.is_draining();
        if renew.elapsed() >= interval || lease.renewals == 0 || lease.draining != draining {
            lease.draining = draining;
            renew = Instant::now();
            lease.renewals += 1;
            lease.duration_millis = duration.as_millis() as u64;
            let (shell, lease) = (shell.clone(), lease.clone());
            under_way.spawn(async move { shell.renew(lease).await });
        }
        let effects = core.handle(started.elapsed(), event);
        {
            let mut known = driver.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.coordinator = core.coordinator();
            known.candidates = core.candidates();
        }
        for effect in effects {
            let epoch = core.view().epoch;
            match effect {
                Effect::Isolated(isolated) => {
                    tracing::warn!(isolated, "cut off from the Lease service and all peers");
                    driver.isolated.store(isolated, Ordering::Relaxed);
                }
                Effect::TakeCoordination => {
                    let (shell, leases_seen) = (shell.clone(), leases_seen.clone());
                    under_way.spawn(async move {
                        if shell.take_coordination().await {
                            shell.look(&leases_seen, &timing, epoch).await;
                        }
                    });
                }
                effect => shell.carry_out(effect, epoch),
            }
        }
    }
    // A renewal under way could make the Lease again. Nobody reads its outcome any more.
    drop(driver.events);
    under_way.join_all().await;
    shell.leave(&lease.name).await;
}

/// Of the 50 renewals a second for which [`Timing::renewal_for`] spaces the nodes' Leases, two are the coordinator Lease's, at
/// any size: the members share 48, as if they were so many.
const fn sharing_renewals(members: usize) -> usize {
    (members * 25).div_ceil(24)
}

/// What the looks at the Leases remember from one to the next.
#[derive(Default)]
struct LeasesSeen {
    observer: Observer,
    /// When we began the last write of the coordinator Lease that succeeded.
    coordinator_written: Option<Duration>,
    /// The last look failed.
    away: bool,
}

impl LeasesSeen {
    /// Says it when Leases cannot be read, and when they can again: once each, not at every look.
    fn note(&mut self, failure: Option<&LeaseError>) {
        match failure {
            Some(error) if !self.away => {
                tracing::warn!(%error, "Leases cannot be read; until they can, the membership stays as it is");
            }
            None if self.away => tracing::info!("Leases can be read again"),
            _ => {}
        }
        self.away = failure.is_some();
    }

    /// Whether the coordinator Lease, which is ours, is to be renewed now. Until then it is surely ours: nobody takes it
    /// before its duration is over, which is a multiple of the time between renewals.
    fn renewal_is_due(&self, now: Duration, timing: &Timing) -> bool {
        self.coordinator_written.is_none_or(|at| now.saturating_sub(at) >= timing.coordinator_renewal)
    }
}

/// Where the last view is kept on this node's disk, beyond the keys of the user database.
const VIEW_KEY: &[u8] = b"\xff\xffview";

/// The view that this disk's node installed last.
pub fn remembered(store: &storage::Store) -> View {
    let record = store.record(VIEW_KEY).ok().flatten();
    record.and_then(|bytes| postcard::from_bytes(&bytes).ok()).unwrap_or_default()
}

/// A hint for our next life; nothing is wrong if it is lost.
fn remember(node: &Arc<Node>, view: &View) {
    let Ok(bytes) = postcard::to_stdvec(view) else { return };
    let record = storage::Write::Record { key: VIEW_KEY.to_vec(), value: Some(bytes.into()) };
    let node = node.clone();
    tokio::spawn(async move {
        if let Err(error) = node.store.commit(vec![record], storage::Durability::Lazy).await {
            tracing::warn!(%error, "the view is not remembered");
        }
    });
}

struct Shell<L> {
    node: Arc<Node>,
    leases: L,
    sender: mpsc::Sender<Event>,
    started: Instant,
    /// Of our own Lease.
    renewals: Arc<Mutex<Trouble>>,
}

impl<L: Clone> Clone for Shell<L> {
    fn clone(&self) -> Self {
        let Self { node, leases, sender, started, renewals } = self;
        let (node, leases, sender, renewals) =
            (node.clone(), leases.clone(), sender.clone(), renewals.clone());
        Self { node, leases, sender, started: *started, renewals }
    }
}

impl<L: LeaseService> Shell<L> {
    async fn tell(&self, event: Event) {
        let _ = self.sender.send(event).await;
    }

    async fn renew(&self, lease: MemberLease) {
        let outcome = self.leases.renew(&lease).await;
        let said = {
            let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
            match &outcome {
                Ok(()) => renewals.over(),
                Err(_) => renewals.failed(self.started.elapsed()),
            }
        };
        match (outcome, said) {
            (Err(error), Some(times)) => tracing::warn!(%error, times, "Lease not renewed"),
            (Err(_), None) => {}
            (Ok(()), said) => {
                if let Some(times) = said {
                    tracing::info!(times, "Lease renewed again");
                }
                self.tell(Event::Renewed).await;
            }
        }
    }

    fn is_mine(&self, lease: &CoordinatorLease) -> bool {
        lease.holder.as_deref() == Some(&self.node.settings.name)
    }

    /// Reads all Leases, and renews the coordinator Lease if it is ours and due.
    async fn look(&self, seen: &tokio::sync::Mutex<LeasesSeen>, timing: &Timing, epoch: Epoch) {
        let Ok(mut seen) = seen.try_lock() else { return };
        let now = self.started.elapsed();
        let mut failure = None;
        match self.leases.members().await {
            Ok(leases) => {
                let expired = seen.observer.members(&leases, now);
                let observed = leases.into_iter().zip(expired).map(|(lease, expired)| ObservedLease {
                    name: lease.name,
                    incarnation: lease.incarnation,
                    addresses: lease.addresses,
                    zone: lease.zone,
                    draining: lease.draining,
                    expired,
                });
                self.tell(Event::Leases(observed.collect())).await;
            }
            Err(error) => failure = Some(error),
        }
        let coordinator = self.leases.coordinator().await;
        seen.note(failure.as_ref().or(coordinator.as_ref().err()));
        let Ok(lease) = coordinator else { return };
        let lease = lease.unwrap_or_default();
        let mine = self.is_mine(&lease);
        // A holder that came back in a new life has the Lease yet, by its name.
        let vacant = !mine && seen.observer.coordinator_expired(&lease, now);
        let mut ours = mine;
        if !mine {
            seen.coordinator_written = None;
        } else if seen.renewal_is_due(now, timing) {
            let version = lease.version;
            let renewed = CoordinatorLease {
                incarnation: self.incarnation(),
                duration_millis: timing.coordinator_lease.as_millis() as u64,
                ..lease.clone()
            };
            ours = self.leases.write_coordinator(version, renewed).await.is_ok();
            seen.coordinator_written = ours.then_some(now);
        }
        let holder = lease.holder.as_deref().map(NodeId::of_name);
        // A Lease that was lost and made anew may carry an older view than ours; then ours is published again.
        let view = if lease.view.epoch >= epoch { lease.view } else { View::default() };
        self.tell(Event::Coordinator { holder, ours, vacant, view }).await;
    }

    fn incarnation(&self) -> Incarnation {
        self.node.settings.incarnation
    }

    fn carry_out(&self, effect: Effect, epoch: Epoch) {
        let shell = self.clone();
        match effect {
            Effect::Install(view) => {
                remember(&self.node, &view);
                self.node.topology.install(view);
            }
            Effect::Avoid(peer, avoided) => {
                tracing::info!(%peer, avoided, "routing");
                self.node.topology.set_avoided(peer, avoided);
            }
            Effect::Probe(to) => {
                tokio::spawn(async move { shell.probe(to, epoch).await });
            }
            Effect::Report { to, about } => self.node.tell(to, Request::Suspect { about }),
            Effect::Push { view, root, to } => {
                for to in to {
                    self.node.tell(to, Request::View { view: view.clone(), root: Some(root) });
                }
            }
            Effect::Publish(view) => {
                tokio::spawn(async move { shell.publish(view).await });
            }
            // What these change, only the loop has.
            Effect::Isolated(_) | Effect::TakeCoordination => {}
        }
    }

    /// Probes do not go through [`Node::call`]: their outcome is an event of its own.
    async fn probe(&self, to: NodeId, epoch: Epoch) {
        let timeout = Timing::default().probe_timeout;
        let event = match self.node.call(to, Request::Probe { epoch }, timeout).await {
            Ok(Response::Probe { .. }) => Event::ProbeAnswered(to),
            _ => Event::ProbeFailed(to),
        };
        self.tell(event).await;
    }

    /// True if this node has it now: what follows from that need not wait for the next look.
    async fn take_coordination(&self) -> bool {
        let outcome = async {
            let known = self.leases.coordinator().await?.unwrap_or_default();
            let taken = CoordinatorLease {
                holder: Some(self.node.settings.name.clone()),
                incarnation: self.incarnation(),
                duration_millis: Timing::default().coordinator_lease.as_millis() as u64,
                ..known.clone()
            };
            self.leases.write_coordinator(known.version, taken).await
        };
        let outcome = outcome.await;
        match &outcome {
            Ok(()) => tracing::info!("this node is the coordinator now"),
            Err(LeaseError::Conflict) => {}
            Err(error) => tracing::warn!(%error, "coordinator Lease"),
        }
        outcome.is_ok()
    }

    async fn publish(&self, view: View) {
        let outcome = async {
            let known = self.leases.coordinator().await?.unwrap_or_default();
            if !self.is_mine(&known) || known.view.epoch >= view.epoch {
                return Err(LeaseError::Conflict);
            }
            let version = known.version;
            self.leases.write_coordinator(version, CoordinatorLease { view: view.clone(), ..known }).await
        };
        let event = match outcome.await {
            Ok(()) => Event::Published(view),
            Err(_) => Event::PublishFailed,
        };
        self.tell(event).await;
    }

    /// Stops on purpose: nobody has to wait for our Leases to expire.
    async fn leave(&self, name: &str) {
        if let Err(error) = self.leases.release(name).await {
            tracing::warn!(%error, "this node's Lease is not released; the others wait until it expires");
        }
        if let Ok(Some(lease)) = self.leases.coordinator().await
            && self.is_mine(&lease)
        {
            let version = lease.version;
            let _ = self.leases.write_coordinator(version, CoordinatorLease { holder: None, ..lease }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_sees_at_most_fifty_renewals_a_second_at_any_size() {
        let timing = Timing::default();
        for members in 1..=2_000 {
            let (interval, lasts) = timing.renewal_for(sharing_renewals(members));
            let own = members as f64 / interval.as_secs_f64();
            let coordinator = 1.0 / timing.coordinator_renewal.as_secs_f64();
            assert!(
                own + coordinator <= 50.0,
                "{members} members: {own} and {coordinator} renewals a second"
            );
            assert!(lasts >= 3 * interval);
        }
    }

    #[test]
    fn the_coordinator_lease_is_renewed_when_it_is_due_and_well_before_it_ends() {
        let timing = Timing::default();
        let (mut seen, mut written) = (LeasesSeen::default(), Vec::new());
        for look in 0..100 {
            let now = LOOK * look;
            if seen.renewal_is_due(now, &timing) {
                seen.coordinator_written = Some(now);
                written.push(now);
            }
        }
        let pauses: Vec<Duration> = written.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.iter().all(|pause| *pause >= timing.coordinator_renewal), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause * 3 <= timing.coordinator_lease), "{pauses:?}");
    }
}
