//! What this node should have as an owner and does not: it gets it from whoever has it, throttled like all healing, and each copy is
//! checked against its name. Whoever finds a part missing here says so ([`crate::wire::Request::KeepParts`]), again and again
//! until it is here; so what is forgotten is no loss.

use super::{is_owner, lock, read};
use crate::node::Node;
use crate::replica::is_readable;
use crate::wire::{Request, Response};
use bytes::Bytes;
use cluster::{BlobId, BlobKind};
use futures_util::{StreamExt, stream};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use storage::{Durability, Write};
use tokio::sync::Notify;

const DEADLINE: Duration = Duration::from_secs(30);
/// Parts remembered at a time; the next round of leases finds the others.
const MOST: usize = 10_000;
/// Parts on their way at a time.
const AT_ONCE: usize = 4;
/// After some that nobody gave.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Lacking {
    parts: Mutex<BTreeSet<BlobId>>,
    news: Notify,
}

impl Lacking {
    pub fn add(&self, id: BlobId) {
        let mut parts = lock(&self.parts);
        if parts.len() < MOST && parts.insert(id) {
            self.news.notify_one();
        }
    }

    pub fn remove(&self, id: BlobId) {
        lock(&self.parts).remove(&id);
    }

    pub fn count(&self) -> usize {
        lock(&self.parts).len()
    }

    fn some(&self) -> Vec<BlobId> {
        lock(&self.parts).iter().take(AT_ONCE * 16).copied().collect()
    }
}

/// Until the node stops.
pub async fn run(node: &Arc<Node>) {
    loop {
        let some = node.parts.lacking.some();
        if some.is_empty() {
            node.parts.lacking.news.notified().await;
            continue;
        }
        let mut fetched = stream::iter(some).map(|id| async move { (id, get(node, id).await) });
        let fetched: Vec<(BlobId, bool)> = fetched.by_ref().buffer_unordered(AT_ONCE).collect().await;
        let mut failed = false;
        for (id, got) in fetched {
            // If nobody has it now, whoever wants it will say so again.
            node.parts.lacking.remove(id);
            failed |= !got;
        }
        if failed {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
    }
}

/// True if the part is here now, or need not be.
async fn get(node: &Arc<Node>, id: BlobId) -> bool {
    if !is_owner(node, id) {
        return true;
    }
    if is_readable(node, id).await.unwrap_or(false) {
        return true;
    }
    for source in read::sources(node, id).into_iter().filter(|&source| source != node.id) {
        if node.topology.is_avoided(source) {
            continue;
        }
        match node.call_with(source, Request::Blob { id }, Bytes::new(), DEADLINE).await {
            Ok((Response::Blob, part))
                if BlobId::of(&part) == id && BlobKind::of(&part) == BlobKind::Part =>
            {
                let bytes = part.len() as u64;
                node.healing.throttle(bytes).await;
                let write = Write::Blob { id, parts: part };
                if let Err(error) = node.store.commit(vec![write], Durability::Synced).await {
                    tracing::warn!(part = ?id, %error, "a fetched part cannot be stored");
                    return false;
                }
                node.metrics.healing.copied_bytes.inc_by(bytes);
                node.metrics.parts.fetched.inc();
                return true;
            }
            Ok((Response::Blob, _)) => tracing::error!(part = ?id, %source, "bad copy of a part"),
            Ok(_) => {}
            Err(error) => tracing::debug!(part = ?id, %source, %error, "part not fetched"),
        }
    }
    tracing::warn!(part = ?id, "no other node gives a part that should be here");
    false
}
