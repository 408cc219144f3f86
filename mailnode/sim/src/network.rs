//! The simulated network, and the node's [`Transport`] over it.
//!
//! It keeps the contract of the `rpc` crate: a call's request reaches the peer at most once (but see
//! [`Conditions::duplicate`]), its answer comes at most once, and every call ends by its deadline. Within that
//! anything may happen: messages are slow, overtake each other, are lost with their connection in either
//! direction, or are held back while a link is cut.

use crate::dice::Dice;
use crate::tamper::Tamper;
use crate::trace::Trace;
use bytes::Bytes;
use cluster::{Load, NodeId};
use futures_util::future::BoxFuture;
use mailnode::transport::{Answer, Transport};
use mailnode::wire::{Request, decode};
use rpc::{Error, MetricsSnapshot, PeerAddress};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// Index of a host.
pub type Host = usize;

/// How the network is now. All chances are one in so many messages; 0: never.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    pub lose: usize,
    pub delay: usize,
    /// Requests that may be repeated are done twice, as by a caller who asks again.
    pub duplicate: usize,
    /// Directions that carry nothing.
    pub cut: BTreeSet<(Host, Host)>,
    /// Added to whatever goes to or from a host.
    pub slow: BTreeMap<Host, Duration>,
}

pub struct Delivery {
    pub from: Host,
    pub to: Host,
    pub call: Option<u64>,
    pub head: Bytes,
    pub body: Bytes,
    pub load: u64,
}

enum Packet {
    Request(Delivery),
    Answer { call: u64, from: Host, to: Host, load: u64, answer: Answer },
}

struct Call {
    from: Host,
    to: Host,
    sender: oneshot::Sender<Answer>,
}

pub struct Network {
    pub now: Duration,
    pub conditions: Conditions,
    pub tamper: Tamper,
    pub trace: Trace,
    dice: Dice,
    hosts: BTreeMap<NodeId, Host>,
    up: BTreeSet<Host>,
    calls: BTreeMap<u64, Call>,
    queue: BTreeMap<(Duration, u64), Packet>,
    serial: u64,
}

/// What the world has to do for a packet that arrived.
pub enum Arrival {
    Request(Delivery),
    /// An answer was given to its caller; the load report in it is for the world to pass on.
    Load {
        to: Host,
        about: Host,
        load: u64,
    },
}

