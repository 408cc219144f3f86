//! What of the queue is on the members' disks.
//!
//! Tombstones of sent messages are many times as many as messages that wait, so members tell only of what lives on their
//! disk. That may be of the past: a replica that was away has missed the end of a message. So before such an entry is
//! sent, those who may know more are asked about it ([`newest`]).

use super::control::{QueueAnswer, QueueRequest};
use crate::environment;
use crate::node::Node;
use crate::replica::disk;
use crate::wire::{Failure, PAGE, Request, Response};
use cluster::reconstruction::BATCH;
use cluster::{Bucket, Entry, EntryId, NodeId, UserId, queue_user};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
/// Members asked about one entry, at most.
const WITNESSES: usize = 16;

/// The queued messages of our buckets that live on any member's disk.
pub async fn all(node: &Arc<Node>) -> BTreeMap<EntryId, Entry> {
    let ours: Vec<Bucket> = node.topology.now().user_map.buckets_of(node.id).collect();
    let members = node.topology.readable().into_iter().map(|(member, _)| of_member(node, member, &ours));
    let mut all: BTreeMap<EntryId, Entry> = BTreeMap::new();
    for entry in join_all(members).await.into_iter().flatten() {
        match all.get_mut(&entry.id) {
            Some(known) => _ = known.merge(&entry),
            None => _ = all.insert(entry.id, entry),
        }
    }
    all
}

async fn of_member(node: &Arc<Node>, member: NodeId, buckets: &[Bucket]) -> Vec<Entry> {
    let mut found = Vec::new();
    for batch in buckets.chunks(BATCH) {
        let asked = match of_batch(node, member, batch, &mut found).await {
            // An older node: it tells of all that it has.
            Err(Failure::Invalid(_)) => of_fragments(node, member, batch, &mut found).await,
            other => other,
        };
        if let Err(failure) = asked {
            // The other replicas of its messages are asked, too; when it is back there is a new view.
            tracing::debug!(%member, %failure, "cannot be asked for queued messages");
            break;
        }
    }
    found
}

async fn of_batch(
    node: &Arc<Node>,
    member: NodeId,
    buckets: &[Bucket],
    found: &mut Vec<Entry>,
) -> Result<(), Failure> {
    let mut after = None;
    loop {
        let request = QueueRequest::Live { buckets: buckets.to_vec(), after };
        let answer = node.call(member, Request::Queue(request), DEADLINE).await?;
        let Response::Queue(QueueAnswer::Live { entries, next }) = answer else {
            return Err(Failure::Temporary("unexpected answer".into()));
        };
        found.extend(entries);
        if next.is_none() || next <= after {
            return Ok(());
        }
        after = next;
    }
}

async fn of_fragments(
    node: &Arc<Node>,
    member: NodeId,
    buckets: &[Bucket],
    found: &mut Vec<Entry>,
) -> Result<(), Failure> {
    for user in buckets.iter().map(|&bucket| queue_user(bucket)) {
        let mut after = None;
        loop {
            let answer = node.call(member, Request::Fragment { user, after }, DEADLINE).await?;
            let Response::Fragment { entries, more } = answer else {
                return Err(Failure::Temporary("unexpected answer".into()));
            };
            after = entries.last().map(|entry| entry.id);
            found.extend(entries.into_iter().filter(|entry| entry.user == user && entry.is_live()));
            if !more || after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

/// A page of what lives on our disk, in the order of users, and where it goes on.
///
/// # Errors
/// If the disk fails.
pub async fn live(
    node: &Arc<Node>,
    buckets: Vec<Bucket>,
    after: Option<(UserId, EntryId)>,
) -> Result<(Vec<Entry>, Option<(UserId, EntryId)>), Failure> {
    let node = node.clone();
    let read = environment::blocking(move || {
        let users: BTreeSet<UserId> = buckets.into_iter().map(queue_user).collect();
        let mut entries: Vec<Entry> = Vec::new();
        for user in users {
            let mut from = match after {
                Some((last, _)) if user < last => continue,
                Some((last, id)) if user == last => Some(id),
                _ => None,
            };
            loop {
                let versions = node.store.versions(user, from, PAGE).map_err(disk)?;
                let Some(last) = versions.last().map(|entry| entry.id) else { break };
                from = Some(last);
                entries.extend(versions.into_iter().filter(Entry::is_live));
                if entries.len() >= PAGE {
                    return Ok((entries, Some((user, last))));
                }
            }
        }
        Ok((entries, None))
    });
    read.await.map_err(|error| Failure::Temporary(format!("the disk could not be read: {error}")))?
}

/// The entry as those know it who may know more: its replicas, and other holders of its user's fragments.
pub async fn newest(node: &Arc<Node>, entry: &Entry) -> Entry {
    let mut members: Vec<NodeId> = entry.replicas.value.clone();
    let map = node.manager.knowledge.mail_map(node, entry.user).await;
    let others = map.nodes().filter(|member| !entry.replicas.value.contains(member));
    members.extend(others.take(WITNESSES));
    let readable: BTreeSet<NodeId> = node.topology.readable().into_iter().map(|(member, _)| member).collect();
    let asked =
        members.into_iter().filter(|member| readable.contains(member)).take(WITNESSES).map(|member| {
            let request = Request::Entries { ids: vec![(entry.user, entry.id)] };
            node.call(member, request, DEADLINE)
        });
    let mut newest = entry.clone();
    for answer in join_all(asked).await {
        if let Ok(Response::Fragment { entries, .. }) = answer {
            entries.iter().filter(|known| known.id == entry.id).for_each(|known| _ = newest.merge(known));
        }
    }
    newest
}
