//! What nodes have on their disks of a mailbox, and what is certain of it.

use super::{ANOTHER, Mailbox};
use crate::manager::UserCell;
use crate::node::Node;
use crate::wire::{Failure, Request, Response};
use cluster::{Bucket, Entry, Incarnation, NodeId, UserId};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const FRAGMENT_DEADLINE: Duration = Duration::from_secs(5);
/// Fragments are read one after another, and numbers that another manager gives meanwhile may be in one and lower ones not yet in
/// the other: all are read again, so many times, while there are new numbers that were given so lately.
const READ_AGAIN: usize = 3;
const JUST_NUMBERED: Duration = Duration::from_secs(30);
/// That a message is gone may be known to one disk only, if an expunge failed or a delivery was taken back. Replicas tell each other
/// within seconds, or as soon as they are back; a tombstone that is older is not looked at.
const JUST_EXPUNGED: Duration = Duration::from_secs(600);
/// Of what is told in passing nobody knows on how many disks it is.
pub(super) const HEARSAY: usize = usize::MAX;

/// All fragments that can be reached and are not in the index yet.
///
/// # Errors
/// If others number so fast that the fragments do not agree, or nothing can be read of a mailbox that should be there.
pub(super) async fn fetch_fragments(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
) -> Result<(), Failure> {
    for _ in 0..READ_AGAIN {
        if !fetch_missing(node, cell, mailbox).await? {
            return Ok(());
        }
        mailbox.built_from.clear();
        if !node.topology.is_manager(cell.user) {
            node.manager.knowledge.doubt(Bucket::of_user(cell.user));
        }
    }
    Err(Failure::Temporary(ANOTHER.into()))
}

/// True if there are numbers that somebody gave just now: what has a lower one may not be among what was read.
async fn fetch_missing(node: &Arc<Node>, cell: &UserCell, mailbox: &mut Mailbox) -> Result<bool, Failure> {
    let (map, answered) = node.manager.knowledge.mail_map_and_answered(node, cell.user).await;
    let missing: Vec<(NodeId, Incarnation)> = node
        .topology
        .readable()
        .into_iter()
        .filter(|(member, life)| map.contains(*member) && mailbox.built_from.get(member) != Some(life))
        .collect();
    let fetched = join_all(missing.iter().map(|(member, _)| fragment(node, *member, cell.user))).await;
    let mut failed = 0;
    let mut news = Vec::new();
    for ((member, life), fragment) in missing.iter().zip(fetched) {
        match fragment {
            Ok(entries) => {
                news.extend(entries);
                mailbox.built_from.insert(*member, *life);
            }
            Err(_) => failed += 1,
        }
    }
    for entry in &news {
        // What we write from here on is later than what is written there.
        let _ = node.clock.observe(entry.latest());
    }
    let lately = node.clock.millis_ago(JUST_NUMBERED);
    let just_numbered = mailbox.meet_numbers(&news, lately);
    let doubtful = learn_certain(node, mailbox, news, node.settings.replication.min_copies).await;
    if !missing.is_empty() || mailbox.fetched.is_none() {
        mailbox.fetched = Some(Instant::now());
    }
    let view = &node.topology.now().view;
    let unread = view.members.iter().map(|member| member.id).filter(|&id| {
        let holds_nothing = answered.contains(&id) && !map.contains(id);
        is_refilling(node, id) || !mailbox.built_from.contains_key(&id) && !holds_nothing
    });
    mailbox.unread = unread.collect();
    if mailbox.unread.len() < node.settings.replication.min_copies {
        mailbox.unread.clear();
    }
    if failed > 0 && mailbox.built_from.is_empty() {
        return Err(Failure::Temporary("the nodes that hold this mailbox do not answer; try again".into()));
    }
    if !doubtful.is_empty() {
        if mailbox.is_complete() {
            mailbox.built_from.clear();
            return Err(Failure::Temporary("it is not certain yet that messages are gone; try again".into()));
        }
        // With too many nodes away it is shown without those messages, and that is written down (`admit_unread`).
        mailbox.index.doubt(doubtful);
    }
    Ok(just_numbered)
}

/// Takes what was told, by each node of each message once at most. A tombstone that fewer than `proof` nodes told of is made durable
/// before it is taken: were its disk lost, the message would be back, below what was shown without it. Returns what could not be made
/// durable.
pub(super) async fn learn_certain(
    node: &Arc<Node>,
    mailbox: &mut Mailbox,
    told: Vec<Entry>,
    proof: usize,
) -> Vec<Entry> {
    let lately = node.clock.millis_ago(JUST_EXPUNGED);
    let (certain, doubtful) = mailbox.index.split_doubtful(told, proof, lately);
    mailbox.learn(certain);
    if doubtful.is_empty() {
        return doubtful;
    }
    let pushed = node.replication.push(node, doubtful).await;
    let failed: Vec<Entry> = pushed.failed().cloned().collect();
    mailbox.learn(pushed.durable.into_iter().chain(pushed.newer).collect());
    mailbox.index.abandon(&failed);
    failed
}

/// What is on its disk may be less than what was there.
pub(super) fn is_refilling(node: &Node, id: NodeId) -> bool {
    if id == node.id { node.healing.is_refilling() } else { node.topology.is_refilling(id) }
}

/// All entries of a user on one node.
async fn fragment(node: &Arc<Node>, member: NodeId, user: UserId) -> Result<Vec<Entry>, Failure> {
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let request = Request::Fragment { user, after: entries.last().map(|entry| entry.id) };
        match node.call(member, request, FRAGMENT_DEADLINE).await {
            Ok(Response::Fragment { entries: page, more }) => {
                let done = !more || page.is_empty();
                entries.extend(page);
                if done {
                    return Ok(entries);
                }
            }
            Ok(_) => return Err(Failure::Temporary("unexpected answer".into())),
            Err(error) => return Err(error.into()),
        }
    }
}
