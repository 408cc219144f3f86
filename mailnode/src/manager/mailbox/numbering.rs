//! UIDs: reserved, given to what waits for them, and made durable with what they are given to.

use super::reading::{HEARSAY, fetch_fragments, learn_certain};
use super::{ANOTHER, Mailbox, PATIENCE, PAUSE, UID_BLOCK};
use crate::manager::{UserCell, events, lock};
use crate::node::{CallError, Node};
use crate::wire::{Failure, Request, UserOp};
use cluster::{Bucket, Entry, FolderId, UserId};
use directory::Profile;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A manager that is stood in for is not waited for longer, so many times; then it is told in the background, this often.
const TELL_DEADLINE: Duration = Duration::from_millis(300);
const TELL_TRIES: usize = 3;
const TELL_AGAIN: Duration = Duration::from_millis(500);
const NUMBER_AGAIN: Duration = Duration::from_millis(500);
/// How long numbers are not reserved because members that serve in the view are routed around and were not read. After a partition
/// they are back some time before a probe finds it out.
const READ_FIRST: Duration = Duration::from_secs(1);

/// UIDs and MODSEQs for what waits for them; watchers are told. Returns the profile, which may be newer.
pub async fn settle_and_notify(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    profile: Arc<Profile>,
) -> Arc<Profile> {
    let (profile, changed) = settle(node, cell, mailbox, profile).await;
    if !changed.is_empty() {
        events::publish(node, cell);
    }
    profile
}

/// Gives UIDs and MODSEQs to what waits for them. Returns the folders that changed.
async fn settle(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    mut profile: Arc<Profile>,
) -> (Arc<Profile>, BTreeSet<FolderId>) {
    let mut changed = BTreeSet::new();
    if mailbox.number_again.is_some_and(|at| Instant::now() < at) {
        return (profile, changed);
    }
    for _ in 0..3 {
        let mut table = profile.folder_table();
        if !mailbox.index.has_unsettled(&table) {
            break;
        }
        if mailbox.index.names_unknown_folder(&table) {
            match cell.profile.refreshed(node, cell.user).await {
                Ok(fresh) => {
                    profile = fresh;
                    table = profile.folder_table();
                }
                // Without a fresh profile we cannot tell a new folder from a deleted one: wait.
                Err(_) => break,
            }
        }
        let wanted = mailbox.index.uids_wanted(&table);
        for (&folder, &count) in &wanted {
            if let Ok(fresh) = reserve(node, cell, mailbox, folder, count.max(UID_BLOCK)).await {
                profile = fresh;
            }
        }
        if !wanted.is_empty() && fetch_fragments(node, cell, mailbox).await.is_err() {
            break;
        }
        let plan = mailbox.index.number(mailbox.stamp(node), &table);
        if plan.is_empty() {
            break;
        }
        let (shown, complete) = make_durable(node, mailbox, plan).await;
        changed.extend(shown);
        if !complete {
            // Each try costs a block of UIDs.
            mailbox.number_again = Some(Instant::now() + NUMBER_AGAIN);
            break;
        }
    }
    (profile, changed)
}

