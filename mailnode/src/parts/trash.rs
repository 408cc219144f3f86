//! Parts whose time in the trash is over. A lease may have run out by a mistake (a clock far ahead, a node that was away for weeks,
//! a bug), so before a part goes every member of the view is asked whether it stores a body that refers to it. If one cannot be asked,
//! nothing goes.
//!
//! A part that is wanted, but not here any more (the view changed, and others own it), goes when all its owners have it.

use super::{blocking, is_owner, keep, order, wanted_here};
use crate::environment;
use crate::node::Node;
use crate::replica::disk;
use crate::wire::{Failure, Request, Response};
use cluster::BlobId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Write};

/// Parts asked about at a time.
const PAGE: usize = 1_000;
const EVERY: Duration = Duration::from_secs(3_600);
const DEADLINE: Duration = Duration::from_secs(10);

/// Until the node stops.
pub async fn run(node: &Arc<Node>) {
    let every = EVERY.min(node.parts.settings.trash() / 4).max(Duration::from_secs(1));
    loop {
        tokio::time::sleep(every.mul_f64(0.75 + environment::random_fraction() / 2.0)).await;
        loop {
            match empty(node).await {
                Ok(0) => break,
                Ok(discarded) => tracing::info!(discarded, "parts that nobody refers to are gone"),
                Err(failure) => {
                    tracing::debug!(%failure, "the trash is emptied later");
                    break;
                }
            }
        }
    }
}

/// Empties a page of the trash. Returns how many parts went.
async fn empty(node: &Arc<Node>) -> Result<usize, Failure> {
    let doomed = blocking(node, |node| node.store.doomed(PAGE)).await?;
    if doomed.is_empty() {
        return Ok(0);
    }
    let wanted = wanted_anywhere(node, doomed.iter().map(|(id, _)| *id).collect()).await?;
    let (mut renewed, mut discarded) = (Vec::new(), Vec::new());
    for (id, due) in doomed {
        if !wanted.contains(&id) || (!is_owner(node, id) && owners_have(node, id).await) {
            discarded.push(Write::Discard { id, due });
        } else {
            renewed.push(id);
        }
    }
    if !renewed.is_empty() {
        tracing::info!(parts = renewed.len(), "parts in the trash are wanted after all");
        node.store.commit(vec![Write::Renew { ids: renewed }], Durability::Synced).await.map_err(disk)?;
    }
    let count = discarded.len();
    if count > 0 {
        node.store.commit(discarded, Durability::Lazy).await.map_err(disk)?;
        node.metrics.parts.discarded.inc_by(count as u64);
    }
    Ok(count)
}

/// Which of these does any member refer to?
///
/// # Errors
/// If one does not answer, or it is not known whether this view is the newest.
async fn wanted_anywhere(node: &Arc<Node>, parts: Vec<BlobId>) -> Result<BTreeSet<BlobId>, Failure> {
    let state = node.topology.now();
    let view = &state.view;
    if node.membership.coordinator().is_none()
        || node.membership.is_isolated()
        || view.member(node.id).is_none()
    {
        return Err(Failure::Temporary("the members are not known for certain".into()));
    }
    let mut wanted: BTreeSet<BlobId> = wanted_here(node, parts.clone()).await?.into_iter().collect();
    for member in view.members.iter().filter(|member| member.id != node.id) {
        let request = Request::WantedParts { parts: parts.clone() };
        match node.call(member.id, request, DEADLINE).await? {
            Response::WantedParts(theirs) => wanted.extend(theirs),
            _ => return Err(Failure::Temporary("unexpected answer".into())),
        }
    }
    if node.topology.now().view.epoch != view.epoch {
        return Err(Failure::Temporary("the view changed meanwhile".into()));
    }
    Ok(wanted)
}

async fn owners_have(node: &Arc<Node>, id: BlobId) -> bool {
    let owners = order(node, id).owners;
    for &owner in &owners {
        if !keep::ask(node, owner, vec![id]).await.is_empty() {
            return false;
        }
    }
    !owners.is_empty()
}
