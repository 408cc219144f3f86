//! Node-to-node transport.

pub mod endpoint;
pub mod error;
pub mod metrics;
pub mod pki;
pub mod pool;
pub mod server;
pub mod trace;

pub use endpoint::{Endpoint, Identity, LoadCallback, Options, OptionsError, SMALL_MESSAGE};
pub use error::Error;
pub use metrics::{Metrics, MetricsSnapshot};
pub use pool::{Peer, PeerAddress, Pool};
pub use server::{Handler, serve};

use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// What a peer asks.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: u16,
    pub head: Bytes,
    pub body: Bytes,
    /// When the caller gives up; then the handler's future is dropped. Monotonic clock of this node.
    pub deadline: Instant,
    /// Joins the logs of the nodes; 0 if the caller had none. The handler runs inside [`trace::scope`] of it.
    pub trace_id: u64,
    /// Nobody waits for the response; it is thrown away.
    pub one_way: bool,
}

/// What it is told. The meaning of the status is the application's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: Bytes,
    pub body: Bytes,
}

/// Who asks: the name is proved by its certificate, the rest is what it says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    pub node_id: u64,
    pub name: Arc<str>,
    pub incarnation: u64,
    /// Version of the application's protocol on this connection.
    pub version: u16,
    /// Where the connection comes from, or goes to.
    pub address: SocketAddr,
}
