//! Node-to-node transport: calls from one mail node to another over mutual TLS 1.3.
//!
//! A [`Pool`] makes connections when they are wanted; [`Peer::call`] sends a [`Request`] and brings the
//! [`Response`]; [`serve`] answers those of others with a [`Handler`]. What a request means is the application's.
//!
//! What holds throughout:
//! - Both ends of a connection have proved their names by certificates of the cluster's CA ([`pki`]), are of the
//!   same cluster, and have agreed on a version before anything else is said.
//! - Every call ends: with a response, at its deadline, or when its connection is lost; and then its handler ends.
//! - Many calls share a connection, in frames of bounded size (`protocol/frame.rs` is the specification), so that a
//!   long message holds up a short one for a frame or two at most. Bytes of messages are not copied on the way
//!   out, and once on the way in.
//! - Whatever waits, is queued or is remembered is bounded by [`Options`]; what a peer merely claims costs nothing.

mod connection;
pub mod endpoint;
pub mod error;
mod link;
pub mod metrics;
pub mod pki;
pub mod pool;
mod protocol;
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
