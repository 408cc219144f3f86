//! Anti-entropy with one peer at a time: the shell around [`cluster::anti_entropy`].

use super::{blocking, copy};
use crate::node::Node;
use crate::replica;
use crate::wire::{Answer, Failure, PAGE, PendingEntry, Request, Response, Updated};
use cluster::anti_entropy::{Comparison, Difference, Outcome, PAGE_ITEMS, Question, Schedule};
use cluster::redelivery::GRACE;
use cluster::{Entry, EntryId, NodeId, UserId};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(10);
/// Entries repaired with one call.
const BATCH: usize = 200;

/// Until the node stops.
pub async fn run(node: &Arc<Node>) {
    let schedule = Arc::new(Mutex::new(Schedule::new(node.id)));
    let mut tick = tokio::time::interval(TICK);
    let mut epoch = node.topology.now().view.epoch;
    loop {
        tick.tick().await;
        let now = node.healing.started.elapsed();
        let mut due = Vec::new();
        {
            let mut schedule = super::lock(&schedule);
            schedule.observe(&node.topology.readable(), now);
            let current = node.topology.now().view.epoch;
            if std::mem::replace(&mut epoch, current) != current {
                schedule.hurry(now);
            }
            due.extend(std::iter::from_fn(|| schedule.begin(now)));
            *super::lock(&node.healing.level) = (current, schedule.level().collect());
        }
        for peer in due {
            let (node, schedule) = (node.clone(), schedule.clone());
            tokio::spawn(async move {
                let outcome = match compare(&node, peer, node.clock.millis_ago(GRACE)).await {
                    Ok(0) => Outcome::Equal,
                    Ok(repaired) => {
                        tracing::info!(%peer, repaired, "entries repaired by anti-entropy");
                        Outcome::Repaired
                    }
                    Err(failure) => {
                        tracing::debug!(%peer, %failure, "comparison ended");
                        Outcome::Failed
                    }
                };
                let now = node.healing.started.elapsed();
                super::lock(&schedule).finished(peer, outcome, now, crate::environment::random());
            });
        }
    }
}

/// What a peer that compares asks for.
pub async fn answer(node: &Arc<Node>, from: NodeId, question: Question) -> Result<Answer, Failure> {
    match question {
        Question::Digests { level, parents } => {
            Ok(Answer::Digests(node.store.digests(from).answer(level, &parents)))
        }
        Question::Items { bucket, after } => {
            let page = blocking(node, move |node| node.store.items(from, bucket, after, PAGE_ITEMS));
            Ok(Answer::Items(page.await?))
        }
    }
}

/// All that is known here of these entries, copies or not.
pub async fn entries(node: &Arc<Node>, ids: Vec<(UserId, EntryId)>) -> Result<Response, Failure> {
    let read = move |node: &Node| {
        let known = ids.iter().take(PAGE).map(|&(user, entry)| node.store.entry(user, entry));
        known.filter_map(Result::transpose).collect()
    };
    Ok(Response::Fragment { entries: blocking(node, read).await?, more: false })
}

/// One comparison, of what was not changed since `settled_before` (Unix milliseconds). Returns how many entries were repaired.
///
/// # Errors
/// The peer's, or the disk's.
pub async fn compare(node: &Arc<Node>, peer: NodeId, settled_before: u64) -> Result<u64, Failure> {
    let bad = |_| Failure::Invalid("the answer does not fit the question".into());
    let mut comparison = Comparison::new(node.store.digests(peer), settled_before);
    let mut repaired = 0;
    node.metrics.healing.comparisons.inc();
    while let Some(question) = comparison.question() {
        let answer = node.call(peer, Request::Compare(question.clone()), DEADLINE).await?;
        match (question, answer) {
            (Question::Digests { .. }, Response::Compared(Answer::Digests(theirs))) => {
                comparison.digests(&theirs).map_err(bad)?;
            }
            (Question::Items { bucket, after }, Response::Compared(Answer::Items(theirs))) => {
                let mine = blocking(node, move |node| node.store.items(peer, bucket, after, PAGE_ITEMS));
                let differences = comparison.items(&mine.await?, &theirs).map_err(bad)?;
                for batch in differences.chunks(BATCH) {
                    repaired += repair(node, peer, batch).await?;
                }
            }
            _ => return Err(bad(cluster::anti_entropy::BadAnswer)),
        }
    }
    Ok(repaired)
}

/// Whoever of the two knows anything of an entry gives it to the other, who joins it.
async fn repair(node: &Arc<Node>, peer: NodeId, differences: &[Difference]) -> Result<u64, Failure> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for difference in differences {
        let (user, entry) = (difference.user, difference.entry);
        match blocking(node, move |node| node.store.entry(user, entry)).await? {
            Some(entry) => known.push(entry),
            None => unknown.push((user, entry)),
        }
    }
    let repaired = send(node, peer, known).await? + fetch(node, peer, unknown).await?;
    node.metrics.healing.repaired_entries.inc_by(repaired);
    Ok(repaired)
}

/// Sends versions to the peer and takes what it knows beyond them.
async fn send(node: &Arc<Node>, peer: NodeId, entries: Vec<Entry>) -> Result<u64, Failure> {
    if entries.is_empty() {
        return Ok(0);
    }
    let settled: Vec<PendingEntry> = entries.into_iter().map(PendingEntry::settled).collect();
    let copy_of_peer =
        |pending: &&PendingEntry| pending.entry.is_live() && pending.entry.replicas.value.contains(&peer);
    copy::bodies(node, peer, &settled.iter().filter(copy_of_peer).cloned().collect::<Vec<_>>()).await?;
    let answer = node.call(peer, Request::Update { entries: settled }, DEADLINE).await?;
    let Response::Updated(outcomes) = answer else {
        return Err(Failure::Temporary("unexpected answer".into()));
    };
    let mut repaired = 0;
    let mut newer = Vec::new();
    for outcome in outcomes {
        repaired += u64::from(!matches!(outcome, Updated::NoBody));
        if let Updated::Newer(joined) = outcome {
            newer.push(*joined);
        }
    }
    take(node, peer, newer).await?;
    Ok(repaired)
}

/// Fetches what the peer has and we have never seen, or lost.
async fn fetch(node: &Arc<Node>, peer: NodeId, ids: Vec<(UserId, EntryId)>) -> Result<u64, Failure> {
    if ids.is_empty() {
        return Ok(0);
    }
    let Response::Fragment { entries, .. } = node.call(peer, Request::Entries { ids }, DEADLINE).await?
    else {
        return Err(Failure::Temporary("unexpected answer".into()));
    };
    take(node, peer, entries).await
}

/// Joins a peer's versions here, with their bodies. Returns how many are here now.
async fn take(node: &Arc<Node>, peer: NodeId, entries: Vec<Entry>) -> Result<u64, Failure> {
    if entries.is_empty() {
        return Ok(0);
    }
    copy::fetch_bodies(node, &[peer], &entries).await?;
    let settled = entries.into_iter().map(PendingEntry::settled).collect();
    let outcomes = replica::update(node, peer, settled).await?;
    Ok(outcomes.iter().filter(|outcome| !matches!(outcome, Updated::NoBody)).count() as u64)
}
