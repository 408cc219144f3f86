//! A new log says nothing of what its predecessor on a lost disk had (unless peers know that there was none: a new node): that a message is not on this disk
//! does not mean that it is nowhere. Until it was found equal with every member once, this node says so with each of its messages
//! (`wire::Sender`), and managers count its fragments as unread ([`crate::manager`]).

use super::compare;
use crate::node::Node;
use cluster::NodeId;
use cluster::redelivery::GRACE;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Store, Write};

const TICK: Duration = Duration::from_millis(250);
/// In the log until all is there.
const KEY: &[u8] = b"\xff\xffrefilling";

/// As an earlier life of this log left it.
pub fn remembered(store: &Store) -> bool {
    matches!(store.record(KEY), Ok(Some(_)))
}

/// Notes with the first record of a new log that it lacks what others have.
pub fn begins() -> Write {
    Write::Record { key: KEY.to_vec(), value: Some(bytes::Bytes::from_static(b"1")) }
}

/// Until this node lacks nothing, or stops.
pub async fn run(node: &Arc<Node>) {
    let mut level: BTreeSet<NodeId> = BTreeSet::new();
    // Our clock when we were first in touch with a peer, in Unix milliseconds: above all stamps that it had then. What is younger is
    // sent to us; what is older may be what we lost a moment ago.
    let mut in_touch: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut tick = tokio::time::interval(TICK);
    while node.healing.is_refilling() || !node.log_heads.is_open() {
        tick.tick().await;
        let view = &node.topology.now().view;
        for (peer, _) in node.topology.readable() {
            if peer == node.id || level.contains(&peer) {
                continue;
            }
            let since = in_touch.get(&peer).copied();
            let settled_before = node.clock.millis_ago(GRACE).max(since.unwrap_or(0));
            let Ok(repaired) = compare::compare(node, peer, settled_before).await else { continue };
            if since.is_none() {
                in_touch.insert(peer, node.clock.now().unix_millis());
            } else if repaired == 0 {
                level.insert(peer);
            }
        }
        let all = view.members.iter().all(|member| member.id == node.id || level.contains(&member.id));
        if view.members.is_empty() || !all || !node.log_heads.is_open() {
            continue;
        }
        is_over(node).await;
    }
}

/// This disk lacks nothing.
pub async fn is_over(node: &Node) {
    if !node.healing.is_refilling() {
        return;
    }
    let over = Write::Record { key: KEY.to_vec(), value: None };
    match node.store.commit(vec![over], Durability::Lazy).await {
        Ok(_) => {
            tracing::info!("this disk has what it should have");
            node.healing.set_refilling(false);
            node.manager.notices_lost();
        }
        Err(error) => tracing::warn!(%error, "that this disk is level is not noted"),
    }
}
