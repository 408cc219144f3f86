//! Bodies on their way to and from peers: a few at a time, no faster than `healing.bytesPerSecond`, and not while
//! the disk at either end has mail to take.

use super::Healing;
use crate::node::Node;
use crate::wire::{Failure, PendingEntry, Request, Response};
use bytes::Bytes;
use cluster::{BlobId, Entry, NodeId};
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Write};

const ASK: Duration = Duration::from_secs(5);
const BODY: Duration = Duration::from_secs(30);
/// Bodies on their way at a time.
const AT_ONCE: usize = 8;
/// With more operations waiting for a disk than this, healing waits, a little each time.
const BUSY: u32 = 32;
const YIELD: Duration = Duration::from_millis(20);
const YIELDS: usize = 50;

/// Lets those who read and send mail go first, for at most a second, and keeps to the rate.
async fn patience(node: &Node, peer: NodeId, bytes: u64) {
    for _ in 0..YIELDS {
        if node.store.load().pending <= BUSY && node.topology.load(peer).pending <= BUSY {
            break;
        }
        tokio::time::sleep(YIELD).await;
    }
    let healing: &Healing = &node.healing;
    healing.throttle(bytes).await;
    node.metrics.healing.copied_bytes.inc_by(bytes);
}

/// Brings to the peer the bodies of these entries that it lacks, each with one entry that refers to it.
///
/// # Errors
/// If the peer does not answer or refuses. A body that cannot be read here is left out.
pub async fn bodies(node: &Arc<Node>, peer: NodeId, entries: &[PendingEntry]) -> Result<(), Failure> {
    let by_body: BTreeMap<BlobId, &PendingEntry> =
        entries.iter().map(|pending| (pending.entry.blob.id, pending)).collect();
    if by_body.is_empty() {
        return Ok(());
    }
    let blobs = by_body.keys().copied().collect();
    let Response::Missing(missing) = node.call(peer, Request::Missing { blobs }, ASK).await? else {
        return Err(Failure::Temporary("unexpected answer".into()));
    };
    let wanted = missing.into_iter().filter_map(|id| by_body.get(&id).map(|&pending| pending.clone()));
    let wanted: Vec<PendingEntry> = wanted.collect();
    let mut sent = stream::iter(wanted)
        .map(|pending| async move {
            let id = pending.entry.blob.id;
            let Ok(Some(ciphertext)) = node.store.blob(id).await else {
                node.healing.body_missing(id);
                return Ok(());
            };
            patience(node, peer, ciphertext.len() as u64).await;
            let request = Request::Store { entries: vec![pending] };
            node.call_with(peer, request, ciphertext, BODY).await.map(|_| ())
        })
        .buffer_unordered(AT_ONCE);
    while let Some(outcome) = sent.next().await {
        outcome?;
    }
    Ok(())
}

/// Fetches the bodies of those entries that should be here and are not, from the first of `sources` (if none is
/// given, the other replicas) that has them.
///
/// # Errors
/// If the disk fails. A body that nobody gives is left out.
pub async fn fetch_bodies(node: &Arc<Node>, sources: &[NodeId], entries: &[Entry]) -> Result<u64, Failure> {
    let mut seen = BTreeSet::new();
    let wanted = entries.iter().filter(|entry| node.store.holds(entry) && seen.insert(entry.blob.id));
    let wanted = wanted.filter(|entry| !node.store.has_blob(entry.blob.id).unwrap_or(true));
    let fetched = stream::iter(wanted.cloned().collect::<Vec<_>>()).map(|entry| async move {
        let id = entry.blob.id;
        let sources = if sources.is_empty() { entry.other_replicas(node.id) } else { sources.to_vec() };
        let body = fetch(node, id, entry.blob.size, &sources).await?;
        let write = Write::Blob { id, parts: body };
        if let Err(error) = node.store.commit(vec![write], Durability::Synced).await {
            tracing::warn!(blob = ?id, %error, "a fetched body cannot be stored");
            return None;
        }
        Some(())
    });
    let mut fetched = fetched.buffer_unordered(AT_ONCE);
    let mut count = 0;
    while let Some(outcome) = fetched.next().await {
        count += u64::from(outcome.is_some());
    }
    Ok(count)
}

/// The body, from the first that has a good one.
pub async fn fetch(node: &Arc<Node>, id: BlobId, size: u64, sources: &[NodeId]) -> Option<Bytes> {
    for &source in sources {
        patience(node, source, size).await;
        match node.call_with(source, Request::Blob { id }, Bytes::new(), BODY).await {
            Ok((Response::Blob, body)) if BlobId::of(&body) == id => return Some(body),
            Ok(_) => tracing::warn!(blob = ?id, %source, "bad copy of a body"),
            Err(error) => tracing::debug!(blob = ?id, %source, %error, "body not fetched"),
        }
    }
    None
}
