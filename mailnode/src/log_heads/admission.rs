//! Before a node serves anything: is its log what it was when peers last heard of it?

use super::keeping::WITNESSES;
use super::signed::{LogId, SignedHead};
use super::{LogHeads, QUARANTINE_KEY, Quarantine, lock, note};
use crate::clock::wall_seconds;
use crate::environment;
use crate::healing::refill;
use crate::membership::remembered;
use crate::node::Node;
use crate::wire::{Request, Response, decode, encode};
use bytes::Bytes;
use cluster::{Incarnation, NodeId};
use futures_util::future::join_all;
use lease::LeaseService;
use rpc::PeerAddress;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use storage::{Comparison, Durability, Head, Write};
use tokio::time::timeout;

/// The log's id, and the life that it began in.
const LOG_KEY: &[u8] = b"\xff\xfflog";
/// Peers that do not answer by then are not waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Between two tries to use a disk that is full.
const AGAIN: Duration = Duration::from_secs(2);
/// Peers that are told of a new log before it is used.
const TOLD: usize = 8;

/// What a peer remembers of us.
struct Memory {
    head: Option<SignedHead>,
    /// It is a member of the cluster and serves.
    serving: bool,
}

/// Compares the log with what peers remember of it, then opens the node to them. False: the log was put into quarantine,
/// and the node must not go on.
pub async fn admit<L: LeaseService>(node: &Arc<Node>, leases: &L) -> bool {
    let (log, began) = loop {
        match identify(node).await {
            Ok(known) => break known,
            Err(error) => {
                tracing::error!(%error, "the log cannot be used; the node stays out of service until it can")
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    let _ = node.log_heads.log.set(log);
    let peers = peers(node, leases).await;
    let memories = ask(node, &peers).await;
    let serving = memories.iter().any(|(_, memory)| memory.serving);
    let mut wrong = None;
    for (peer, memory) in &memories {
        let Some(head) = &memory.head else { continue };
        if !head.is_ours(&*node.log_heads.signer, node.id) {
            tracing::warn!(%peer, "a head of this node's log that it did not sign: was its key replaced?");
            continue;
        }
        if let Some(reason) = judge(node, log, began, head).await {
            wrong = Some(format!("{reason}; node {peer} saw group {} last", head.head));
            break;
        }
    }
    if let Some(reason) = wrong {
        if serving {
            put_aside(node, reason).await;
            return false;
        }
        tracing::error!(
            reason,
            "this node's log is not what its peers saw, but none of them is in service: it is used all the same"
        );
    }
    // Somebody who would have kept a head of ours has none: there was no log before this one.
    let silent = peers.len() - memories.len();
    let witnessed = silent < WITNESSES.min(peers.len());
    if witnessed && memories.iter().all(|(_, memory)| memory.head.is_none()) {
        refill::is_over(node).await;
    }
    tell(node, memories.iter().take(TOLD).filter_map(|(id, _)| peers.get(id))).await;
    node.log_heads.open.store(true, Ordering::Release);
    true
}

/// The log's id and the life that it began in; a log without one begins now.
async fn identify(node: &Arc<Node>) -> storage::Result<(LogId, Incarnation)> {
    let known = node.store.record(LOG_KEY)?.and_then(|bytes| postcard::from_bytes(&bytes).ok());
    if let Some(known) = known {
        return Ok(known);
    }
    let new = (LogId(environment::random_bytes()), node.settings.incarnation);
    let value = postcard::to_stdvec(&new).unwrap_or_default();
    let record = Write::Record { key: LOG_KEY.to_vec(), value: Some(value.into()) };
    node.store.commit(vec![record, refill::begins()], Durability::Synced).await?;
    node.healing.set_refilling(true);
    Ok(new)
}

/// All others that there are or were, as far as we know.
async fn peers<L: LeaseService>(node: &Arc<Node>, leases: &L) -> BTreeMap<NodeId, PeerAddress> {
    let view = remembered(&node.store);
    let mut peers: BTreeMap<NodeId, PeerAddress> = BTreeMap::new();
    let mut add = |name: &str, address: &str| {
        let id = NodeId::of_name(name);
        if id != node.id {
            let (name, address) = (name.to_owned(), address.to_owned());
            peers.insert(id, PeerAddress { node_id: id.0, name, address });
        }
    };
    view.members.iter().for_each(|member| add(&member.name, &member.addresses.rpc));
    if let Ok(Ok(leases)) = timeout(PATIENCE, leases.members()).await {
        leases.iter().for_each(|lease| add(&lease.name, &lease.addresses.rpc));
    }
    peers
}

async fn call(node: &Arc<Node>, peer: &PeerAddress, request: &Request) -> Option<Response> {
    let (head, body) = encode(node.sender(), request, Bytes::new()).ok()?;
    let answer = node.transport.call(peer.clone(), head, body, PATIENCE);
    let (head, body) = timeout(PATIENCE, answer).await.ok()?.ok()?;
    let (sender, response, _) = decode(&head, body).ok()?;
    node.hear(NodeId(peer.node_id), &sender);
    Some(response)
}

async fn ask(node: &Arc<Node>, peers: &BTreeMap<NodeId, PeerAddress>) -> Vec<(NodeId, Memory)> {
    let calls = peers.iter().map(|(&id, peer)| async move {
        match call(node, peer, &Request::KeptHead).await? {
            Response::KeptHead { head, serving } => Some((id, Memory { head, serving })),
            _ => None,
        }
    });
    join_all(calls).await.into_iter().flatten().collect()
}

/// What is wrong with our log, seen from a head that we signed.
async fn judge(node: &Arc<Node>, log: LogId, began: Incarnation, seen: &SignedHead) -> Option<String> {
    if seen.log != log {
        // Of a disk that this one replaced, unless it was in use after this one began.
        let replaced = seen.life < began;
        return (!replaced).then(|| "it is an older log of this node".into());
    }
    let (store, head) = (node.store.clone(), seen.head);
    let compared = environment::blocking(move || store.compare(head)).await;
    match compared {
        Ok(Ok(Comparison::Contains | Comparison::Unknown)) => None,
        Ok(Ok(Comparison::Shorter)) => {
            Some(format!("it was rolled back or cut: it ends with group {}", node.store.head()))
        }
        Ok(Ok(Comparison::Other)) => Some("it was altered, or went on from an older state".into()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the log cannot be compared");
            None
        }
        Err(_) => None,
    }
}

async fn put_aside(node: &Arc<Node>, reason: String) {
    tracing::error!(reason, "this node's log is put into quarantine; the node starts empty and is refilled");
    let quarantine = Quarantine { reason, at: wall_seconds() };
    if let Err(error) = note(&node.store, QUARANTINE_KEY, &quarantine).await {
        tracing::error!(%error, "the quarantine cannot be noted; the node stays out of service");
    }
    node.log_heads.quarantined.send_replace(true);
}

/// Tells peers of our log as it is.
async fn tell(node: &Arc<Node>, peers: impl Iterator<Item = &PeerAddress>) {
    let Some(head) = node.log_heads.sign(node, node.store.head()) else { return };
    let request = Request::KeepHead(head);
    join_all(peers.map(|peer| call(node, peer, &request))).await;
}

impl LogHeads {
    /// None before the log was identified, or if the key cannot sign.
    pub(super) fn sign(&self, node: &Node, head: Head) -> Option<SignedHead> {
        let &log = self.log.get()?;
        SignedHead::new(&*self.signer, node.id, log, head, node.settings.incarnation)
    }

    /// Answers a node that asks for its own head.
    pub fn kept(&self, node: &Node, of: NodeId) -> Response {
        let serving =
            self.is_open() && node.topology.member(node.id).is_some() && !node.membership.is_isolated();
        Response::KeptHead { head: lock(&self.kept).of(of), serving }
    }
}
