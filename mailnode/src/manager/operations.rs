//! What sessions ask of the manager, one function an operation.

use super::mailbox::{
    ANOTHER, Mailbox, admit_unread, make_durable, refresh, refresh_now, refresh_whole, reserve,
    settle_and_notify,
};
use super::{UserCell, account, events, rewrap};
use crate::node::Node;
use crate::peer_server::STALE;
use crate::wire::{Failure, FolderChanges, FolderInfo, FolderStatus, Message, Opened, UserOp, UserReply};
use cluster::mailbox::{Changes, FolderView, Mark, Shown, certainly_told};
use cluster::{Entry, Flag, FolderId, NodeId};
use directory::Profile;
use std::sync::Arc;
use tokio::time::Instant;

/// Messages changed by one command, at most; a longer one is refused (RFC 9051 allows a server to).
const BATCH: usize = 100_000;

pub async fn run(
    node: &Arc<Node>,
    cell: &Arc<UserCell>,
    from: NodeId,
    op: UserOp,
) -> Result<UserReply, Failure> {
    let asked = Instant::now();
    match op {
        UserOp::Authenticate { password } => account::authenticate(node, cell, password).await,
        UserOp::Refresh => {
            cell.profile.doubt();
            cell.profile.refreshed(node, cell.user).await?;
            Ok(UserReply::Done)
        }
        UserOp::GivenUp => {
            node.manager.forget(cell.user);
            Ok(UserReply::Done)
        }
        UserOp::Folders => {
            cell.subscribers.renew(from);
            let profile = cell.profile.current(node, cell.user).await?;
            let folders = profile.folders.values().map(|folder| FolderInfo {
                id: folder.id,
                name: folder.name.clone(),
                subscribed: profile.is_subscribed(&folder.name),
                special_use: folder.special_use,
                uid_validity: folder.uid_validity,
            });
            Ok(UserReply::Folders(folders.collect()))
        }
        UserOp::CreateFolder { .. }
        | UserOp::DeleteFolder { .. }
        | UserOp::RenameFolder { .. }
        | UserOp::Subscribe { .. } => {
            account::change_folders(node, cell, op).await?;
            events::publish(node, cell);
            Ok(UserReply::Done)
        }
        UserOp::Status { folder } => status(node, cell, from, folder).await,
        UserOp::Open { folder } => open(node, cell, from, folder).await,
        UserOp::Sync { folder, since } => sync(node, cell, from, folder, since).await,
        UserOp::Resync { folder, shown } => resync(node, cell, from, folder, shown).await,
        UserOp::Store { folder, uids, change, unchanged_since } => {
            let mut mailbox = cell.mailbox.lock().await;
            let profile = refresh_now(node, cell, &mut mailbox).await?;
            folder_of(&profile, folder)?;
            bounded(&uids)?;
            admit_unread(node, cell, &mut mailbox, folder).await?;
            let at = mailbox.stamp(node);
            let complete = mailbox.is_complete();
            let plan = mailbox.index.plan_store(folder, &uids, &change, unchanged_since, at, complete);
            apply(node, cell, &mut mailbox, plan.entries, asked).await?;
            let done: Vec<u32> = uids.into_iter().filter(|uid| !plan.modified.contains(uid)).collect();
            let changes = mailbox.index.messages(folder, &done).into_iter().map(Message::from).collect();
            Ok(UserReply::Stored { changes, modified: plan.modified })
        }
        UserOp::Expunge { folder, uids } => {
            let mut mailbox = cell.mailbox.lock().await;
            refresh_now(node, cell, &mut mailbox).await?;
            bounded(&uids)?;
            admit_unread(node, cell, &mut mailbox, folder).await?;
            let plan = mailbox.index.plan_expunge(folder, &uids, mailbox.stamp(node));
            let gone = plan.iter().filter_map(|entry| entry.location.uid).map(|uid| uid.number).collect();
            apply(node, cell, &mut mailbox, plan, asked).await?;
            Ok(UserReply::Expunged(gone))
        }
        UserOp::Misfits { most } => rewrap::misfits(node, cell, most).await,
        UserOp::Rewrapped { keys } => rewrap::take(node, cell, keys).await,
        UserOp::CertainlyTold { folder, modseq } => {
            let profile = cell.profile.current(node, cell.user).await?;
            let blocks = &folder_of(&profile, folder)?.uid_blocks;
            Ok(UserReply::CertainlyTold(certainly_told(blocks, modseq)))
        }
        UserOp::Copy { folder, uids, target, remove } => {
            let which = Copy { folder, uids, target, remove };
            copy(node, cell, which, asked).await
        }
    }
}

