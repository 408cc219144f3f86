//! Pushing updates of entries to their replicas, and the update log behind it (DESIGN 4).
//!
//! The node that begins an update sends the whole new version to every replica at once. Each replica logs it
//! together with the peers that are not known to have it. What was acknowledged is retired from the others'
//! logs in batches; what was not stays there, and any replica that has it pushes it on when the peer answers
//! again ([`redelivery_loop`]). So an update survives the death of whoever began it.
//!
//! A change is acknowledged when it is on `minCopies` disks, as a new message is. While a replica is away, another
//! node is a *witness*: it logs the version without the body, and pushes it like a replica.

use crate::healing::copy;
use crate::node::Node;
use crate::replica;
use crate::wire::{PAGE, PendingEntry, Request, Response, Updated, UserOp, Version};
use cluster::redelivery::GRACE;
use cluster::{Bucket, Entry, EntryId, NodeId, Redelivery, UserId};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A replica that did not answer within this is left to redelivery.
const DEADLINE: Duration = Duration::from_secs(1);
/// A replica that lacks a body is asked again so soon.
const BODY_ON_ITS_WAY: Duration = Duration::from_millis(5);
/// Acknowledgements are collected for so long before they are passed on.
const RETIRE_EVERY: Duration = Duration::from_millis(200);
/// Acknowledgements waiting to be passed on; beyond it they are dropped, and redelivery finds out by itself.
const RETIRE_LIMIT: usize = 200_000;
const REDELIVER_EVERY: Duration = Duration::from_millis(500);
/// A message whose body is nowhere is given up after so long: somebody may have been about to write it.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Looking for bodies on a disk may take so long.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// What became of an update.
#[derive(Debug, Default)]
pub struct Pushed {
    /// On `minCopies` disks.
    pub durable: Vec<Entry>,
    /// On fewer: it may yet get lost.
    pub endangered: Vec<Entry>,
    /// On none as far as we know.
    pub lost: Vec<Entry>,
    /// On none: no replica has the body.
    pub bodiless: Vec<Entry>,
    /// Versions that replicas have and that know more than what was pushed.
    pub newer: Vec<Entry>,
}

impl Pushed {
    /// What is not durable.
    pub fn failed(&self) -> impl Iterator<Item = &Entry> {
        self.lost.iter().chain(&self.endangered).chain(&self.bodiless)
    }
}

#[derive(Default)]
pub struct Replication {
    /// (whom to tell, who has it) -> versions.
    retires: Mutex<BTreeMap<(NodeId, NodeId), Vec<Version>>>,
}

fn version(entry: &Entry, digest: u64) -> Version {
    Version { user: entry.user, entry: entry.id, digest }
}

impl Replication {
    /// Writes new versions to all their replicas that can be reached, and to witnesses for those that cannot;
    /// resolves when each has answered or was given up.
    pub async fn push(&self, node: &Arc<Node>, entries: Vec<Entry>) -> Pushed {
        let mut round = Round::new(node, &entries);
        let mut pushed = Pushed::default();
        // The second round is for replicas that looked well and did not answer.
        for _ in 0..2 {
            let wanted = round.whom_to_ask(node, &entries);
            let calls = wanted
                .iter()
                .flat_map(|(&replica, indexes)| indexes.chunks(PAGE).map(move |page| (replica, page)));
            let entries = &entries;
            let answers = join_all(calls.map(|(replica, page)| async move {
                (replica, page, update_replica(node, replica, entries, page).await)
            }))
            .await;
            for (replica, page, answer) in answers {
                for (&at, outcome) in page.iter().zip(answer) {
                    match outcome {
                        Some(Updated::Same) => round.acks[at].push((replica, entries[at].digest())),
                        Some(Updated::Newer(newer)) => {
                            round.acks[at].push((replica, newer.digest()));
                            pushed.newer.push(*newer);
                        }
                        Some(Updated::NoBody) => round.bodiless[at] += 1,
                        None => {}
                    }
                }
            }
        }
        for (at, (entry, acks)) in entries.into_iter().zip(round.acks).enumerate() {
            self.retire(&entry, &acks);
            if acks.len() >= round.copies {
                pushed.durable.push(entry);
            } else if round.bodiless[at] > 0 && round.bodiless[at] == round.asked[at].len() {
                pushed.bodiless.push(entry);
            } else if acks.is_empty() {
                pushed.lost.push(entry);
            } else {
                pushed.endangered.push(entry);
            }
        }
        pushed
    }

