//! An empty disk asks the others for their tombstones (DESIGN 4, invariant "no resurrection").
//!
//! Comparisons leave tombstones out, so a disk that was wiped would get back the living entries only, and of what was
//! expunged the other replica would be the only one to know: were that disk to come back old, the mail would, too.
//! So a node asks each member once in the life of its *disk* for the tombstones of the entries that both should
//! have, and remembers on that disk whom it asked.

use super::blocking;
use crate::node::Node;
use crate::replica::{self, disk};
use crate::wire::{Failure, PAGE, PendingEntry, Request, Response};
use bytes::Bytes;
use cluster::{EntryId, NodeId, UserId, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Write};

const TICK: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);

fn key(peer: NodeId) -> Vec<u8> {
    let mut key = b"tombstones-of/".to_vec();
    key.extend_from_slice(&peer.0.to_be_bytes());
    key
}

/// Until the node stops.
pub async fn run(node: &Arc<Node>) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tick.tick().await;
        for (peer, _) in node.topology.readable() {
            if peer == node.id || super::lock(&node.healing.tombstones_of).contains(&peer) {
                continue;
            }
            match ask(node, peer).await {
                Ok(count) => {
                    if count > 0 {
                        tracing::info!(%peer, count, "tombstones of an empty disk fetched");
                    }
                    super::lock(&node.healing.tombstones_of).insert(peer);
                }
                Err(failure) => tracing::debug!(%peer, %failure, "tombstones not fetched"),
            }
        }
    }
}

/// Fetches a member's tombstones, unless this disk has them.
async fn ask(node: &Arc<Node>, peer: NodeId) -> Result<usize, Failure> {
    if node.store.record(&key(peer)).map_err(disk)?.is_some() {
        return Ok(0);
    }
    let (mut after, mut count) = (None, 0);
    loop {
        let request = Request::Tombstones { after };
        let Response::Fragment { entries, more } = node.call(peer, request, DEADLINE).await? else {
            return Err(Failure::Temporary("unexpected answer".into()));
        };
        after = entries.last().map(|entry| (entry.user, entry.id));
        count += entries.len();
        let settled = entries.into_iter().map(PendingEntry::settled).collect();
        replica::update(node, peer, settled).await?;
        if !more || after.is_none() {
            break;
        }
    }
    let asked = Write::Record { key: key(peer), value: Some(Bytes::from_static(b"1")) };
    node.store.commit(vec![asked], Durability::Synced).await.map_err(disk)?;
    Ok(count)
}

/// A page of the tombstones here of entries that the peer should have, too.
///
/// # Errors
/// If the disk fails.
pub async fn answer(
    node: &Arc<Node>,
    from: NodeId,
    after: Option<(UserId, EntryId)>,
) -> Result<Response, Failure> {
    let mut entries = blocking(node, move |node| node.store.tombstones(from, after, PAGE + 1)).await?;
    let more = entries.len() > PAGE;
    entries.truncate(PAGE);
    Ok(Response::Fragment { entries, more })
}

/// Members that were not asked yet.
pub fn left(asked: &BTreeSet<NodeId>, me: NodeId, view: &View) -> u64 {
    view.members.iter().filter(|member| member.id != me && !asked.contains(&member.id)).count() as u64
}