fn bounded(uids: &[u32]) -> Result<(), Failure> {
    if uids.len() > BATCH {
        return Err(Failure::Invalid(format!("at most {BATCH} messages in one command")));
    }
    Ok(())
}

fn folder_of(profile: &Profile, folder: FolderId) -> Result<&directory::Folder, Failure> {
    profile.folders.get(&folder).ok_or(Failure::NotFound)
}

/// A folder in which messages wait for other UIDs is not shown: clients would take them for expunged. Nor is one of which
/// a replica knew a UID from a block that we have not heard of, or may not have heard of: another manager may have numbered all the
/// rest, too, or shown the folder without some of it.
fn complete(node: &Node, mailbox: &Mailbox, folder: FolderId) -> Result<(), Failure> {
    if !mailbox.knows_reservations() {
        return Err(Failure::Temporary("the user database is being brought up to date; try again".into()));
    }
    if mailbox.index.folders_behind().contains(&folder) {
        return Err(Failure::Temporary(ANOTHER.into()));
    }
    let standing_in = !node.topology.is_manager(mailbox.index.user());
    if mailbox.index.is_incomplete(folder, standing_in) {
        return Err(Failure::Temporary("messages of this folder are getting new UIDs; try again".into()));
    }
    Ok(())
}

/// Carries a plan out, unless its request waited for so long that its caller may have gone to another node.
async fn apply(
    node: &Arc<Node>,
    cell: &UserCell,
    mailbox: &mut Mailbox,
    plan: Vec<Entry>,
    asked: Instant,
) -> Result<(), Failure> {
    if plan.is_empty() {
        return Ok(());
    }
    if asked.elapsed() > STALE {
        return Err(Failure::Late);
    }
    let (changed, complete) = make_durable(node, mailbox, plan).await;
    if !changed.is_empty() {
        events::publish(node, cell);
    }
    if complete {
        Ok(())
    } else {
        Err(Failure::Temporary("not all of the change could be stored; try again".into()))
    }
}

fn opened(uid_validity: u32, view: &FolderView<'_>, complete: bool) -> Opened {
    Opened {
        complete,
        uid_validity,
        marks: view.marks,
        messages: view.messages.iter().copied().map(Message::from).collect(),
    }
}

async fn status(
    node: &Arc<Node>,
    cell: &UserCell,
    from: NodeId,
    folder: FolderId,
) -> Result<UserReply, Failure> {
    // Perhaps of a session with NOTIFY (RFC 5465).
    cell.subscribers.renew(from);
    let mut mailbox = cell.mailbox.lock().await;
    let profile = refresh(node, cell, &mut mailbox).await?;
    let uid_validity = folder_of(&profile, folder)?.uid_validity;
    let view = mailbox.index.view(folder);
    let count = |flag: Flag, set: bool| {
        view.messages.iter().filter(|entry| entry.has_flag(&flag) == set).count() as u32
    };
    Ok(UserReply::Status(FolderStatus {
        messages: view.messages.len() as u32,
        unseen: count(Flag::Seen, false),
        deleted: count(Flag::Deleted, true),
        bytes: view.messages.iter().map(|entry| entry.blob.size).sum(),
        newest_message: view.messages.iter().map(|entry| entry.modseq).max().unwrap_or(0),
        uid_next: view.marks.uid_next,
        uid_validity,
        highest_modseq: view.marks.highest_modseq,
    }))
}

async fn open(
    node: &Arc<Node>,
    cell: &UserCell,
    from: NodeId,
    folder: FolderId,
) -> Result<UserReply, Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    cell.subscribers.renew(from);
    let profile = refresh_whole(node, cell, &mut mailbox, folder).await?;
    let uid_validity = folder_of(&profile, folder)?.uid_validity;
    admit_unread(node, cell, &mut mailbox, folder).await?;
    complete(node, &mailbox, folder)?;
    let whole = mailbox.is_complete();
    tracing::debug!(me = %node.id, user = %cell.user, ?folder, whole, manager = node.topology.is_manager(cell.user), waiting = ?mailbox.index.waiting(folder), "a folder is opened");
    Ok(UserReply::Opened(opened(uid_validity, &mailbox.index.open(folder), whole)))
}