    /// Each holder has the version of its digest: the others need not keep that for it.
    pub fn retire(&self, entry: &Entry, holders: &[(NodeId, u64)]) {
        if holders.len() < 2 {
            return;
        }
        let mut retires = self.retires.lock().unwrap_or_else(PoisonError::into_inner);
        for &(tell, _) in holders {
            for &(has, digest) in holders.iter().filter(|(has, _)| *has != tell) {
                let versions = retires.entry((tell, has)).or_default();
                if versions.len() < RETIRE_LIMIT {
                    versions.push(version(entry, digest));
                }
            }
        }
    }

    async fn pass_on_retires(&self, node: &Arc<Node>) {
        let retires = std::mem::take(&mut *self.retires.lock().unwrap_or_else(PoisonError::into_inner));
        join_all(retires.into_iter().map(|((tell, peer), versions)| async move {
            for page in versions.chunks(PAGE * 4) {
                let request = Request::Retire { peer, versions: page.to_vec() };
                // If it is lost, redelivery will find that the peer has it.
                if node.call(tell, request, DEADLINE).await.is_err() {
                    return;
                }
            }
        }))
        .await;
    }
}

/// Who was asked to log versions, and who did.
struct Round {
    /// Disks that a version must be on.
    copies: usize,
    asked: Vec<BTreeSet<NodeId>>,
    acks: Vec<Vec<(NodeId, u64)>>,
    /// How many said that they have no body for it.
    bodiless: Vec<usize>,
}

impl Round {
    fn new(node: &Node, entries: &[Entry]) -> Self {
        Self {
            copies: node.settings.replication.min_copies,
            asked: vec![BTreeSet::new(); entries.len()],
            acks: vec![Vec::new(); entries.len()],
            bodiless: vec![0; entries.len()],
        }
    }

    /// Replicas that can be reached and were not asked yet; then as many witnesses as are missing, in the user's
    /// rendezvous order. Our own disk is always in reach, also if the view has us dead: we may be back a moment later, and
    /// manage the mailbox.
    fn whom_to_ask(&mut self, node: &Node, entries: &[Entry]) -> BTreeMap<NodeId, Vec<usize>> {
        let mut known: BTreeSet<NodeId> = node.topology.readable().into_iter().map(|(id, _)| id).collect();
        known.insert(node.id);
        let user_map = &node.topology.now().user_map;
        let mut wanted: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (at, (entry, asked)) in entries.iter().zip(&mut self.asked).enumerate() {
            let mut hopeful = self.acks[at].len();
            let mut ask = |asked: &mut BTreeSet<NodeId>, other: NodeId| {
                let new = known.contains(&other) && asked.insert(other);
                if new {
                    wanted.entry(other).or_default().push(at);
                }
                usize::from(new)
            };
            for &replica in &entry.replicas.value {
                hopeful += ask(asked, replica);
            }
            // A witness stands in for a replica that is away, not for a body that is.
            if hopeful >= self.copies || (self.acks[at].is_empty() && self.bodiless[at] > 0) {
                continue;
            }
            for witness in user_map.order(Bucket::of_user(entry.user)) {
                if hopeful >= self.copies {
                    break;
                }
                hopeful += ask(asked, witness);
            }
        }
        wanted
    }
}

/// Sends new versions to one replica; None for those of which it is not known whether it took them. The manager hears
/// of a message as soon as its first copy is on disk, so another replica may still be writing the body: it is asked
/// again until it has it. Were it left to redelivery, a UID would be on one disk while clients are shown it.
async fn update_replica(
    node: &Arc<Node>,
    replica: NodeId,
    entries: &[Entry],
    page: &[usize],
) -> Vec<Option<Updated>> {
    let begun = Instant::now();
    let mut outcomes: Vec<Option<Updated>> = page.iter().map(|_| None).collect();
    loop {
        let is_open = |outcome: &Option<Updated>| matches!(outcome, None | Some(Updated::NoBody));
        let open: Vec<usize> = (0..page.len()).filter(|&at| is_open(&outcomes[at])).collect();
        // An answer that gets lost may be another than the last one.
        open.iter().for_each(|&at| outcomes[at] = None);
        let updates = open
            .iter()
            .filter_map(|&at| entries.get(page[at]))
            .map(|entry| PendingEntry { pending: entry.other_replicas(replica), entry: entry.clone() });
        let request = Request::Update { entries: updates.collect() };
        let Ok(Response::Updated(answer)) = node.call(replica, request, DEADLINE).await else {
            return outcomes;
        };
        for (at, outcome) in open.into_iter().zip(answer) {
            outcomes[at] = Some(outcome);
        }
        if !outcomes.iter().any(is_open) || begun.elapsed() > DEADLINE {
            return outcomes;
        }
        tokio::time::sleep(BODY_ON_ITS_WAY).await;
    }
}

