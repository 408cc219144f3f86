//! The node as a replica: what peers ask of its disk.

use crate::node::Node;
use crate::wire::{Failure, PAGE, PendingEntry, Request, Response, Updated, Version};
use bytes::Bytes;
use cluster::{BlobId, Bucket, Entry, EntryId, NodeId, UserId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use storage::{Durability, Outcome, Write};

const LOOKS: usize = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What a peer is told of an error of our disk, which is logged here.
pub fn disk(error: storage::Error) -> Failure {
    if let storage::Error::WrongName(name) = &error {
        return Failure::Invalid(format!("the body does not match its name {name}"));
    }
    tracing::error!(%error, "storage");
    Failure::Temporary("this node cannot use its disk".into())
}

/// Reads the index where waiting does no harm.
///
/// # Errors
/// If the disk fails.
pub async fn blocking<T: Send + 'static>(
    node: &Arc<Node>,
    read: impl FnOnce(&Node) -> storage::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let node = node.clone();
    let done = crate::environment::blocking(move || read(&node)).await;
    done.map_err(|error| Failure::Temporary(error.to_string()))?.map_err(disk)
}

/// Whether a blob is here and can be read. The store drops a damaged one soon after it was read: that is waited for, so that a good
/// copy can be stored.
///
/// # Errors
/// If the disk fails.
pub async fn is_readable(node: &Node, id: BlobId) -> storage::Result<bool> {
    for _ in 0..LOOKS {
        if !node.store.has_blob(id)? {
            return Ok(false);
        }
        if node.store.blob(id).await?.is_some() {
            return Ok(true);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(false)
}

/// Stores a new message, body and entries in one group of the log. Resolves when it is on disk. Without a body the body has to be
/// here already.
///
/// # Errors
/// [`Failure::NotFound`] if it is not;
/// [`Failure::Invalid`] if the body is not the one that the entries name or a stamp is too far ahead;
/// [`Failure::Temporary`] if the disk fails.
pub async fn store(node: &Arc<Node>, entries: Vec<PendingEntry>, body: Bytes) -> Result<(), Failure> {
    let Some(first) = entries.first() else { return Ok(()) };
    let id = first.entry.blob.id;
    if entries.iter().any(|pending| pending.entry.blob.id != id) {
        return Err(Failure::Invalid("one body, and entries that name another".into()));
    }
    observe(node, &entries)?;
    let mut writes = Vec::with_capacity(entries.len() + 1);
    if body.is_empty() {
        if !node.store.has_blob(id).map_err(disk)? {
            return Err(Failure::NotFound);
        }
    } else {
        writes.push(Write::Blob { id, parts: body });
    }
    writes.extend(
        entries.into_iter().map(|pending| Write::Entry { entry: pending.entry, pending: pending.pending }),
    );
    let outcomes = node.store.commit(writes, Durability::Synced).await.map_err(disk)?;
    node.notices.send(node, outcomes.into_iter().filter_map(news), None);
    Ok(())
}

/// The entry, if the commit changed it.
fn news(outcome: Outcome) -> Option<Entry> {
    match outcome {
        Outcome::Entry { changed: true, entry, .. } => Some(Arc::unwrap_or_clone(entry)),
        _ => None,
    }
}

fn observe(node: &Node, entries: &[PendingEntry]) -> Result<(), Failure> {
    for pending in entries {
        node.clock.observe(pending.entry.latest()).map_err(|error| {
            node.metrics.clock_refusals.inc();
            tracing::error!(%error, "update refused");
            Failure::Invalid(error.to_string())
        })?;
    }
    Ok(())
}

/// Joins updates of entries. Resolves when they are on disk.
///
/// # Errors
/// As [`store`].
pub async fn update(
    node: &Arc<Node>,
    from: NodeId,
    entries: Vec<PendingEntry>,
) -> Result<Vec<Updated>, Failure> {
    observe(node, &entries)?;
    let mut outcomes = Vec::with_capacity(entries.len());
    let mut writes = Vec::with_capacity(entries.len());
    for pending in entries {
        let entry = pending.entry;
        // If we are no replica (any more) the store keeps the version like a tombstone, and no body.
        if will_be_copy(node, &entry)? && !node.store.has_blob(entry.blob.id).map_err(disk)? {
            outcomes.push(Some(Updated::NoBody));
        } else {
            outcomes.push(None);
            writes.push(Write::Entry { entry, pending: pending.pending });
        }
    }
    let sent: Vec<u64> = writes
        .iter()
        .filter_map(|write| match write {
            Write::Entry { entry, .. } => Some(entry.digest()),
            _ => None,
        })
        .collect();
    let committed = node.store.commit(writes, Durability::Synced).await.map_err(disk)?;
    let mut changed = Vec::new();
    let mut stored = committed
        .into_iter()
        .filter_map(|outcome| match outcome {
            Outcome::Entry { changed: news, digest, entry, .. } => {
                if news {
                    changed.push((*entry).clone());
                }
                Some((digest, entry))
            }
            _ => None,
        })
        .zip(sent);
    let outcomes = outcomes
        .into_iter()
        .map(|outcome| {
            outcome.unwrap_or_else(|| match stored.next() {
                Some(((digest, entry), sent)) if digest != sent => Updated::Newer(Box::new((*entry).clone())),
                _ => Updated::Same,
            })
        })
        .collect();
    // The manager knows of the updates that it made itself.
    node.notices.send(node, changed, Some(from));
    Ok(outcomes)
}

/// Will the entry be a copy here, with what is known here already?
fn will_be_copy(node: &Node, entry: &Entry) -> Result<bool, Failure> {
    let mut joined = entry.clone();
    if let Some(known) = node.store.entry(entry.user, entry.id).map_err(disk)? {
        joined.merge(&known);
    }
    Ok(node.store.holds(&joined))
}

/// Peers have these versions; the update log need not keep them for it.
///
/// # Errors
/// If the disk fails.
pub async fn retire(node: &Arc<Node>, peer: NodeId, versions: Vec<Version>) -> Result<(), Failure> {
    let entries = versions.into_iter().map(|version| (version.user, version.entry, version.digest)).collect();
    node.store.commit(vec![Write::Retire { peer, entries }], Durability::Lazy).await.map_err(disk)?;
    Ok(())
}

/// A page of a user's fragment here, and of what we are a witness of.
///
/// # Errors
/// If the disk fails.
pub fn fragment(node: &Node, user: UserId, after: Option<EntryId>) -> Result<Response, Failure> {
    let mut entries = node.store.versions(user, after, PAGE + 1).map_err(disk)?;
    let more = entries.len() > PAGE;
    entries.truncate(PAGE);
    Ok(Response::Fragment { entries, more })
}

/// Users of these buckets with a fragment here.
///
/// # Errors
/// If the disk fails.
pub fn users(node: &Node, buckets: &[Bucket]) -> Result<Response, Failure> {
    let buckets: BTreeSet<Bucket> = buckets.iter().copied().collect();
    let users = node.store.users(buckets).map_err(disk)?;
    Ok(Response::Users(users.into_iter().map(|user| (user, Bucket::of_user(user))).collect()))
}

/// Which of these bodies are not here.
///
/// # Errors
/// If the disk fails.
pub fn missing(node: &Node, blobs: Vec<BlobId>) -> Result<Response, Failure> {
    let mut missing = Vec::new();
    let blobs: BTreeSet<BlobId> = blobs.into_iter().collect();
    for id in blobs {
        if !node.store.has_blob(id).map_err(disk)? {
            missing.push(id);
        }
    }
    Ok(Response::Missing(missing))
}

/// A body's ciphertext.
///
/// # Errors
/// [`Failure::NotFound`]: ask another replica.
pub async fn blob(node: &Node, id: BlobId) -> Result<Bytes, Failure> {
    let known = node.store.has_blob(id).map_err(disk)?;
    let body = node.store.blob(id).await.map_err(disk)?;
    if body.is_none() {
        node.healing.body_missing(id);
        if known {
            node.parts.copy_damaged(node, id);
        }
    }
    body.ok_or(Failure::NotFound)
}

/// Serves what peers ask of this replica; other requests are not for it.
pub async fn serve(
    node: &Arc<Node>,
    from: NodeId,
    request: Request,
    body: Bytes,
) -> Result<(Response, Bytes), Failure> {
    let response = match request {
        Request::Store { entries } => store(node, entries, body).await.map(|()| Response::Done)?,
        Request::Update { entries } => Response::Updated(update(node, from, entries).await?),
        Request::Retire { peer, versions } => retire(node, peer, versions).await.map(|()| Response::Done)?,
        Request::Fragment { user, after } => fragment(node, user, after)?,
        Request::Users { buckets } => users(node, &buckets)?,
        Request::Missing { blobs } => missing(node, blobs)?,
        Request::Blob { id } => return Ok((Response::Blob, blob(node, id).await?)),
        other => return Err(Failure::Invalid(format!("{} is not a request to a replica", other.name()))),
    };
    Ok((response, Bytes::new()))
}
