//! What came of an attempt is made durable: recipients that are done become registers of the entry, and when all are, the
//! entry a tombstone. Then the queue goes on. Senders hear of failures before they count as done.

use super::holder::{FAILED, SENT, WARNED, done};
use super::{Held, is_ours};
use crate::environment;
use crate::node::Node;
use cluster::{Entry, EntryId, Flag};
use outbound::queue::{Judgement, Late};
use outbound::{Destination, Outcome, Problem, Work};
use std::sync::Arc;
use std::time::Duration;

/// Attempts to make an outcome durable, and the wait between them. If none works the message may be sent again by
/// somebody else, later.
const ATTEMPTS: u32 = 30;
const AGAIN: Duration = Duration::from_secs(1);

/// Ends a job. With `stays_open` the job goes on elsewhere with the recipients that are not in `work`.
pub async fn conclude(
    node: &Arc<Node>,
    held: &Held,
    work: &Work<EntryId>,
    destination: &Destination,
    outcomes: Vec<Outcome>,
    stays_open: bool,
) {
    let outbound = &node.outbound;
    let last = outcomes.iter().rev().find_map(|outcome| match outcome {
        Outcome::Failed(problem) => Some(problem.clone()),
        Outcome::Delivered(_) => None,
    });
    let judgement = outbound.lock().queue.judge(work, outcomes, outbound.now());
    tell(node, held, destination, &judgement, last.as_ref());
    let delivered = judgement.delivered.iter().map(|(index, _)| *index);
    let mut done: Vec<usize> = delivered.collect();
    let mut registers: Vec<Flag> = done.iter().map(|index| Flag::Keyword(format!("{SENT}{index}"))).collect();
    if !judgement.failed.is_empty() && super::report::failed(node, held, &judgement.failed).await {
        let failed = judgement.failed.iter().map(|(index, _, _)| *index);
        registers.extend(failed.clone().map(|index| Flag::Keyword(format!("{FAILED}{index}"))));
        done.extend(failed);
    }
    if !done.is_empty() {
        let left = outbound.lock().queue.done(work.id, &done);
        // If it is somebody else's by now, the registers say whether anybody is left.
        let count = held.envelope.recipients.len();
        let finished =
            left.unwrap_or_else(|| is_finished(&changed(node, &held.entry, &registers, false), count));
        let entry = changed(node, &held.entry, &registers, finished);
        write(node, &entry).await;
        let mut state = outbound.lock();
        if finished {
            state.is_over(work.id);
        } else if let Some(held) = state.held.get_mut(&work.id) {
            held.entry.merge(&entry);
        }
    }
    if !stays_open {
        let (now, random) = (outbound.now(), environment::random());
        outbound.lock().queue.settle(work, destination, last.as_ref(), now, random);
    }
}

/// Tells the sender of a message that is late, once.
pub async fn warn(node: &Arc<Node>, late: Late<EntryId>) {
    let Some(held) = node.outbound.lock().held.get(&late.id).cloned() else { return };
    if super::report::delayed(node, &held, late.recipients).await {
        note(node, late.id, &[WARNED.to_owned()]).await;
    } else {
        node.outbound.lock().queue.warn_again(late.id);
    }
}

/// Sets registers of a message that is worked on. If that fails, what they say may be done again.
pub async fn note(node: &Arc<Node>, id: EntryId, words: &[String]) {
    let Some(held) = node.outbound.lock().held.get(&id).cloned() else { return };
    let registers: Vec<Flag> = words.iter().cloned().map(Flag::Keyword).collect();
    let entry = changed(node, &held.entry, &registers, false);
    write(node, &entry).await;
    if let Some(held) = node.outbound.lock().held.get_mut(&id) {
        held.entry.merge(&entry);
    }
}

/// The entry with these registers set; a tombstone if it is finished.
pub fn changed(node: &Node, entry: &Entry, registers: &[Flag], finished: bool) -> Entry {
    let at = node.clock.now();
    let mut entry = entry.clone();
    for flag in registers {
        entry.set_flag(flag.clone(), true, at);
    }
    if finished {
        entry.expunged = Some(at);
    }
    entry
}

/// By the entry's registers, all of so many recipients are done.
fn is_finished(entry: &Entry, recipients: usize) -> bool {
    let done = done(entry);
    (0..recipients).all(|index| done.contains(&index))
}

/// Messages all of whose recipients were found to be done become tombstones: whoever did the last one could not know.
pub async fn finish(node: &Arc<Node>) {
    let finished = std::mem::take(&mut node.outbound.lock().finished);
    for (id, entry) in finished.into_iter().filter(|(_, entry)| is_ours(node, entry)) {
        write(node, &changed(node, &entry, &[], true)).await;
        node.outbound.lock().is_over(id);
    }
}

/// On `minCopies` disks, or at least on one that will tell the others.
async fn write(node: &Arc<Node>, entry: &Entry) {
    for _ in 0..ATTEMPTS {
        let pushed = node.replication.push(node, vec![entry.clone()]).await;
        if pushed.lost.is_empty() && pushed.bodiless.is_empty() {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
    tracing::error!(entry = %entry.id, "the outcome of a delivery is on no disk: the message may be sent again");
}

/// In the log and in the metrics. Addresses are told, contents are not.
fn tell(node: &Node, held: &Held, destination: &Destination, judgement: &Judgement, last: Option<&Problem>) {
    let id = &held.envelope.id;
    let address = |index: usize| held.envelope.recipients.get(index).map(String::as_str).unwrap_or_default();
    let attempts = &node.metrics.queue.attempts;
    for (index, reply) in &judgement.delivered {
        attempts.with_label_values(&["delivered"]).inc();
        tracing::info!(id, recipient = address(*index), %destination, reply, "sent");
    }
    for (index, problem, expired) in &judgement.failed {
        attempts.with_label_values(&[if *expired { "expired" } else { "failed" }]).inc();
        tracing::warn!(id, recipient = address(*index), %destination, %problem, expired, "cannot be delivered");
    }
    for &index in &judgement.deferred {
        attempts.with_label_values(&["deferred"]).inc();
        let problem = last.map(ToString::to_string).unwrap_or_default();
        tracing::info!(id, recipient = address(index), %destination, problem, "deferred");
    }
}
