//! The node's end of the node-to-node transport.

use crate::config::Config;
use crate::node::Node;
use crate::wire::{Failure, Request, Response, decode, encode};
use bytes::Bytes;
use cluster::{Incarnation, Load, NodeId};
use rpc::pki::NodeTls;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::Instrument;

/// An operation on an account is not begun if it was on its way, or waited here, for longer: by then the peer avoids us
/// and has asked somebody else, and what the client did there since would be undone.
pub const STALE: Duration = Duration::from_secs(1);

/// This node's identity, certificates and limits, for both ends. Load reports of peers go to the node's topology.
///
/// # Errors
/// If the configuration cannot work.
pub fn endpoint(
    config: &Config,
    tls: NodeTls,
    id: NodeId,
    incarnation: Incarnation,
    node: ThisNode,
) -> Result<rpc::Endpoint, rpc::OptionsError> {
    let identity = rpc::Identity {
        cluster: config.cluster.name.clone(),
        node_id: id.0,
        name: config.name.clone(),
        incarnation: incarnation.0,
    };
    // A body has some bytes more as a blob, most if its parts are many and small; the head of a delivery has an entry a recipient.
    let max_body =
        u32::try_from(config.limits.message_bytes).unwrap_or(u32::MAX / 4).max(64 << 20) + (64 << 10);
    let max_head = 4 << 20;
    let window = (max_body + max_head).max(96 << 20);
    // When the node stops, peers' requests have a little less time than everything together.
    let drain_limit = Duration::from_secs(4);
    let versions = crate::wire::VERSIONS;
    let options =
        rpc::Options { versions, max_body, max_head, window, drain_limit, ..rpc::Options::default() };
    let on_load = Arc::new(move |peer: u64, load: u64| {
        if let Some(node) = node.get().and_then(Weak::upgrade) {
            node.topology.report_load(NodeId(peer), Load::from_bits(load));
        }
    });
    rpc::Endpoint::with_load_callback(identity, tls, options, on_load)
}

/// The node, for parts that are made before it.
pub type ThisNode = Arc<OnceLock<Weak<Node>>>;

pub struct PeerServer {
    node: Arc<Node>,
}

impl PeerServer {
    /// Answers peers until the node stops.
    pub async fn serve(
        node: Arc<Node>,
        listener: TcpListener,
        endpoint: rpc::Endpoint,
        mut stopping: watch::Receiver<bool>,
    ) {
        let stop = async move {
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        rpc::serve(listener, endpoint, Arc::new(Self { node }), stop).await;
    }
}

impl rpc::Handler for PeerServer {
    async fn handle(&self, from: rpc::PeerIdentity, request: rpc::Request) -> rpc::Response {
        let from_id = NodeId(from.node_id);
        let trace = request.trace_id;
        let span = tracing::debug_span!("peer", peer = %from.name, session = format!("{trace:016x}"));
        let answered = answer(self.node.clone(), from_id, request.head, request.body).instrument(span);
        // A task of its own: what was begun is finished, even if the caller gives up.
        let task = tokio::spawn(rpc::trace::scope(trace, answered));
        let (head, body) = match task.await {
            Ok(answer) => answer,
            Err(_) => {
                let failed = Response::Failed(Failure::Temporary("the request failed".into()));
                coded(&self.node, &failed, Bytes::new())
            }
        };
        rpc::Response { status: 0, head, body }
    }
}

/// Head and body of the answer to a peer's request.
pub async fn answer(node: Arc<Node>, from: NodeId, head: Bytes, body: Bytes) -> (Bytes, Bytes) {
    node.transport.set_load(node.load());
    match decode::<Request>(&head, body) {
        Ok((sender, request, body)) => {
            node.hear(from, &sender);
            let late = node.clock.lateness(from, sender.sent);
            if late > STALE && matches!(request, Request::User { .. }) {
                tracing::warn!(peer = %from, ?late, "a request came too late; its caller has asked another node");
                return coded(&node, &Response::Failed(Failure::Late), Bytes::new());
            }
            let harmless =
                matches!(request, Request::Probe { .. } | Request::KeepHead(_) | Request::KeptHead);
            if !harmless && !node.log_heads.is_open() {
                let failed =
                    Failure::Temporary("this node compares its log with its peers; try again".into());
                return coded(&node, &Response::Failed(failed), Bytes::new());
            }
            let span = tracing::debug_span!("request", name = request.name());
            let (response, body) = node.clone().handle(from, request, body).instrument(span).await;
            coded(&node, &response, body)
        }
        Err(error) => {
            tracing::warn!(%error, "request not understood");
            coded(&node, &Response::Failed(Failure::Invalid("request not understood".into())), Bytes::new())
        }
    }
}

fn coded(node: &Node, response: &Response, body: Bytes) -> (Bytes, Bytes) {
    encode(node.sender(), response, body).unwrap_or_default()
}