/// Passes acknowledgements on until the node stops.
pub async fn retire_loop(node: Arc<Node>) {
    let mut tick = tokio::time::interval(RETIRE_EVERY);
    loop {
        tick.tick().await;
        node.replication.pass_on_retires(&node).await;
    }
}

/// Pushes the update log to peers that can be reached, until the node stops.
pub async fn redelivery_loop(node: Arc<Node>) {
    let started = Instant::now();
    let redelivery = Arc::new(Mutex::new(Redelivery::default()));
    let mut lives = BTreeMap::new();
    let mut tick = tokio::time::interval(REDELIVER_EVERY);
    loop {
        tick.tick().await;
        let readable: BTreeMap<_, _> = node.topology.readable().into_iter().collect();
        for peer in node.store.pending_peers() {
            let life = readable.get(&peer).copied();
            let mut state = redelivery.lock().unwrap_or_else(PoisonError::into_inner);
            if life.is_some() && lives.insert(peer, life) != Some(life) {
                state.returned(peer);
            }
            if state.begin(peer, life.is_some(), started.elapsed()) {
                drop(state);
                let (node, redelivery) = (node.clone(), redelivery.clone());
                tokio::spawn(async move {
                    let delivered = redeliver(&node, peer).await;
                    let mut state = redelivery.lock().unwrap_or_else(PoisonError::into_inner);
                    if delivered {
                        state.succeeded(peer);
                    } else {
                        state.failed(peer, started.elapsed());
                    }
                });
            }
        }
    }
}

/// One round over all that `peer` still has to get from us. True unless it failed, or all that is left is entries whose
/// bodies neither has: healing looks for those.
async fn redeliver(node: &Arc<Node>, peer: NodeId) -> bool {
    let mut after: Option<(cluster::UserId, EntryId)> = None;
    let (mut delivered, mut stuck) = (0, Vec::new());
    loop {
        let page = match node.store.pending(peer, after, PAGE) {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "the update log cannot be read");
                return false;
            }
        };
        let Some(last) = page.last() else {
            let is_done = delivered > 0 || stuck.is_empty();
            return give_up_lost(node, peer, stuck).await || is_done;
        };
        after = Some((last.user, last.id));
        let young = node.clock.millis_ago(GRACE);
        let due: Vec<Entry> =
            page.into_iter().filter(|entry| entry.latest().unix_millis() <= young).collect();
        if due.is_empty() {
            continue;
        }
        let needs_body = due.iter().filter(|entry| entry.is_live()).cloned();
        if !send_bodies(node, peer, needs_body.collect()).await {
            return false;
        }
        let entries: Vec<PendingEntry> = due.iter().cloned().map(PendingEntry::settled).collect();
        let answer = node.call(peer, Request::Update { entries }, Duration::from_secs(5)).await;
        let Ok(Response::Updated(outcomes)) = answer else { return false };
        let (mut acked, mut newer) = (Vec::new(), Vec::new());
        for (entry, outcome) in due.iter().zip(outcomes) {
            match outcome {
                Updated::Same => acked.push(version(entry, entry.digest())),
                Updated::Newer(joined) => {
                    // Taking what the peer knows makes us equal, and then its version is acknowledged here.
                    acked.push(version(&joined, joined.digest()));
                    newer.push(PendingEntry::settled(*joined));
                }
                Updated::NoBody if stuck.len() < PAGE => stuck.push(entry.clone()),
                Updated::NoBody => {}
            }
        }
        delivered += acked.len();
        if !newer.is_empty() && replica::update(node, node.id, newer).await.is_err() {
            return false;
        }
        if replica::retire(node, peer, acked).await.is_err() {
            return false;
        }
        // The peer does not tell us as the manager what it has from us as a replica.
        let user_map = &node.topology.now().user_map;
        let ours = due.iter().filter(|entry| user_map.manager_of(entry.user) == Some(node.id));
        node.notices.send(node, ours.cloned(), None);
        node.metrics.redelivered.inc_by(due.len() as u64);
    }
}

