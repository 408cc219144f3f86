//! Rounds of leases: this node tells the owners of all parts that its messages refer to that they are wanted, in bulk. An owner that
//! lacks one gets it. A round is made daily, and at once when the view is another, because then others may own the parts; it is
//! repeated, ever more slowly, while owners lack something.
//!
//! Bodies name their parts in the clear ([`cluster::blob`]), so this needs no key, in mode `user` either.
//!
//! A node that drains does the same for all parts that it has: it may be the only one to have some.

use super::{Rounds, blocking, lock, order};
use crate::environment;
use crate::node::Node;
use crate::wire::{Failure, PAGE, Request, Response};
use cluster::{BlobId, Epoch, MemberState, NodeId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use storage::{PartCursor, PartPage};

/// After a view changed: what was on its way by the old one arrives first.
const SETTLE: Duration = Duration::from_secs(3);
/// First wait while owners lack something; then twice as long each time.
const AGAIN: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(600);
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two pages: nobody is in a hurry.
const PAUSE: Duration = Duration::from_millis(10);

/// Until the node stops.
pub async fn run(node: &Arc<Node>) {
    let mut again = AGAIN;
    loop {
        let epoch = node.topology.now().view.epoch;
        let wait = match round(node).await {
            Ok(rounds) => {
                *lock(&node.parts.rounds) = rounds;
                if rounds.missing + rounds.to_hand_over == 0 {
                    again = AGAIN;
                    node.parts.settings.renew()
                } else {
                    next(&mut again)
                }
            }
            Err(failure) => {
                tracing::debug!(%failure, "leases of parts wait");
                next(&mut again)
            }
        };
        // Not all nodes at the same time.
        let wait = wait.mul_f64(0.75 + environment::random_fraction() / 4.0);
        if tokio::time::timeout(wait, node.topology.newer_than(epoch)).await.is_ok() {
            again = AGAIN;
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn next(again: &mut Duration) -> Duration {
    let now = *again;
    *again = (now * 2).min(LONGEST);
    now
}

/// One round over everything.
async fn round(node: &Arc<Node>) -> Result<Rounds, Failure> {
    let state = node.topology.now();
    let epoch = state.view.epoch;
    if state.view.members.is_empty() {
        return Err(Failure::Temporary("there is no view yet".into()));
    }
    let missing = tell_all(node, epoch, |node, after| node.store.wanted_parts(after, PAGE / 2)).await?;
    let drains = state.view.member(node.id).is_some_and(|member| member.state == MemberState::Draining);
    let to_hand_over = if drains {
        tell_all(node, epoch, |node, after| node.store.parts_here(after, PAGE / 2)).await?
    } else {
        0
    };
    Ok(Rounds { epoch, missing, to_hand_over, finished: true })
}

/// Tells the owners of all the parts that come page by page. Returns how many copies are missing, or may be.
async fn tell_all(
    node: &Arc<Node>,
    epoch: Epoch,
    page: fn(&Node, Option<PartCursor>) -> storage::Result<PartPage>,
) -> Result<u64, Failure> {
    let (mut missing, mut after) = (0, None);
    loop {
        let found = blocking(node, move |node| page(node, after)).await?;
        missing += tell_owners(node, epoch, &found.parts).await?;
        after = found.next;
        if after.is_none() {
            return Ok(missing);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Renews the leases of these parts at their owners. Returns how many copies are missing, or may be.
async fn tell_owners(node: &Arc<Node>, epoch: Epoch, parts: &[BlobId]) -> Result<u64, Failure> {
    let mut by_owner: BTreeMap<NodeId, Vec<BlobId>> = BTreeMap::new();
    for &part in parts {
        for owner in order(node, part).owners {
            by_owner.entry(owner).or_default().push(part);
        }
    }
    let mut missing = 0;
    for (owner, parts) in by_owner {
        missing += ask(node, owner, parts).await.len() as u64;
    }
    if node.topology.now().view.epoch != epoch {
        return Err(Failure::Temporary("the view changed meanwhile".into()));
    }
    Ok(missing)
}

/// Has one owner renew leases and get what it lacks. Returns what it lacks; all if it does not answer.
pub(super) async fn ask(node: &Arc<Node>, owner: NodeId, parts: Vec<BlobId>) -> Vec<BlobId> {
    node.metrics.parts.lease_bytes.inc_by(parts.len() as u64 * 32);
    if node.topology.is_avoided(owner) {
        // It may return, or be replaced: either is another view.
        return parts;
    }
    let request = Request::KeepParts { parts: parts.clone(), check: false, fetch: true };
    match node.call(owner, request, DEADLINE).await {
        Ok(Response::Missing(missing)) => missing,
        _ => parts,
    }
}
