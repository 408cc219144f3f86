//! Big MIME parts kept once in the cluster (DESIGN 7, docs/decisions/parts.md; PAST's role in POST): cut out of new messages, stored
//! on the nodes that their names give ([`cluster::PartOrder`]), whatever the number of messages that they are in.
//!
//! What must hold:
//! - A message is acknowledged only when its parts are on `minCopies` disks, with leases that began after it came ([`write`]).
//! - A part that a message anywhere refers to is never dropped: leases say when to ask, and asking every member of the view says whether
//!   ([`trash`]).
//! - Whoever stores a message's body sees to it that the owners of its parts have them ([`keep`]), without being able to read either.
//! - Every copy is checked against its name before it is used, and one that is bad is replaced ([`read`], [`fetch`]).
//!
//! | module | what it does |
//! | --- | --- |
//! | [`write`] | a new message: cutting, sealing, storing |
//! | [`read`] | a message put together again |
//! | [`keep`] | leases renewed at the owners; what a draining node hands over |
//! | [`fetch`] | an owner gets what it lacks |
//! | [`trash`] | parts that nobody renewed |

mod fetch;
mod keep;
mod read;
mod trash;
mod write;

pub use read::assemble;
pub use write::sealed;

use crate::config::PartsConfig;
use crate::locking::lock;
use crate::node::Node;
use crate::replica::{blocking, disk};
use crate::wire::{Failure, PAGE, Request, Response};
use bytes::Bytes;
use cluster::{BlobId, BlobKind, Epoch, PartOrder};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use storage::{Durability, Outcome, Write};

pub struct Parts {
    settings: PartsConfig,
    lacking: fetch::Lacking,
    rounds: Mutex<Rounds>,
}

/// What the last whole round of leases found, and by which view.
#[derive(Clone, Copy, Debug, Default)]
struct Rounds {
    epoch: Epoch,
    /// Copies that owners did not have, or owners that could not be asked.
    missing: u64,
    /// Of parts here that a draining node hands over.
    to_hand_over: u64,
    /// A round was finished by this view.
    finished: bool,
}

/// Parts as a node reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartsStatus {
    pub live: u64,
    /// What they take of the log.
    pub live_bytes: u64,
    pub trash: u64,
    pub trash_bytes: u64,
    /// Copies that this node knows to be missing at their owners: 0 once its messages' parts are where they belong.
    pub missing: u64,
    /// Whether that was found out by the newest view.
    pub settled: bool,
}

impl Parts {
    pub fn new(settings: PartsConfig) -> Self {
        Self { settings, lacking: fetch::Lacking::default(), rounds: Mutex::default() }
    }

    /// Parts that a draining node has and their owners lack; None: not known by this view yet.
    pub fn to_hand_over(&self, epoch: Epoch) -> Option<u64> {
        let rounds = lock(&self.rounds);
        (rounds.finished && rounds.epoch == epoch).then_some(rounds.to_hand_over)
    }

    pub fn status(&self, node: &Node) -> PartsStatus {
        let stored = node.store.metrics().parts;
        let rounds = *lock(&self.rounds);
        PartsStatus {
            live: stored.live,
            live_bytes: stored.live_bytes,
            trash: stored.trash,
            trash_bytes: stored.trash_bytes,
            missing: rounds.missing.max(self.lacking.count() as u64),
            settled: rounds.finished && rounds.epoch == node.topology.now().view.epoch,
        }
    }

    /// A blob that was here cannot be read: it may be a part of which this node is an owner.
    pub fn copy_damaged(&self, node: &Node, id: BlobId) {
        if is_owner(node, id) {
            self.lacking.add(id);
        }
    }
}

/// A damaged copy is dropped by the store soon after it was read.
const TRIES: usize = 3;

fn order(node: &Node, id: BlobId) -> PartOrder {
    PartOrder::new(&node.topology.now().view, node.settings.replication.factor, id)
}

fn is_owner(node: &Node, id: BlobId) -> bool {
    order(node, id).owners.contains(&node.id)
}

/// Everything that keeps parts, until the node stops.
pub async fn run(node: Arc<Node>) {
    tokio::join!(keep::run(&node), fetch::run(&node), trash::run(&node));
}

/// Answers what peers ask about parts.
///
/// # Errors
/// If the disk fails, or the request asks for too much.
pub async fn serve(node: &Arc<Node>, request: Request, bytes: Bytes) -> Result<Response, Failure> {
    match request {
        Request::KeepParts { parts, check, fetch } => {
            bounded(&parts)?;
            keep_here(node, parts, check, fetch).await.map(Response::Missing)
        }
        Request::StorePart { id } => store(node, id, bytes).await.map(|()| Response::Done),
        Request::WantedParts { parts } => {
            bounded(&parts)?;
            wanted_here(node, parts).await.map(Response::WantedParts)
        }
        Request::Parts => Ok(Response::Parts(node.parts.status(node))),
        other => Err(Failure::Invalid(format!("{} is not a request about parts", other.name()))),
    }
}

fn bounded(parts: &[BlobId]) -> Result<(), Failure> {
    if parts.len() > PAGE {
        return Err(Failure::Invalid(format!("{} parts in one request", parts.len())));
    }
    Ok(())
}

/// Renews leases here; durable when it returns. Returns the parts that are not here.
async fn keep_here(
    node: &Arc<Node>,
    mut parts: Vec<BlobId>,
    check: bool,
    fetch: bool,
) -> Result<Vec<BlobId>, Failure> {
    let mut missing = Vec::new();
    if check {
        let mut good = Vec::with_capacity(parts.len());
        for id in parts {
            // A damaged copy is dropped by the store.
            let here = node.store.blob(id).await.map_err(disk)?.is_some();
            if here { good.push(id) } else { missing.push(id) }
        }
        parts = good;
    }
    let count = parts.len();
    if count > 0 {
        let durability = if check { Durability::Synced } else { Durability::Lazy };
        let outcomes =
            node.store.commit(vec![Write::Renew { ids: parts }], durability).await.map_err(disk)?;
        for outcome in outcomes {
            if let Outcome::Renewed { missing: gone } = outcome {
                missing.extend(gone);
            }
        }
        node.metrics.parts.renewed.inc_by(count as u64);
    }
    if fetch {
        missing.iter().filter(|id| is_owner(node, **id)).for_each(|id| node.parts.lacking.add(*id));
    }
    Ok(missing)
}

/// Stores a part here; durable when it returns.
async fn store(node: &Arc<Node>, id: BlobId, bytes: Bytes) -> Result<(), Failure> {
    if BlobKind::of(&bytes) != BlobKind::Part {
        return Err(Failure::Invalid("these bytes are no part".into()));
    }
    for _ in 0..TRIES {
        let write = Write::Blob { id, parts: bytes.clone() };
        let outcomes = node.store.commit(vec![write], Durability::Synced).await.map_err(disk)?;
        let written = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Blob { stored: true }));
        // Who was there already may be damaged: reading it has it dropped.
        if written || node.store.blob(id).await.map_err(disk)?.is_some() {
            node.parts.lacking.remove(id);
            node.metrics.parts.stored.inc();
            return Ok(());
        }
    }
    Err(Failure::Temporary("a damaged copy of this part is in the way; try again".into()))
}

async fn wanted_here(node: &Arc<Node>, parts: Vec<BlobId>) -> Result<Vec<BlobId>, Failure> {
    blocking(node, move |node| {
        let mut wanted = Vec::new();
        for id in parts {
            if node.store.refers_to_part(id)? {
                wanted.push(id);
            }
        }
        Ok(wanted)
    })
    .await
}