/// Reserves a block of UIDs in the user database, waiting out a change of view, and reading what another manager
/// numbered meanwhile.
pub async fn reserve(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    folder: FolderId,
    count: u32,
) -> Result<Arc<Profile>, Failure> {
    read_first(node, cell, mailbox).await?;
    let begun = Instant::now();
    loop {
        cell.check_acting(node)?;
        let asked = mailbox.index.reservation(folder, count, mailbox.stamp(node), &mailbox.unread);
        let failure = match cell.profile.reserve_uids(node, cell.user, folder, &asked).await {
            Ok((profile, Some(block))) => {
                let (first, unread) = (block.first, &mailbox.unread);
                tracing::debug!(me = %node.id, user = %cell.user, ?folder, first, ?unread, known = ?block.known, "UIDs reserved");
                mailbox.index.add_block(folder, block);
                mailbox.know(node, &profile);
                tell_manager(node, cell.user).await;
                return Ok(profile);
            }
            Ok((profile, None)) => {
                mailbox.know(node, &profile);
                fetch_fragments(node, cell, mailbox).await?;
                Failure::Temporary(ANOTHER.into())
            }
            Err(failure @ Failure::Temporary(_)) => failure,
            Err(failure) => return Err(failure),
        };
        if begun.elapsed() > PATIENCE {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What another manager numbered and we did not read when we reserve is numbered again, so those who may have it are read first: soon
/// they answer, or are out of the view.
async fn read_first(node: &Arc<Node>, cell: &UserCell, mailbox: &mut Mailbox) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < READ_FIRST {
        let view = &node.topology.now().view;
        if !view.serving().any(|member| mailbox.waits_for(node, member.id)) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        fetch_fragments(node, cell, mailbox).await?;
    }
    Ok(())
}

/// Who stands in for a manager that may be reached again tells it that UIDs were reserved, before they are shown: the next request
/// may come there, and what we have not seen must not be shown below.
async fn tell_manager(node: &Arc<Node>, user: UserId) {
    for _ in 0..TELL_TRIES {
        if tell(node, user).await {
            return;
        }
    }
    if !lock(&node.manager.telling).insert(user) {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        let epoch = node.topology.now().view.epoch;
        let mut pause = TELL_AGAIN;
        // With a new view every manager reads profiles anew.
        while node.topology.now().view.epoch == epoch {
            tokio::time::sleep(pause).await;
            if tell(&node, user).await {
                break;
            }
            pause = (pause * 2).min(TELL_AGAIN * 10);
        }
        lock(&node.manager.telling).remove(&user);
    });
}

/// True if the manager reads the profile anew, or is this node.
async fn tell(node: &Arc<Node>, user: UserId) -> bool {
    let manager = node.topology.now().user_map.manager(Bucket::of_user(user));
    let Some(manager) = manager.filter(|&manager| manager != node.id) else { return true };
    let request = Request::User { user, op: UserOp::Refresh, acting: false };
    matches!(node.call(manager, request, TELL_DEADLINE).await, Ok(_) | Err(CallError::Refused(_)))
}

/// Before a folder is shown to a session: if messages may be missing because too many nodes are away, whoever
/// manages the mailbox later must know it, so that they are not put below what is shown now.
///
/// # Errors
/// If it cannot be written down.
pub async fn admit_unread(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    folder: FolderId,
) -> Result<(), Failure> {
    if mailbox.index.admits(folder, &mailbox.unread) {
        return Ok(());
    }
    if node.topology.readable().iter().any(|&(member, _)| mailbox.waits_for(node, member)) {
        return Err(Failure::Temporary("too few nodes that hold this mailbox answered; try again".into()));
    }
    reserve(node, cell, mailbox, folder, UID_BLOCK).await?;
    // That may have taken seconds: what can be read by now is not to be missing.
    fetch_fragments(node, cell, mailbox).await
}

/// Step 2 and 3 of every change: planned entries to their replicas, then visible. Returns the folders that
/// changed and whether all of the plan is durable.
pub async fn make_durable(
    node: &Arc<Node>,
    mailbox: &mut Mailbox,
    plan: Vec<Entry>,
) -> (BTreeSet<FolderId>, bool) {
    let pushed = node.replication.push(node, plan).await;
    let complete = pushed.failed().next().is_none();
    if !complete {
        tracing::debug!(me = %node.id, lost = ?pushed.lost, endangered = ?pushed.endangered, bodiless = ?pushed.bodiless, "not all is durable");
    }
    let index = &mut mailbox.index;
    if node.topology.is_manager(index.user()) {
        index.set_aside(&pushed.bodiless);
    } else {
        // The manager may show them, and a client of ours would take them for expunged, and then for new.
        index.abandon(&pushed.bodiless);
    }
    index.give_up(&pushed.lost);
    index.give_up(&pushed.endangered);
    index.abandon(&pushed.lost);
    index.abandon(&pushed.endangered);
    // What is on too few disks is not shown: who reads the others would show what was before it, again.
    let (given_up, good): (Vec<Entry>, Vec<Entry>) =
        pushed.durable.into_iter().partition(|entry| index.is_given_up(entry));
    let changed = index.commit(good);
    for entry in given_up {
        index.learn(entry);
    }
    let complete = learn_certain(node, mailbox, pushed.newer, HEARSAY).await.is_empty() && complete;
    (changed, complete)
}
