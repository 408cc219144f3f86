//! How calls get to other nodes: the `rpc` crate's connections, or the simulator's network.

use bytes::Bytes;
use cluster::Load;
use futures_util::future::BoxFuture;
use rpc::{Error, MetricsSnapshot, PeerAddress, Pool};
use std::time::Duration;

/// Head and body of an answer.
pub type Answer = Result<(Bytes, Bytes), Error>;

pub trait Transport: Send + Sync {
    /// Asks a peer, and ends at the deadline at the latest. Dropping the future gives up the answer only.
    fn call(&self, peer: PeerAddress, head: Bytes, body: Bytes, deadline: Duration) -> BoxFuture<'_, Answer>;

    /// The load report that rides on every call and answer from now on.
    fn set_load(&self, load: Load);

    fn metrics(&self) -> MetricsSnapshot;
}

/// All requests are one method; which one is in the message.
const METHOD: u16 = 1;

impl Transport for Pool {
    fn call(&self, peer: PeerAddress, head: Bytes, body: Bytes, deadline: Duration) -> BoxFuture<'_, Answer> {
        let peer = self.peer(peer);
        Box::pin(async move {
            let response = peer.call(METHOD, head, body, deadline).await?;
            Ok((response.head, response.body))
        })
    }

    fn set_load(&self, load: Load) {
        Self::set_load(self, load.to_bits());
    }

    fn metrics(&self) -> MetricsSnapshot {
        self.endpoint().metrics().snapshot()
    }
}
