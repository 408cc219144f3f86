//! A message put together again. Parts are read a few at a time from whoever has them, owners first, and each is checked against its
//! name. Memory: the message, its parts as they are stored, and what is left of it; a manifest that says otherwise is refused first.
//!
//! An owner that turns out to have none, or a bad one, gets a good copy ([`super::fetch`]).

use super::order;
use crate::crypto::open_part;
use crate::environment;
use crate::node::{CallError, Node};
use crate::wire::{Failure, Request, Response};
use ::parts::{Manifest, Reference, join};
use bytes::Bytes;
use cluster::{BlobId, NodeId};
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
/// Parts on their way at a time.
const AT_ONCE: usize = 4;

/// The message of which this is the coded manifest.
///
/// # Errors
/// [`Failure::Temporary`] if a part cannot be had now.
pub async fn assemble(node: &Arc<Node>, coded: Bytes, size: u64) -> Result<Bytes, Failure> {
    let damaged = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a message cannot be put together");
        Failure::Temporary("this message cannot be put together; see the log of this node".into())
    };
    let (manifest, _) = Manifest::decode(&coded, size).map_err(|error| damaged(&error))?;
    let wanted: BTreeMap<BlobId, Reference> =
        manifest.parts().map(|part| (part.name, part.clone())).collect();
    let mut reading =
        stream::iter(wanted.into_values()).map(|part| read(node, part)).buffer_unordered(AT_ONCE);
    let mut parts = BTreeMap::new();
    while let Some(outcome) = reading.next().await {
        let (name, part) = outcome?;
        parts.insert(name, part);
    }
    let joined = environment::blocking(move || {
        let (manifest, rest) = Manifest::decode(&coded, size)?;
        join(&manifest, rest, size, |name| parts.get(&name).map(|part: &Bytes| &part[..]))
    });
    let message = joined.await.map_err(|error| damaged(&error))?.map_err(|error| damaged(&error))?;
    Ok(message.into())
}

async fn read(node: &Arc<Node>, part: Reference) -> Result<(BlobId, Bytes), Failure> {
    let id = part.name;
    let mut without = Vec::new();
    for (attempt, source) in sources(node, id).into_iter().enumerate() {
        if attempt > 0 {
            node.metrics.blob_fallbacks.inc();
        }
        match node.call_with(source, Request::Blob { id }, Bytes::new(), DEADLINE).await {
            Ok((Response::Blob, ciphertext)) => match open_part(id, &part.key, ciphertext) {
                Ok(coded) => {
                    tell(node, id, without);
                    return Ok((id, coded));
                }
                Err(error) => tracing::error!(part = ?id, %source, %error, "bad copy of a part"),
            },
            Err(CallError::Refused(Failure::NotFound)) => without.push(source),
            _ => {}
        }
    }
    Err(Failure::Temporary("no node that holds a part of this message answers; try again".into()))
}

/// Owners that were found without the part get it from who has it.
fn tell(node: &Arc<Node>, id: BlobId, without: Vec<NodeId>) {
    let owners = order(node, id).owners;
    for owner in without.into_iter().filter(|source| owners.contains(source)) {
        node.tell(owner, Request::KeepParts { parts: vec![id], check: false, fetch: true });
    }
}

/// Members that may have the part: owners by load, then the others; those that do not answer last.
pub fn sources(node: &Node, id: BlobId) -> Vec<NodeId> {
    let order = order(node, id);
    let owner = |id: &NodeId| order.owners.contains(id);
    let mut sources: Vec<NodeId> = order.all().collect();
    sources.sort_by_cached_key(|&source| {
        let load = if owner(&source) { node.topology.load(source).cost() } else { Default::default() };
        (node.topology.is_avoided(source), !owner(&source), source != node.id && owner(&source), load)
    });
    sources
}
