//! A new message: its big parts are cut out and stored, and what is left is sealed in its place. When this returns a body, every
//! part of it is on `minCopies` disks with a lease that has just begun; so the body may be stored, and the message acknowledged.
//!
//! A part goes first to its owners. While one is slow or away the next in the part's order stands in, as for bodies
//! ([`ReplicaWrite`]): mail is taken as long as any `minCopies` nodes live. Who has a part already only begins its lease anew, after
//! reading it: a copy that cannot be read counts for nothing.

use super::order;
use crate::crypto::{CryptoError, SealedBody, SealedPart};
use crate::delivery::step;
use crate::environment;
use crate::node::Node;
use crate::wire::{Failure, Request, Response};
use ::parts::{Manifest, Reference, cut};
use cluster::{BlobId, MemberState, NodeId, Progress, ReplicaWrite, StoreCall};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A node that has not stored its parts by now is stood in for, and a little later for each byte.
const SLOW: Duration = Duration::from_millis(800);
const SLOW_BYTES_PER_SECOND: f64 = (8 << 20) as f64;
/// A node that has not answered by now never will.
const DEADLINE: Duration = Duration::from_secs(15);

/// The body to store with the entries of a message.
///
/// # Errors
/// [`Failure::Temporary`] if too few nodes could store a part: nothing of the message may be acknowledged.
pub async fn sealed(node: &Arc<Node>, message: &[u8]) -> Result<SealedBody, Failure> {
    let settings = node.parts.settings;
    let whole = || node.keys.seal(message).map_err(refused);
    if !settings.enabled || message.len() < settings.threshold_bytes {
        return whole();
    }
    let (sealer, copy) = (node.clone(), message.to_vec());
    let cut = environment::blocking(move || cut_out(&sealer, &copy, settings.threshold_bytes)).await;
    let Some((body, parts)) = cut.map_err(|error| Failure::Temporary(error.to_string()))?.map_err(refused)?
    else {
        return whole();
    };
    node.metrics.parts.cut.inc_by(parts.len() as u64);
    store(node, parts).await?;
    Ok(body)
}

fn refused(error: CryptoError) -> Failure {
    Failure::Temporary(error.to_string())
}

/// None: there is nothing to cut out.
fn cut_out(
    node: &Node,
    message: &[u8],
    threshold: usize,
) -> Result<Option<(SealedBody, Vec<SealedPart>)>, CryptoError> {
    let cuts = cut(message, threshold);
    if cuts.is_empty() {
        return Ok(None);
    }
    let mut parts = BTreeMap::new();
    let mut references = Vec::with_capacity(cuts.len());
    for cut in &cuts {
        let part = node.keys.seal_part(&cut.coded)?;
        let content = cut.content as u64;
        references.push(Reference { name: part.id, key: part.key.clone(), layout: cut.layout, content });
        parts.insert(part.id, part);
    }
    // A list that cannot be coded: the message is stored whole.
    let Ok(manifest) = Manifest::encode(message, &cuts, references) else { return Ok(None) };
    let body = node.keys.seal_manifest(&manifest, parts.keys().copied().collect(), message.len() as u64)?;
    Ok(Some((body, parts.into_values().collect())))
}

/// Nodes to try for a part: owners first, those that are avoided last. An owner whose disk is nearly full gets it too: the next round of
/// leases would bring it there anyway.
fn nodes_to_try(node: &Node, id: BlobId) -> Vec<NodeId> {
    let state = node.topology.now();
    let takes =
        |id: &NodeId| state.view.member(*id).is_some_and(|member| member.state == MemberState::Active);
    let mut nodes: Vec<NodeId> = order(node, id).all().filter(takes).collect();
    nodes.sort_by_key(|&other| node.topology.is_avoided(other));
    nodes
}

/// The shell around [`ReplicaWrite`], for parts.
async fn store(node: &Arc<Node>, parts: Vec<SealedPart>) -> Result<(), Failure> {
    let replication = node.settings.replication;
    let orders = parts.iter().map(|part| nodes_to_try(node, part.id)).collect();
    let parts = Arc::new(parts);
    let mut write = ReplicaWrite::new(replication.factor, replication.min_copies, orders);
    let mut running = FuturesUnordered::new();
    let mut timers = FuturesUnordered::new();
    loop {
        for call in write.next_calls() {
            timers.push(slow_timer(call.clone(), &parts));
            let (node, parts) = (node.clone(), parts.clone());
            running.push(async move {
                let stored = give(&node, &call, &parts).await;
                (call, stored)
            });
        }
        if write.is_decided() {
            break;
        }
        if !step(&mut write, &mut running, &mut timers).await {
            break;
        }
    }
    if !running.is_empty() {
        // Copies beyond `minCopies`; what is lost of them the next round of leases finds.
        tokio::spawn(async move { while running.next().await.is_some() {} });
    }
    if (0..parts.len()).all(|part| write.progress(part) == Progress::Durable) {
        return Ok(());
    }
    Err(Failure::Temporary("too few nodes could store the message; try again later".into()))
}

fn slow_timer(call: StoreCall, parts: &[SealedPart]) -> impl Future<Output = StoreCall> + use<> {
    let bytes: usize = chosen(&call, parts).map(|part| part.ciphertext.len()).sum();
    let time = SLOW + Duration::from_secs_f64(bytes as f64 / SLOW_BYTES_PER_SECOND);
    async move {
        tokio::time::sleep(time).await;
        call
    }
}

fn chosen<'a>(call: &StoreCall, parts: &'a [SealedPart]) -> impl Iterator<Item = &'a SealedPart> {
    call.recipients.iter().filter_map(move |&index| parts.get(index))
}

/// Has one node keep its share of the parts. True when all are on its disk.
async fn give(node: &Arc<Node>, call: &StoreCall, parts: &[SealedPart]) -> bool {
    let ids = chosen(call, parts).map(|part| part.id).collect();
    let request = Request::KeepParts { parts: ids, check: true, fetch: false };
    let Ok(Response::Missing(missing)) = node.call(call.node, request, DEADLINE).await else {
        return false;
    };
    let all = call.recipients.len();
    node.metrics.parts.reused.inc_by(all.saturating_sub(missing.len()) as u64);
    for part in chosen(call, parts).filter(|part| missing.contains(&part.id)) {
        let request = Request::StorePart { id: part.id };
        let answer = node.call_with(call.node, request, part.ciphertext.clone(), DEADLINE).await;
        if !matches!(answer, Ok((Response::Done, _))) {
            return false;
        }
    }
    true
}
