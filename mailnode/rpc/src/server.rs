//! The answering side.

use crate::connection::answerer::Answerer;
use crate::connection::handshake;
use crate::metrics::add;
use crate::{Endpoint, PeerIdentity, Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Pause after an accept that failed, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers requests of peers.
pub trait Handler: Send + Sync + 'static {
    /// Runs as a task of its own, concurrently with others. Its future is dropped, at any point where it awaits,
    /// when the caller gives up, the deadline passes or the connection breaks: what must not be interrupted goes
    /// into a task of its own.
    fn handle(&self, from: PeerIdentity, request: Request) -> impl Future<Output = Response> + Send;
}

/// Serves peers until `shutdown` resolves; then says goodbye, lets running requests finish within
/// `Options::drain_limit`, and returns. Dropping the future closes everything at once.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    endpoint: Endpoint,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let places = Arc::new(Semaphore::new(endpoint.options().max_connections));
    let (stop, stopping) = watch::channel(false);
    // Dropped with this future, and all connections with it.
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a peer");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            add(&endpoint.metrics().refused_incoming, 1);
            tracing::warn!(%address, "too many connections");
            continue;
        };
        let connection = Connection { endpoint: endpoint.clone(), address, handler: handler.clone() };
        connections.spawn(connection.serve(stream, stopping.clone(), place));
    }
    // Peers that come now find another node.
    drop(listener);
    let _ = stop.send(true);
    let drain = async { while connections.join_next().await.is_some() {} };
    if timeout(endpoint.options().drain_limit, drain).await.is_err() {
        tracing::warn!("some requests of peers did not end in time");
    }
}

struct Connection<H> {
    endpoint: Endpoint,
    address: SocketAddr,
    handler: Arc<H>,
}

impl<H: Handler> Connection<H> {
    async fn serve(
        self,
        stream: TcpStream,
        mut stopping: watch::Receiver<bool>,
        _place: OwnedSemaphorePermit,
    ) {
        let Self { endpoint, address, handler } = self;
        let limit = endpoint.options().accept_timeout;
        let handshake = timeout(limit, handshake::accept(&endpoint.inner, stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            // Nobody has asked anything yet.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let (stream, hello, agreement) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                error.count_incoming(&endpoint.inner);
                tracing::warn!(%address, reason = %error, "peer refused");
                return;
            }
            Err(_elapsed) => {
                tracing::debug!(%address, "peer did not finish its handshake");
                return;
            }
        };
        add(&endpoint.metrics().connections_accepted, 1);
        let peer = PeerIdentity {
            node_id: hello.identity.node_id,
            name: hello.identity.name.into(),
            incarnation: hello.identity.incarnation,
            version: agreement.version,
            address,
        };
        tracing::debug!(peer = %peer.name, %address, version = peer.version, "peer connected");
        Answerer::new(endpoint, peer, agreement.limits, handler).run(stream, stopping).await;
    }
}
