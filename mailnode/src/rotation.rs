//! Replacing the cluster's secret while everything runs ([`crate::crypto::Secrets`], docs/security.md).
//!
//! Each node looks at its files now and then, tells its highest version with every message, and makes new keys with the highest
//! version that all members have. While it has several, it looks through the entries on its disk for keys that an older one
//! wraps, and asks their managers to wrap them anew ([`crate::manager`]). When no node finds any more, the older one may be taken
//! away; a version that is still needed is kept in memory for as long as the node runs, and that is said.

use crate::crypto::{Secrets, Version, Wrapping};
use crate::environment;
use crate::locking::lock;
use crate::node::Node;
use crate::wire::{Failure, PAGE, UserOp, UserReply};
use cluster::{Bucket, Entry, EntryId, NodeId, UserId, is_queue_user};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The files are looked at so often.
const LOOK: Duration = Duration::from_secs(5);
/// What the members have is compared so often.
const AGREE: Duration = Duration::from_secs(1);
/// Between two looks through all entries.
const SURVEY: Duration = Duration::from_secs(10);
/// A manager is waited for so long until it has wrapped a user's keys anew; then it is the next user's turn.
const USER: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Rotation {
    /// The highest version of each peer.
    newest: Mutex<BTreeMap<NodeId, Version>>,
    survey: Mutex<Survey>,
}

/// What the last look through all entries found.
#[derive(Clone, Copy, Default)]
struct Survey {
    /// The version that was current all the while.
    current: Version,
    older: u64,
}

/// The cluster's secret, as one node has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecretStatus {
    pub versions: Vec<Version>,
    /// New keys are made with this one.
    pub current: Version,
    /// Copies of messages here whose key an older version wraps; absent while they are being counted.
    pub wrapped_by_older: Option<u64>,
}

impl Rotation {
    pub fn hear(&self, peer: NodeId, newest: Version) {
        lock(&self.newest).insert(peer, newest);
    }

    pub fn status(&self, node: &Node) -> SecretStatus {
        let (versions, current) = (node.keys.versions(), node.keys.current());
        let older = versions.iter().any(|&version| version < current);
        let survey = *lock(&self.survey);
        let wrapped_by_older = match older {
            true => (survey.current == current).then_some(survey.older),
            false => Some(0),
        };
        SecretStatus { versions, current, wrapped_by_older }
    }
}

/// Until the node stops.
pub async fn run(node: Arc<Node>) {
    tokio::join!(agree(&node), survey(&node));
}

async fn agree(node: &Arc<Node>) {
    let mut tick = tokio::time::interval(AGREE);
    loop {
        tick.tick().await;
        let before = node.keys.current();
        let view = &node.topology.now().view;
        let mut known = lock(&node.rotation.newest);
        known.retain(|peer, _| view.member(*peer).is_some());
        let newest = |id| if id == node.id { Some(node.keys.newest()) } else { known.get(&id).copied() };
        // Of whom nothing was heard yet may have the oldest only.
        let all = view.members.iter().map(|member| newest(member.id).unwrap_or(0)).min();
        drop(known);
        node.keys.agree(all.unwrap_or(0));
        let current = node.keys.current();
        if current != before {
            tracing::info!(version = current, "new keys are made with this version of the cluster's secret");
        }
    }
}

async fn survey(node: &Arc<Node>) {
    let mut tick = tokio::time::interval(SURVEY);
    loop {
        tick.tick().await;
        let current = node.keys.current();
        if node.keys.versions().iter().all(|&version| version >= current) {
            continue;
        }
        match look(node, current).await {
            Ok(older) => {
                *lock(&node.rotation.survey) = Survey { current, older };
                tracing::debug!(
                    older,
                    "copies of messages whose keys are wrapped by older versions of the cluster's secret"
                );
            }
            Err(failure) => {
                tracing::warn!(%failure, "entries with keys of older versions are looked for later")
            }
        }
    }
}

/// Counts the keys here that versions before this one wrap, and has them wrapped anew.
async fn look(node: &Arc<Node>, current: Version) -> Result<u64, Failure> {
    let mut found = 0;
    for bucket in Bucket::all() {
        for user in super::replica::blocking(node, move |node| node.store.users([bucket])).await? {
            let here = count(node, user, current).await?;
            if here == 0 {
                continue;
            }
            if is_queue_user(user) {
                crate::outbound::wrap_anew(node, user, current).await?;
            } else {
                wrap_anew(node, user).await;
            }
            found += count(node, user, current).await?;
        }
    }
    Ok(found)
}

async fn count(node: &Arc<Node>, user: UserId, current: Version) -> Result<u64, Failure> {
    let (mut after, mut count): (Option<EntryId>, u64) = (None, 0);
    loop {
        let page = super::replica::blocking(node, move |node| node.store.entries(user, after, PAGE)).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = Some(last.id);
        count += page.iter().filter(|entry| is_older(entry, current)).count() as u64;
    }
}

/// True if a version of the secret before this one wraps its key.
pub fn is_older(entry: &Entry, current: Version) -> bool {
    let wrapped = Wrapping::of(&entry.blob.key.value);
    entry.is_live() && matches!(wrapped, Some(Wrapping::Cluster(version)) if version < current)
}

/// Its manager does it, and is asked until it has.
async fn wrap_anew(node: &Arc<Node>, user: UserId) {
    let begun = Instant::now();
    loop {
        match node.operate(user, UserOp::Misfits { most: 0 }).await {
            Ok(UserReply::Misfits(found)) if found.left > 0 && begun.elapsed() < USER => {}
            Ok(_) => return,
            Err(failure) => {
                tracing::debug!(%user, %failure, "its keys are wrapped anew later");
                return;
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Takes over what changes in the files, until the node stops.
pub async fn watch(node: Arc<Node>, path: PathBuf, mut known: Secrets, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopping| *stopping) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let file = path.clone();
        let read = environment::blocking(move || Secrets::read(&file)).await;
        let outcome = match read {
            Ok(Ok(read)) => take_over(&node, &mut known, read),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "cluster.secretFile: the cluster's secret stays as it was");
        }
    }
}

fn take_over(node: &Node, known: &mut Secrets, read: Secrets) -> Result<(), String> {
    let status = node.rotation.status(node);
    let needed = if status.wrapped_by_older == Some(0) { status.current } else { 0 };
    let read = read.check_against(known).map_err(|error| error.to_string())?;
    let next = read.with_needed(known, needed);
    if next != *known {
        node.keys.replace(&next).map_err(|error| error.to_string())?;
        tracing::info!(versions = ?next.versions(), "versions of the cluster's secret");
        *known = next;
    }
    Ok(())
}