async fn sync(
    node: &Arc<Node>,
    cell: &UserCell,
    from: NodeId,
    folder: FolderId,
    since: Mark,
) -> Result<UserReply, Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    cell.subscribers.renew(from);
    let profile = refresh(node, cell, &mut mailbox).await?;
    let uid_validity = folder_of(&profile, folder)?.uid_validity;
    admit_unread(node, cell, &mut mailbox, folder).await?;
    complete(node, &mailbox, folder)?;
    let marks = mailbox.index.marks(folder);
    let whole = mailbox.is_complete();
    let changes = match mailbox.index.changes_since(folder, since) {
        Changes::Unknown => FolderChanges::Unknown,
        Changes::Delta { upserts, vanished } => FolderChanges::Delta {
            marks,
            upserts: upserts.into_iter().map(Message::from).collect(),
            vanished,
        },
        Changes::Everything { messages } => {
            let view = FolderView { marks, messages };
            FolderChanges::Everything(opened(uid_validity, &view, whole))
        }
    };
    Ok(UserReply::Changes(changes))
}

/// A session comes from another manager, or from an index that was dropped: what it may not be shown at its UID gets
/// another one first (invariant 6).
async fn resync(
    node: &Arc<Node>,
    cell: &UserCell,
    from: NodeId,
    folder: FolderId,
    shown: Shown,
) -> Result<UserReply, Failure> {
    let mut mailbox = cell.mailbox.lock().await;
    cell.subscribers.renew(from);
    let profile = refresh(node, cell, &mut mailbox).await?;
    folder_of(&profile, folder)?;
    admit_unread(node, cell, &mut mailbox, folder).await?;
    mailbox.index.reconcile(folder, &shown);
    let profile = settle_and_notify(node, cell, &mut mailbox, profile).await;
    complete(node, &mailbox, folder)?;
    let uid_validity = folder_of(&profile, folder)?.uid_validity;
    let whole = mailbox.is_complete();
    let all = FolderChanges::Everything(opened(uid_validity, &mailbox.index.open(folder), whole));
    Ok(UserReply::Changes(all))
}

/// Copies of a COPY that failed must not stay (RFC 9051 6.4.7).
async fn take_back(node: &Arc<Node>, mailbox: &mut Mailbox, mut copies: Vec<Entry>) {
    let at = mailbox.stamp(node);
    for copy in &mut copies {
        copy.expunged = Some(at);
        copy.modseq = at.ticks;
    }
    make_durable(node, mailbox, copies).await;
}

struct Copy {
    folder: FolderId,
    uids: Vec<u32>,
    target: FolderId,
    remove: bool,
}

/// COPY and MOVE (RFC 9051 6.4.7, 6.4.8). All that are still there, or none.
async fn copy(node: &Arc<Node>, cell: &UserCell, which: Copy, asked: Instant) -> Result<UserReply, Failure> {
    let Copy { folder, uids, target, remove } = which;
    bounded(&uids)?;
    let mut mailbox = cell.mailbox.lock().await;
    let profile = refresh_now(node, cell, &mut mailbox).await?;
    let uid_validity = folder_of(&profile, target)?.uid_validity;
    admit_unread(node, cell, &mut mailbox, target).await?;
    if remove {
        admit_unread(node, cell, &mut mailbox, folder).await?;
    }
    for _ in 0..2 {
        let at = mailbox.stamp(node);
        let planned = if remove {
            mailbox.index.plan_move(folder, &uids, target, at)
        } else {
            mailbox.index.plan_copy(folder, &uids, target, at, crate::clock::new_entry_id)
        };
        match planned {
            Ok(copied) => {
                let entries = copied.entries.clone();
                if let Err(failure) = apply(node, cell, &mut mailbox, copied.entries, asked).await {
                    if !remove && failure != Failure::Late {
                        take_back(node, &mut mailbox, entries).await;
                    }
                    return Err(failure);
                }
                return Ok(UserReply::Copied { uid_validity, from: copied.from, to: copied.to });
            }
            Err(exhausted) => {
                reserve(node, cell, &mut mailbox, target, exhausted.wanted.max(1_000)).await?;
            }
        }
    }
    Err(Failure::Temporary("no UIDs could be reserved; try again".into()))
}
