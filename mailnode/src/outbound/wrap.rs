//! Queued messages when the cluster's secret is replaced ([`crate::rotation`]). A queue user has no mailbox whose manager could do it, so the
//! first replica of each message that can be read from does: it has the entry on its disk, and a wrapped key is a register, which
//! joins with whatever the holder writes meanwhile.

use crate::crypto::Version;
use crate::environment;
use crate::manager::wrap_keys;
use crate::node::Node;
use crate::replica::blocking;
use crate::rotation::is_older;
use crate::wire::Failure;
use cluster::{Entry, EntryId, NodeId, Register, UserId};
use std::sync::Arc;

/// Messages in one step.
const STEP: usize = 200;

/// Wraps the keys of queued messages for this version of the secret, of those that are for this node to do.
///
/// # Errors
/// [`Failure::Temporary`]: the rest is done another time.
pub async fn wrap_anew(node: &Arc<Node>, user: UserId, current: Version) -> Result<(), Failure> {
    let mut after: Option<EntryId> = None;
    loop {
        let page = blocking(node, move |node| node.store.entries(user, after, STEP)).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        let readable: Vec<NodeId> = node.topology.readable().into_iter().map(|(id, _)| id).collect();
        let is_mine = |entry: &Entry| {
            entry.replicas.value.iter().find(|replica| readable.contains(replica)) == Some(&node.id)
        };
        let mine: Vec<Entry> =
            page.into_iter().filter(|entry| is_older(entry, current) && is_mine(entry)).collect();
        if mine.is_empty() {
            continue;
        }
        let worker = node.clone();
        let wrapped = environment::blocking(move || wrap_keys(&worker, user, None, mine)).await;
        let wrapped = wrapped.map_err(|error| Failure::Temporary(error.to_string()))?;
        let plan = wrapped.into_iter().map(|(mut entry, key)| {
            entry.blob.key = Register::new(key, node.clock.now());
            entry
        });
        let pushed = node.replication.push(node, plan.collect()).await;
        // Whoever sends them opens them with the new key, once the old secret is gone.
        node.notices.send(node, pushed.durable.into_iter().chain(pushed.newer), None);
    }
}
