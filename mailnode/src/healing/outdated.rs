//! A disk that was away for longer than the tombstone lifetime (DESIGN 3, invariant 4): the others have dropped
//! the tombstones that it missed, so what it holds cannot be told from what was expunged. The node starts empty
//! under its name and is refilled.
//!
//! That is so only if the others went on without it: as long as a view names a node, updates are kept for it,
//! however long it is away. So a cluster that was switched off as a whole for a month comes back as it was.
//!
//! The old log is moved aside, not deleted: a message all of whose other copies were lost meanwhile can yet be
//! taken from it by hand.

use super::blocking;
use crate::clock::wall_seconds;
use crate::node::Node;
use cluster::{NodeId, View};
use lease::LeaseService;
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Store, Write};

/// When this node was last a member, Unix seconds.
const SEEN_KEY: &[u8] = b"\xff\xffseen";
/// Between two notes of it, at most.
const NOTE: Duration = Duration::from_secs(600);
/// Between two passes over updates for nodes that are gone.
const FORGET: Duration = Duration::from_secs(3_600);
const PAGE: usize = 1_000;

fn last_seen(store: &Store) -> Option<i64> {
    let record = store.record(SEEN_KEY).ok()??;
    record[..].try_into().ok().map(i64::from_be_bytes)
}

/// Away for too long, and the others went on without us.
fn is_outdated(
    seen: Option<i64>,
    now: i64,
    lifetime: Duration,
    remembered: &View,
    current: &View,
    me: NodeId,
) -> bool {
    let away = seen.map_or(0, |seen| now.saturating_sub(seen));
    let too_long = u64::try_from(away).is_ok_and(|away| away > lifetime.as_secs());
    too_long && current.epoch > remembered.epoch && current.member(me).is_none()
}

/// To be asked before this node joins.
///
/// # Errors
/// If it was away for too long and the Leases cannot be read: then nobody knows.
pub async fn check<L: LeaseService>(
    store: &Store,
    me: NodeId,
    remembered: &View,
    lifetime: Duration,
    leases: &L,
) -> Result<bool, String> {
    let (seen, now) = (last_seen(store), wall_seconds());
    if seen.is_none_or(|seen| now.saturating_sub(seen) <= lifetime.as_secs() as i64) {
        return Ok(false);
    }
    let current = leases.coordinator().await.map_err(|error| {
        format!("was away for longer than the tombstone lifetime, and whether the others went on cannot be read: {error}")
    })?;
    let current = current.unwrap_or_default().view;
    Ok(is_outdated(seen, now, lifetime, remembered, &current, me))
}

/// Notes that this node is a member, and drops updates for nodes that left for good and, if they return, start
/// empty anyway. Until the node stops.
pub(super) async fn keep_watch(node: &Arc<Node>) {
    let lifetime = node.healing.tombstone_lifetime();
    let note = NOTE.min(lifetime / 10);
    let mut tick = tokio::time::interval(note);
    let mut forgot = tokio::time::Instant::now();
    loop {
        tick.tick().await;
        // Cut off, what our last view says of us may be long out of date.
        if !node.membership.is_isolated() && node.topology.member(node.id).is_some() {
            let value = Some(wall_seconds().to_be_bytes().to_vec().into());
            let record = Write::Record { key: SEEN_KEY.to_vec(), value };
            if let Err(error) = node.store.commit(vec![record], Durability::Lazy).await {
                tracing::warn!(%error, "that this node is a member is not noted");
            }
            if forgot.elapsed() >= FORGET.min(lifetime) {
                forgot = tokio::time::Instant::now();
                forget_the_gone(node).await;
            }
        } else {
            // Not in the first view yet, or soon back.
            tick.reset_after(Duration::from_secs(1));
        }
    }
}

async fn forget_the_gone(node: &Arc<Node>) {
    let state = node.topology.now();
    let lifetime = node.healing.tombstone_lifetime();
    let before = node.clock.millis_ago(lifetime);
    for peer in node.store.pending_peers().into_iter().filter(|&peer| state.view.member(peer).is_none()) {
        let mut after = None;
        while let Ok(page) = blocking(node, move |node| node.store.pending(peer, after, PAGE)).await {
            let Some(last) = page.last() else { break };
            after = Some((last.user, last.id));
            let old = page.iter().filter(|entry| entry.latest().unix_millis() < before);
            let entries: Vec<_> = old.map(|entry| (entry.user, entry.id, entry.digest())).collect();
            if node.store.commit(vec![Write::Retire { peer, entries }], Durability::Lazy).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{Addresses, Epoch, Incarnation, Member, MemberState};

    const ME: NodeId = NodeId(1);
    const DAY: i64 = 24 * 3_600;

    fn view(epoch: u64, members: &[u64]) -> View {
        let member = |&id: &u64| Member {
            id: NodeId(id),
            name: id.to_string(),
            addresses: Addresses::default(),
            zone: None,
            state: MemberState::Dead,
            incarnation: Incarnation(1),
        };
        View::new(Epoch(epoch), members.iter().map(member).collect())
    }

    #[test]
    fn only_a_node_that_was_away_too_long_and_was_given_up_starts_empty() {
        let week = Duration::from_secs(7 * DAY as u64);
        let (now, long_ago) = (100 * DAY, Some(92 * DAY));
        let outdated = |seen, current: &View| is_outdated(seen, now, week, &view(5, &[1, 2]), current, ME);
        assert!(outdated(long_ago, &view(9, &[2, 3])));
        assert!(!outdated(Some(94 * DAY), &view(9, &[2, 3])), "not so long");
        assert!(!outdated(long_ago, &view(9, &[1, 2])), "updates are kept for it");
        assert!(!outdated(long_ago, &view(5, &[2])), "nobody went on without it");
        assert!(!outdated(long_ago, &View::default()), "the whole cluster was off");
        assert!(!outdated(None, &view(9, &[2, 3])), "a new disk");
        assert!(!outdated(Some(200 * DAY), &view(9, &[2, 3])), "a clock that was set back");
    }
}