impl Network {
    pub fn new(dice: Dice, hosts: BTreeMap<NodeId, Host>, tamper: Tamper, trace: Trace) -> Self {
        Self {
            now: Duration::ZERO,
            conditions: Conditions::default(),
            tamper,
            trace,
            dice,
            hosts,
            up: BTreeSet::new(),
            calls: BTreeMap::new(),
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    fn put(&mut self, delay: Duration, packet: Packet) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), packet);
    }

    fn delay(&mut self, from: Host, to: Host) -> Duration {
        let mut delay = self.dice.micros(100, 2_000);
        if self.conditions.delay > 0 && self.dice.one_in(self.conditions.delay) {
            delay += self.dice.millis(10, 600);
        }
        let slow = |host| self.conditions.slow.get(&host).copied().unwrap_or_default();
        delay + slow(from) + slow(to)
    }

    fn lost(&mut self) -> bool {
        self.conditions.lose > 0 && self.dice.one_in(self.conditions.lose)
    }

    fn cut(&self, from: Host, to: Host) -> bool {
        self.conditions.cut.contains(&(from, to))
    }

    fn fail(&mut self, call: u64, error: Error, delay: Duration) {
        if let Some(Call { from, to, .. }) = self.calls.get(&call) {
            let (from, to) = (*to, *from);
            self.put(delay, Packet::Answer { call, from, to, load: 0, answer: Err(error) });
        }
    }

    fn begin(
        &mut self,
        from: Host,
        peer: &PeerAddress,
        head: Bytes,
        body: Bytes,
        load: u64,
    ) -> (u64, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        self.serial += 1;
        let call = self.serial;
        let Some(&to) = self.hosts.get(&NodeId(peer.node_id)) else { return (call, receiver) };
        self.calls.insert(call, Call { from, to, sender });
        let name: Arc<str> = peer.name.as_str().into();
        if self.cut(from, to) {
            return (call, receiver);
        }
        if !self.up.contains(&to) {
            self.fail(
                call,
                Error::Unreachable { peer: name, reason: "refused".into() },
                Duration::from_millis(1),
            );
            return (call, receiver);
        }
        let Some((head, body)) = self.tamper.request(to, head, body) else {
            return (call, receiver);
        };
        if self.lost() {
            let delay = self.dice.millis(5, 400);
            self.fail(call, Error::ConnectionLost { peer: name, reason: "lost".into() }, delay);
            return (call, receiver);
        }
        let delay = self.delay(from, to);
        let twice = self.conditions.duplicate > 0 && self.dice.one_in(self.conditions.duplicate);
        if twice
            && decode::<Request>(&head, body.clone()).is_ok_and(|(_, request, _)| request.may_come_late())
        {
            let again = Delivery { from, to, call: None, head: head.clone(), body: body.clone(), load };
            let later = delay + self.dice.millis(0, 1_500);
            self.put(later, Packet::Request(again));
        }
        self.put(delay, Packet::Request(Delivery { from, to, call: Some(call), head, body, load }));
        (call, receiver)
    }

    /// What the host that was asked says.
    pub fn answer(&mut self, from: Host, call: u64, (head, body): (Bytes, Bytes), load: u64) {
        let Some(&Call { from: to, .. }) = self.calls.get(&call) else { return };
        if self.cut(from, to) {
            return;
        }
        let (head, body) = self.tamper.answer(head, body);
        if self.lost() {
            let delay = self.dice.millis(5, 400);
            self.fail(call, Error::ConnectionLost { peer: "peer".into(), reason: "lost".into() }, delay);
            return;
        }
        let delay = self.delay(from, to);
        self.put(delay, Packet::Answer { call, from, to, load, answer: Ok((head, body)) });
    }

    pub fn came_up(&mut self, host: Host) {
        self.up.insert(host);
    }

    /// The process is gone: its calls are, and those to it fail, at once if the machine is still there to say so.
    pub fn went_down(&mut self, host: Host) {
        self.up.remove(&host);
        self.calls.retain(|_, call| call.from != host);
        let told = self.dice.one_in(2);
        let broken: Vec<u64> =
            self.calls.iter().filter(|(_, call)| call.to == host).map(|(&call, _)| call).collect();
        for call in broken.into_iter().filter(|_| told) {
            let error = Error::ConnectionLost { peer: "peer".into(), reason: "closed".into() };
            self.fail(call, error, Duration::from_millis(2));
        }
    }

    /// The next packet that is due. Those to hosts that are `held` (stopped processes) wait.
    pub fn next_arrival(&mut self, held: &BTreeSet<Host>) -> Option<Arrival> {
        loop {
            let due = self.queue.range(..=(self.now, u64::MAX));
            let (&key, _) = due.into_iter().find(|(_, packet)| !held.contains(&packet.to()))?;
            let packet = self.queue.remove(&key)?;
            match packet {
                Packet::Request(delivery) => {
                    if !self.up.contains(&delivery.to) {
                        if let Some(call) = delivery.call {
                            let reason = "closed".into();
                            let error = Error::ConnectionLost { peer: "peer".into(), reason };
                            self.fail(call, error, Duration::from_millis(1));
                        }
                        continue;
                    }
                    let (from, to) = (delivery.from, delivery.to);
                    self.trace.note(format!("{:?} {from} > {to}", key.0).as_bytes());
                    self.trace.note(&delivery.head);
                    return Some(Arrival::Request(delivery));
                }
                Packet::Answer { call, from, to, load, answer } => {
                    let Some(waiting) = self.calls.remove(&call) else { continue };
                    match &answer {
                        Ok((head, _)) => self.trace.note(head),
                        Err(error) => self.trace.note(error.to_string().as_bytes()),
                    }
                    let reports = answer.is_ok();
                    let _ = waiting.sender.send(answer);
                    if reports {
                        return Some(Arrival::Load { to, about: from, load });
                    }
                }
            }
        }
    }
}

impl Packet {
    const fn to(&self) -> Host {
        match self {
            Self::Request(delivery) => delivery.to,
            Self::Answer { to, .. } => *to,
        }
    }
}

#[derive(Clone)]
pub struct SharedNetwork(Arc<Mutex<Network>>);

impl SharedNetwork {
    pub fn new(network: Network) -> Self {
        Self(Arc::new(Mutex::new(network)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Network> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One host's end of the network.
pub struct Port {
    pub network: SharedNetwork,
    pub host: Host,
    pub load: AtomicU64,
}

impl Transport for Port {
    fn call(&self, peer: PeerAddress, head: Bytes, body: Bytes, deadline: Duration) -> BoxFuture<'_, Answer> {
        let load = self.load.load(Ordering::Relaxed);
        let (call, answer) = self.network.lock().begin(self.host, &peer, head, body, load);
        Box::pin(async move {
            let outcome = tokio::time::timeout(deadline, answer).await;
            match outcome {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => {
                    Err(Error::ConnectionLost { peer: peer.name.as_str().into(), reason: "gone".into() })
                }
                Err(_) => {
                    self.network.lock().calls.remove(&call);
                    Err(Error::DeadlineExceeded)
                }
            }
        })
    }

    fn set_load(&self, load: Load) {
        self.load.store(load.to_bits(), Ordering::Relaxed);
    }

    fn metrics(&self) -> MetricsSnapshot {
        MetricsSnapshot::default()
    }
}
