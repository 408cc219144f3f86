//! The calling side: peers, and lazily made, shared connections to them.

use crate::connection::caller::{InFlight, Message, NotBegun};
use crate::endpoint::SMALL_MESSAGE;
use crate::link::Link;
use crate::metrics::{GaugeGuard, Metrics, add};
use crate::{Endpoint, Error, Response, trace};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// No deadline is further away than this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Connections that a call tries before it has left: one may close (goodbye, or a new address) just then.
const ATTEMPTS: usize = 3;

/// Where a peer is and who it must prove to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    pub node_id: u64,
    /// Node name, as in the peer's certificate.
    pub name: String,
    /// `host:port` or `ip:port`.
    pub address: String,
}

/// Connections to peers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Pool {
    endpoint: Endpoint,
    peers: Arc<Mutex<Peers>>,
}

/// A peer to call. Cheap to clone. Its connections close, once the calls on them are done, when the pool and all
/// clones have let go of it.
#[derive(Clone, Debug)]
pub struct Peer {
    endpoint: Endpoint,
    address: Arc<PeerAddress>,
    links: Arc<Links>,
}

#[derive(Debug)]
struct Links {
    first: Arc<Link>,
    /// For long messages, if `Options::connections` is 2.
    second: Option<Arc<Link>>,
}

#[derive(Debug, Default)]
struct Peers {
    known: HashMap<u64, Known>,
    /// Grows with every use: who has the lowest was not used for longest.
    clock: u64,
}

#[derive(Debug)]
struct Known {
    peer: Peer,
    used: u64,
}

impl Pool {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, peers: Arc::default() }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sets the load report that travels with every request and response from now on.
    pub fn set_load(&self, load: u64) {
        self.endpoint.set_load(load);
    }

    /// The peer of this id. Connects nothing yet. A new address or name replaces the one known so far; the old
    /// connection closes when the calls on it are done.
    pub fn peer(&self, address: PeerAddress) -> Peer {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.clock += 1;
        let used = peers.clock;
        if let Some(known) = peers.known.get_mut(&address.node_id) {
            if *known.peer.address == address {
                known.used = used;
                return known.peer.clone();
            }
        } else if peers.known.len() >= self.endpoint.options().max_peers {
            peers.forget_oldest();
        }
        let peer = Peer::new(self.endpoint.clone(), address);
        let known = Known { peer: peer.clone(), used };
        if let Some(replaced) = peers.known.insert(peer.address.node_id, known) {
            replaced.peer.links.retire();
        }
        peer
    }
}

impl Peers {
    fn forget_oldest(&mut self) {
        let oldest = self.known.iter().min_by_key(|(_, known)| known.used).map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.known.remove(&id);
        }
    }
}

impl Links {
    fn retire(&self) {
        self.first.retire();
        if let Some(second) = &self.second {
            second.retire();
        }
    }

    fn for_size(&self, size: usize) -> &Arc<Link> {
        match &self.second {
            Some(second) if size > SMALL_MESSAGE => second,
            _ => &self.first,
        }
    }
}

impl Peer {
    fn new(endpoint: Endpoint, address: PeerAddress) -> Self {
        let address = Arc::new(address);
        let link = || Link::new(endpoint.clone(), address.clone());
        let second = (endpoint.options().connections > 1).then(link);
        let links = Arc::new(Links { first: link(), second });
        Self { endpoint, address, links }
    }

    pub fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Sends a request and waits for the response. Dropping the future cancels the call at the peer too.
    ///
    /// # Errors
    /// See [`Error`]; at the deadline at the latest.
    pub async fn call(
        &self,
        method: u16,
        head: Bytes,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Response, Error> {
        let mut counted = Counted::begin(self.endpoint.metrics());
        let deadline = Instant::now() + deadline.min(LONGEST);
        let message = Message { method, head, body, trace_id: trace::current(), one_way: false };
        let result = match self.begin(message, deadline).await {
            Ok(in_flight) => in_flight.answer(deadline).await,
            Err(error) => Err(error),
        };
        counted.end(result)
    }

    /// Sends a request that nobody waits for. Returns when it is queued on a connection.
    ///
    /// # Errors
    /// As [`Peer::call`], for what happens before that.
    pub async fn notify(
        &self,
        method: u16,
        head: Bytes,
        body: Bytes,
        deadline: Duration,
    ) -> Result<(), Error> {
        let mut counted = Counted::begin(self.endpoint.metrics());
        let deadline = Instant::now() + deadline.min(LONGEST);
        let message = Message { method, head, body, trace_id: trace::current(), one_way: true };
        counted.end(self.begin(message, deadline).await.map(|_queued| ()))
    }

    async fn begin(&self, message: Message, deadline: Instant) -> Result<InFlight, Error> {
        let link = self.links.for_size(message.head.len() + message.body.len());
        for _ in 0..ATTEMPTS {
            match link.ready(deadline).await?.begin(&message, deadline).await {
                Ok(in_flight) => return Ok(in_flight),
                Err(NotBegun::Failed(error)) => return Err(error),
                Err(NotBegun::Gone) => {}
            }
        }
        let peer = self.address.name.as_str().into();
        Err(Error::Unreachable { peer, reason: "connections close as soon as they are made".into() })
    }
}

type Gauge = fn(&Metrics) -> &AtomicU64;

/// A call in the metrics, however it ends.
struct Counted {
    metrics: Arc<Metrics>,
    ended: bool,
    _in_flight: GaugeGuard<Gauge>,
}

impl Counted {
    fn begin(metrics: &Arc<Metrics>) -> Self {
        add(&metrics.calls, 1);
        let gauge: Gauge = |metrics| &metrics.calls_in_flight;
        let in_flight = GaugeGuard::new(metrics.clone(), gauge);
        Self { metrics: metrics.clone(), ended: false, _in_flight: in_flight }
    }

    fn end<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.ended = true;
        let metrics = &self.metrics;
        let counter = match &result {
            Ok(_) => return result,
            Err(Error::Unreachable { .. }) => &metrics.calls_unreachable,
            Err(Error::Refused { .. }) => &metrics.calls_refused,
            Err(Error::ConnectionLost { .. }) => &metrics.calls_connection_lost,
            Err(Error::DeadlineExceeded) => &metrics.calls_deadline_exceeded,
            Err(Error::Overloaded) => &metrics.calls_overloaded,
            Err(Error::TooLarge { .. }) => &metrics.calls_too_large,
            Err(Error::HandlerFailed) => &metrics.calls_handler_failed,
        };
        add(counter, 1);
        result
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if !self.ended {
            add(&self.metrics.calls_dropped, 1);
        }
    }
}
