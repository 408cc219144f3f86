//! What administrators ask of the queue: each node answers for the messages that it holds (`admin/queue.rs` asks all).

use super::Held;
use super::conclude::changed;
use super::holder::{FAILED, SENT};
use crate::node::Node;
use crate::wire::Failure;
use cluster::{Bucket, Entry, EntryId, Flag, UserId};
use outbound::queue::{JobView, MessageView};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Messages in one answer, and recipients of each in a list, at most.
pub const PAGE: usize = 1_000;
const SHOWN: usize = 5;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum QueueRequest {
    /// In the order of ids, which is that of arrival.
    List {
        after: Option<EntryId>,
        limit: u32,
    },
    Show {
        id: EntryId,
    },
    /// One, or all.
    Retry {
        id: Option<EntryId>,
    },
    /// Without a word to the sender.
    Drop {
        id: EntryId,
    },
    /// From one node to another: queued messages of these buckets that live on your disk.
    Live {
        buckets: Vec<Bucket>,
        after: Option<(UserId, EntryId)>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum QueueAnswer {
    Messages(Vec<QueuedMessage>),
    /// So many messages were concerned.
    Done(u64),
    /// A page, and where it goes on; buckets before that of the user are done.
    Live {
        entries: Vec<Entry>,
        next: Option<(UserId, EntryId)>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuedMessage {
    pub id: EntryId,
    /// As in the logs and in the message's `Received:` line. Empty while the envelope is not read.
    pub transaction: String,
    pub holder: String,
    /// Absent for the null path.
    pub sender: Option<String>,
    pub bytes: u64,
    pub age_seconds: u64,
    /// Recipients that are not done.
    pub waiting: u32,
    /// In a list, the first few that are not done.
    pub recipients: Vec<QueuedRecipient>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueuedRecipient {
    pub address: String,
    pub state: RecipientState,
    pub attempts: u32,
    /// Until it is tried (again); absent unless it waits.
    pub next_seconds: Option<u64>,
    /// What went wrong last.
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecipientState {
    Waiting,
    Active,
    Sent,
    Failed,
}

/// # Errors
/// [`Failure::NotFound`] if this node does not hold the message.
pub async fn serve(node: &Arc<Node>, request: QueueRequest) -> Result<QueueAnswer, Failure> {
    match request {
        QueueRequest::List { after, limit } => {
            Ok(QueueAnswer::Messages(list(node, after, (limit as usize).min(PAGE))))
        }
        QueueRequest::Show { id } => {
            let shown = show(node, id, usize::MAX).ok_or(Failure::NotFound)?;
            Ok(QueueAnswer::Messages(vec![shown]))
        }
        QueueRequest::Retry { id } => retry(node, id).map(QueueAnswer::Done),
        QueueRequest::Live { buckets, after } => super::scan::live(node, buckets, after)
            .await
            .map(|(entries, next)| QueueAnswer::Live { entries, next }),
        QueueRequest::Drop { id } => drop_message(node, id).await.map(|()| QueueAnswer::Done(1)),
    }
}

fn list(node: &Node, after: Option<EntryId>, limit: usize) -> Vec<QueuedMessage> {
    let ids: BTreeSet<EntryId> = {
        let state = node.outbound.lock();
        let unread = state.unread.entries().map(|entry| entry.id);
        let known = state.held.keys().chain(state.damaged.keys()).copied();
        known.chain(unread).filter(|id| after.is_none_or(|after| *id > after)).collect()
    };
    ids.into_iter().take(limit).filter_map(|id| show(node, id, SHOWN)).collect()
}

/// With at most `most` recipients; if that is not all, of those that are not done.
fn show(node: &Node, id: EntryId, most: usize) -> Option<QueuedMessage> {
    let outbound = &node.outbound;
    let state = outbound.lock();
    let Some(held) = state.held.get(&id) else {
        let unread = state.unread.entries().find(|entry| entry.id == id);
        let entry = unread.or_else(|| state.damaged.get(&id))?;
        return Some(without_envelope(node, entry));
    };
    let view = state.queue.view(id, outbound.now())?;
    let mut recipients = Vec::new();
    for (index, address) in held.envelope.recipients.iter().enumerate() {
        let recipient = recipient(held, &view, index, address);
        let is_done = matches!(recipient.state, RecipientState::Sent | RecipientState::Failed);
        if recipients.len() < most && (most == usize::MAX || !is_done) {
            recipients.push(recipient);
        }
    }
    Some(QueuedMessage {
        transaction: held.envelope.id.clone(),
        sender: held.envelope.sender.clone(),
        age_seconds: view.age.as_secs(),
        waiting: view.jobs.iter().map(|job| job.recipients.len() as u32).sum(),
        recipients,
        ..without_envelope(node, &held.entry)
    })
}

fn without_envelope(node: &Node, entry: &Entry) -> QueuedMessage {
    QueuedMessage {
        id: entry.id,
        transaction: String::new(),
        holder: node.settings.name.clone(),
        sender: None,
        bytes: entry.blob.size,
        age_seconds: super::age(entry).as_secs(),
        waiting: 0,
        recipients: Vec::new(),
    }
}

fn recipient(held: &Held, view: &MessageView, index: usize, address: &str) -> QueuedRecipient {
    let has = |word: &str| held.entry.has_flag(&Flag::Keyword(format!("{word}{index}")));
    let job: Option<&JobView> = view.jobs.iter().find(|job| job.recipients.contains(&index));
    let state = match job {
        Some(job) if job.active => RecipientState::Active,
        Some(_) => RecipientState::Waiting,
        None if has(FAILED) && !has(SENT) => RecipientState::Failed,
        None => RecipientState::Sent,
    };
    QueuedRecipient {
        address: address.to_owned(),
        state,
        attempts: job.map_or(0, |job| job.attempts),
        next_seconds: job.filter(|job| !job.active).map(|job| job.next.as_secs()),
        problem: job.and_then(|job| job.last.clone()),
    }
}

fn retry(node: &Node, id: Option<EntryId>) -> Result<u64, Failure> {
    let outbound = &node.outbound;
    let now = outbound.now();
    let mut state = outbound.lock();
    let ids: Vec<EntryId> = id.map_or_else(|| state.queue.ids().collect(), |id| vec![id]);
    let count = ids.into_iter().filter(|&id| state.queue.retry(id, now)).count() as u64;
    drop(state);
    outbound.news.notify_one();
    if count == 0 && id.is_some() { Err(Failure::NotFound) } else { Ok(count) }
}

async fn drop_message(node: &Arc<Node>, id: EntryId) -> Result<(), Failure> {
    let entry = {
        let state = node.outbound.lock();
        let unread = || state.unread.entries().find(|entry| entry.id == id);
        let held = state.held.get(&id).map(|held| &held.entry);
        held.or_else(unread).or_else(|| state.damaged.get(&id)).cloned().ok_or(Failure::NotFound)?
    };
    let pushed = node.replication.push(node, vec![changed(node, &entry, &[], true)]).await;
    if pushed.durable.is_empty() {
        return Err(Failure::Temporary("the message could not be dropped on enough nodes; try again".into()));
    }
    tracing::warn!(entry = %id, "dropped from the queue by an administrator");
    node.outbound.lock().is_over(id);
    Ok(())
}