/// Of entries that we have only as a witness and that their replicas cannot take for want of a body: those of which no disk of a whole
/// cluster has the body, and so none has it any more, need not be told of for ever. That takes the loss of the disks of all
/// replicas that had it; of mail that was acknowledged, of `minCopies` disks at one time. True if there were any.
async fn give_up_lost(node: &Arc<Node>, peer: NodeId, stuck: Vec<Entry>) -> bool {
    let old = node.clock.millis_ago(LOST_AFTER);
    let is_candidate = |entry: &Entry| {
        entry.is_live() && !entry.replicas.value.contains(&node.id) && entry.latest().unix_millis() <= old
    };
    let mut stuck: Vec<Entry> = stuck.into_iter().filter(is_candidate).collect();
    let members: Vec<NodeId> = node.topology.now().view.members.iter().map(|member| member.id).collect();
    let readable: BTreeSet<NodeId> = node.topology.readable().into_iter().map(|(id, _)| id).collect();
    // Whoever is away, or not level yet, may have it, or hear of it.
    let is_whole = |member: &NodeId| readable.contains(member) && !node.topology.is_refilling(*member);
    if stuck.is_empty() || node.healing.is_refilling() || !members.iter().all(is_whole) {
        return false;
    }
    for member in members {
        let blobs: BTreeSet<_> = stuck.iter().map(|entry| entry.blob.id).collect();
        let request = Request::Missing { blobs: blobs.into_iter().collect() };
        let Ok(Response::Missing(missing)) = node.call(member, request, LOOK_DEADLINE).await else {
            return false;
        };
        stuck.retain(|entry| missing.contains(&entry.blob.id));
    }
    for entry in &stuck {
        tracing::error!(user = %entry.user, entry = %entry.id, body = ?entry.blob.id, "no disk has this message's body any more; it is lost");
    }
    node.metrics.lost_bodies.inc_by(stuck.len() as u64);
    let lost: Vec<Version> = stuck.iter().map(|entry| version(entry, entry.digest())).collect();
    let is_done = !lost.is_empty() && replica::retire(node, peer, lost).await.is_ok();
    let users: BTreeSet<UserId> = stuck.iter().map(|entry| entry.user).collect();
    for user in users {
        // If the manager does not hear of it, it finds out when it reads the mailbox anew.
        if let Err(failure) = node.operate(user, UserOp::GivenUp).await {
            tracing::warn!(%user, %failure, "the manager of a mailbox does not know that messages are lost");
        }
    }
    is_done
}

/// The peer may lack the bodies of entries made while it was away. Bodies it has cost one small question.
async fn send_bodies(node: &Arc<Node>, peer: NodeId, entries: Vec<Entry>) -> bool {
    let mut asked = BTreeSet::new();
    let ids: Vec<_> = entries.iter().map(|entry| entry.blob.id).filter(|id| asked.insert(*id)).collect();
    let deadline = Duration::from_secs(5);
    let Ok(Response::Missing(missing)) = node.call(peer, Request::Missing { blobs: ids }, deadline).await
    else {
        return false;
    };
    for id in missing {
        let Some(entry) = entries.iter().find(|entry| entry.blob.id == id) else { continue };
        // Who has a message only as a witness has no body, and the replicas that do may have been given another set since: then none
        // of them has anything to tell this peer.
        let ciphertext = match node.store.blob(id).await {
            Ok(Some(ciphertext)) => Some(ciphertext),
            _ => {
                let mut sources = entry.other_replicas(node.id);
                sources.retain(|&source| source != peer);
                copy::fetch(node, id, entry.blob.size, &sources).await
            }
        };
        let Some(ciphertext) = ciphertext else {
            tracing::debug!(blob = ?id, "body for redelivery can be read nowhere now");
            continue;
        };
        let entries = vec![PendingEntry::settled(entry.clone())];
        let deadline = Duration::from_secs(30);
        if node.call_with(peer, Request::Store { entries }, ciphertext, deadline).await.is_err() {
            return false;
        }
    }
    true
}
