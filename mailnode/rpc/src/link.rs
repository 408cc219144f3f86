//! A connection to one peer that is made when it is wanted, shared by all who want it, and made again when lost.
//!
//! Invariants: at most one attempt to connect at a time, whatever becomes of the callers who wait for it; after a
//! failed attempt none for a pause that doubles up to `backoff_max`; after a success the pause is forgotten, so
//! that a peer that was restarted is called again at once.

use crate::connection::caller::Caller;
use crate::connection::handshake::{self, HandshakeError};
use crate::metrics::add;
use crate::{Endpoint, Error, PeerAddress};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

type Outcome = Result<Arc<Caller>, Error>;

pub(crate) struct Link {
    endpoint: Endpoint,
    peer: Arc<PeerAddress>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    /// After the last failure; zero if the last attempt succeeded.
    pause: Duration,
}

enum State {
    Idle,
    Connecting(watch::Receiver<Option<Outcome>>),
    Connected(Arc<Caller>),
    Failed { until: Instant, error: Error },
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, peer: Arc<PeerAddress>) -> Arc<Self> {
        let inner = Mutex::new(Inner { state: State::Idle, pause: Duration::ZERO });
        Arc::new(Self { endpoint, peer, inner })
    }

    /// The connection, once there is one.
    pub(crate) async fn ready(self: &Arc<Self>, deadline: Instant) -> Outcome {
        let mut attempt = match self.now() {
            Ok(attempt) => attempt,
            Err(outcome) => return outcome,
        };
        let settled = match timeout_at(deadline, attempt.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_stopped)) => None,
            Err(_elapsed) => return Err(self.unreachable("no connection before the deadline")),
        };
        settled.unwrap_or_else(|| Err(self.unreachable("the attempt to connect was stopped")))
    }

    /// Closes the connection once the calls on it are done; the next call makes another.
    pub(crate) fn retire(&self) {
        let mut inner = self.lock();
        if let State::Connected(caller) = &inner.state {
            caller.retire();
            inner.state = State::Idle;
        }
    }

    /// The outcome if it is known now, or the attempt under way.
    fn now(self: &Arc<Self>) -> Result<watch::Receiver<Option<Outcome>>, Outcome> {
        let mut inner = self.lock();
        match &inner.state {
            State::Connected(caller) if caller.takes_calls() => return Err(Ok(caller.clone())),
            // An attempt that ended without an outcome was stopped with its runtime.
            State::Connecting(attempt) if attempt.has_changed().is_ok() => return Ok(attempt.clone()),
            State::Failed { until, error } if *until > Instant::now() => return Err(Err(error.clone())),
            _ => {}
        }
        let (sender, attempt) = watch::channel(None);
        inner.state = State::Connecting(attempt.clone());
        let link = self.clone();
        // A task of its own: the caller who happened to be first may give up.
        tokio::spawn(async move {
            let outcome = link.connect().await;
            link.settle(&outcome);
            let _ = sender.send(Some(outcome));
        });
        Ok(attempt)
    }

    async fn connect(&self) -> Outcome {
        let metrics = self.endpoint.metrics();
        let limit = self.endpoint.options().connect_timeout;
        match timeout(limit, handshake::connect(&self.endpoint.inner, &self.peer)).await {
            Ok(Ok((stream, agreement))) => {
                add(&metrics.connections_opened, 1);
                tracing::debug!(peer = %self.peer.name, address = %self.peer.address, "connected");
                Ok(Caller::start(self.endpoint.clone(), self.peer.clone(), stream, agreement))
            }
            Ok(Err(HandshakeError::Network(reason))) => {
                add(&metrics.connect_failures, 1);
                Err(self.unreachable(&reason))
            }
            Ok(Err(error)) => {
                add(&metrics.refused_outgoing, 1);
                if matches!(error, HandshakeError::Malformed(_)) {
                    add(&metrics.protocol_errors, 1);
                }
                tracing::warn!(peer = %self.peer.name, address = %self.peer.address, reason = %error, "refused");
                Err(Error::Refused { peer: self.name(), reason: error.to_string().into() })
            }
            Err(_elapsed) => {
                add(&metrics.connect_failures, 1);
                Err(self.unreachable(&format!("no connection within {limit:?}")))
            }
        }
    }

    fn settle(&self, outcome: &Outcome) {
        let mut inner = self.lock();
        match outcome {
            Ok(caller) => {
                inner.pause = Duration::ZERO;
                inner.state = State::Connected(caller.clone());
            }
            Err(error) => {
                let options = self.endpoint.options();
                inner.pause = (inner.pause * 2).clamp(options.backoff_min, options.backoff_max);
                let until = Instant::now() + inner.pause;
                inner.state = State::Failed { until, error: error.clone() };
            }
        }
    }

    fn unreachable(&self, reason: &str) -> Error {
        Error::Unreachable { peer: self.name(), reason: reason.into() }
    }

    fn name(&self) -> Arc<str> {
        self.peer.name.as_str().into()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.retire();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}
