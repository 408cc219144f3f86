//! Draining (DESIGN 9): this node goes out of service without losing anything. Its Lease says so, and from the
//! next view on it takes no new mail and manages nobody; its sessions are told to go elsewhere; its entries get
//! replicas without it ([`super::relocate`]). It is done when nothing lives only here and nobody names it.
//!
//! The wish is on disk: a node that restarts goes on draining. Taking it back makes it a member like the others.

use super::blocking;
use crate::node::Node;
use crate::wire::{Failure, Request, Response};
use bytes::Bytes;
use cluster::anti_entropy::Question;
use cluster::{MemberState, NodeId};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Store, Write};

const KEY: &[u8] = b"\xff\xffdraining";
const DEADLINE: Duration = Duration::from_secs(5);
/// Copies counted at most for a report.
const COUNTED: usize = 100_000;

/// How far a node's drain is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainProgress {
    pub draining: bool,
    /// Nothing lives only there and nobody names it: it may be stopped for good.
    pub done: bool,
    /// Copies of messages that are there yet (counted up to 100,000), and MIME parts that others should have and do not.
    pub copies: u64,
    /// Updates that others have not acknowledged yet.
    pub updates: u64,
    /// Names of nodes that still count on it for a message, or that do not answer.
    pub named_by: Vec<String>,
    /// Buckets of the user database whose new replicas have not caught up.
    pub buckets: u64,
    /// Client connections.
    pub connections: u64,
}

/// Did an earlier life of this node want to be drained?
pub fn remembered(store: &Store) -> bool {
    store.record(KEY).is_ok_and(|record| record.is_some())
}

/// Begins or cancels a drain, on any node.
///
/// # Errors
/// [`Failure::NotFound`] if the view has no such member; [`Failure::Invalid`] if it is the last one that could
/// serve.
pub async fn set(node: &Arc<Node>, name: &str, draining: bool) -> Result<(), Failure> {
    let state = node.topology.now();
    let id = NodeId::of_name(name);
    state.view.member(id).ok_or(Failure::NotFound)?;
    if draining && !state.view.active().any(|member| member.id != id) {
        return Err(Failure::Invalid("no other active node could take its mail".into()));
    }
    node.call(id, Request::Drain { draining }, DEADLINE).await?;
    Ok(())
}

/// Begins or cancels a drain of this node. Durable when it returns.
pub(super) async fn set_here(node: &Arc<Node>, draining: bool) -> Result<(), Failure> {
    let value = draining.then(|| Bytes::from_static(b"1"));
    let record = Write::Record { key: KEY.to_vec(), value };
    node.store.commit(vec![record], Durability::Synced).await.map_err(crate::replica::disk)?;
    if node.healing.draining.send_replace(draining) != draining {
        tracing::info!(draining, "drain");
    }
    Ok(())
}

/// How far this node is.
pub(super) async fn progress(node: &Arc<Node>) -> DrainProgress {
    let state = node.topology.now();
    let read = |node: &Node| {
        let (mut count, mut after) = (0, None);
        while count < COUNTED {
            let page = node.store.copies(after, 1_000)?;
            let Some(last) = page.last() else { break };
            after = Some((last.user, last.id));
            count += page.len();
        }
        Ok(count as u64)
    };
    let counted = blocking(node, read).await;
    // Until a round of leases by this view is done nobody knows.
    let parts = node.parts.to_hand_over(state.view.epoch).unwrap_or(1);
    let copies = *counted.as_ref().unwrap_or(&0) + parts;
    let others = state.view.members.iter().filter(|member| member.id != node.id);
    let answers = join_all(others.map(|member| async move {
        let question = Question::Digests { level: 0, parents: Vec::new() };
        let (root, status) = tokio::join!(
            node.call(member.id, Request::Compare(question), DEADLINE),
            node.call(member.id, Request::Status, DEADLINE),
        );
        // Digests of nothing are 0.
        let names_us = match root {
            Ok(Response::Compared(crate::wire::Answer::Digests(root))) => root != [0],
            _ => true,
        };
        let buckets = match status {
            Ok(Response::Status(status)) => status.healing.buckets_left,
            _ => 0,
        };
        (names_us.then(|| member.name.clone()), buckets)
    }))
    .await;
    let buckets = answers.iter().map(|(_, buckets)| buckets).sum();
    let named_by: Vec<String> = answers.into_iter().filter_map(|(name, _)| name).collect();
    // Those that left the view for good are told when they return.
    let waiting = state.view.members.iter().map(|member| node.store.pending_count(member.id));
    let updates = waiting.sum();
    let in_view = state.view.member(node.id).is_some_and(|member| member.state == MemberState::Draining);
    let connections = node.metrics.open_connections();
    let nothing_left = copies == 0 && updates == 0 && named_by.is_empty() && buckets == 0 && counted.is_ok();
    let draining = node.healing.is_draining();
    let done = draining && in_view && nothing_left && connections == 0;
    DrainProgress { draining, done, copies, updates, named_by, buckets, connections }
}
