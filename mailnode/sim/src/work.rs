//! What clients ask of a node, and what comes back: the node's own delivery and session code, without sockets.

use cluster::mailbox::{FlagChange, Mark, Shown};
use cluster::{Entry, Flag, FolderId, UserId};
use mailnode::delivery::{self, Recipient};
use mailnode::node::Node;
use mailnode::sessions::access::Mail;
use mailnode::sessions::pop3::Inbox;
use mailnode::wire::{Failure, FolderChanges, FolderInfo, Message, Numbered, Opened, RecipientState, UserOp};
use std::sync::Arc;
use std::time::Duration;

/// A watcher looks by itself after so long.
const WATCH: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
pub enum Work {
    Deliver {
        users: Vec<UserId>,
        number: i64,
        body: Vec<u8>,
    },
    Append {
        user: UserId,
        folder: FolderId,
        number: i64,
        body: Vec<u8>,
    },
    Folders {
        user: UserId,
    },
    Change {
        user: UserId,
        op: UserOp,
    },
    Open {
        user: UserId,
        folder: FolderId,
    },
    Sync {
        user: UserId,
        folder: FolderId,
        since: Mark,
        shown: Shown,
        watch: bool,
    },
    /// A client with CONDSTORE comes back with the MODSEQ that it remembers.
    CertainlyTold {
        user: UserId,
        folder: FolderId,
        modseq: u64,
    },
    Store {
        user: UserId,
        folder: FolderId,
        uids: Vec<u32>,
        flags: Vec<Flag>,
        set: bool,
    },
    Expunge {
        user: UserId,
        folder: FolderId,
        uids: Vec<u32>,
    },
    Copy {
        user: UserId,
        folder: FolderId,
        uids: Vec<u32>,
        target: FolderId,
        remove: bool,
    },
    /// QUIT of a POP3 session that marked these messages of INBOX, and knows them from its log-in.
    PopQuit {
        user: UserId,
        messages: Vec<Message>,
    },
    Body {
        user: UserId,
        message: Box<Message>,
    },
    /// A change of an account.
    Quota {
        address: String,
        bytes: u64,
    },
}

#[derive(Clone, Debug)]
pub enum Done {
    Delivered(Vec<(UserId, Result<Entry, Failure>)>),
    Appended(Result<Numbered, Failure>),
    Folders(Result<Vec<FolderInfo>, Failure>),
    Changed(Result<(), Failure>),
    Opened(Result<Opened, Failure>),
    Synced(Result<FolderChanges, Failure>),
    CertainlyTold(Result<u64, Failure>),
    Stored(Result<(Vec<Message>, Vec<u32>), Failure>),
    Expunged(Result<Vec<u32>, Failure>),
    /// Whether all that was marked is gone.
    PopQuit(bool),
    Copied(Result<(u32, Vec<u32>, Vec<u32>), Failure>),
    Body(Result<Vec<u8>, Failure>),
}

impl Done {
    /// True if the answer was, or was in part, to try again.
    pub fn is_to_be_repeated(&self) -> bool {
        let failure = match self {
            Self::Delivered(outcomes) => outcomes.iter().find_map(|(_, outcome)| outcome.as_ref().err()),
            Self::Appended(outcome) => outcome.as_ref().err(),
            Self::Folders(outcome) => outcome.as_ref().err(),
            Self::Changed(outcome) => outcome.as_ref().err(),
            Self::Opened(outcome) => outcome.as_ref().err(),
            Self::Synced(outcome) => outcome.as_ref().err(),
            Self::CertainlyTold(outcome) => outcome.as_ref().err(),
            Self::Stored(outcome) => outcome.as_ref().err(),
            Self::Expunged(outcome) => outcome.as_ref().err(),
            Self::PopQuit(_) => None,
            Self::Copied(outcome) => outcome.as_ref().err(),
            Self::Body(outcome) => outcome.as_ref().err(),
        };
        matches!(failure, Some(Failure::Temporary(_)))
    }

    /// For the trace.
    pub fn summary(&self) -> String {
        match self {
            Self::Delivered(outcomes) => {
                let stored = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).count();
                format!("delivered to {stored} of {}", outcomes.len())
            }
            Self::Appended(outcome) => said(outcome, |numbered| format!("UID {}", numbered.uid)),
            Self::Folders(outcome) => said(outcome, |folders| format!("{} folders", folders.len())),
            Self::Changed(outcome) => said(outcome, |()| "changed".into()),
            Self::Opened(outcome) => said(outcome, |opened| {
                let uids: Vec<u32> = opened.messages.iter().map(|message| message.uid).collect();
                format!("UIDs {uids:?}, next {}", opened.marks.uid_next)
            }),
            Self::Synced(outcome) => said(outcome, |changes| match changes {
                FolderChanges::Delta { upserts, vanished, .. } => {
                    let uids: Vec<u32> = upserts.iter().map(|message| message.uid).collect();
                    format!("changed {uids:?}, gone {vanished:?}")
                }
                FolderChanges::Everything(all) => {
                    let uids: Vec<u32> = all.messages.iter().map(|message| message.uid).collect();
                    format!("everything: {uids:?}")
                }
                FolderChanges::Unknown => "unknown".into(),
            }),
            Self::CertainlyTold(outcome) => said(outcome, |modseq| format!("up to {modseq}")),
            Self::Stored(outcome) => said(outcome, |(changes, _)| format!("{} messages", changes.len())),
            Self::Expunged(outcome) => said(outcome, |gone| format!("gone {gone:?}")),
            Self::PopQuit(gone) => (if *gone { "+OK" } else { "-ERR" }).into(),
            Self::Copied(outcome) => said(outcome, |(_, from, to)| format!("{from:?} are {to:?}")),
            Self::Body(outcome) => said(outcome, |body| format!("{} bytes", body.len())),
        }
    }
}

fn said<T>(outcome: &Result<T, Failure>, good: impl FnOnce(&T) -> String) -> String {
    match outcome {
        Ok(value) => format!("OK {}", good(value)),
        Err(failure) => format!("NO {failure}"),
    }
}

async fn deliver(
    node: &Arc<Node>,
    users: Vec<UserId>,
    number: i64,
    body: &[u8],
) -> Vec<(UserId, Result<Entry, Failure>)> {
    let states = node.verify(&users).await;
    let mut accepted = Vec::new();
    let mut outcomes = Vec::new();
    for user in users {
        match states.get(&user) {
            Some(Ok(RecipientState::Accepts { mail_map, seal_to, .. })) => accepted.push(Recipient {
                user,
                mail_map: mail_map.clone(),
                folder: FolderId::INBOX,
                flags: Vec::new(),
                internal_date: Some(number),
                seal_to: *seal_to,
                fixed: None,
            }),
            other => {
                let why = format!("not accepted: {other:?}");
                outcomes.push((user, Err(Failure::Temporary(why))));
            }
        }
    }
    let users: Vec<UserId> = accepted.iter().map(|recipient| recipient.user).collect();
    outcomes.extend(users.into_iter().zip(delivery::deliver(node, accepted, body).await));
    outcomes
}

pub async fn run(node: Arc<Node>, work: Work) -> Done {
    let mail = |user| Mail::new(node.clone(), user);
    match work {
        Work::Deliver { users, number, body } => Done::Delivered(deliver(&node, users, number, &body).await),
        Work::Append { user, folder, number, body } => {
            Done::Appended(mail(user).append(folder, Vec::new(), Some(number), &body).await)
        }
        Work::Folders { user } => Done::Folders(mail(user).folders().await),
        Work::Change { user, op } => Done::Changed(mail(user).change_folders(op).await),
        Work::Open { user, folder } => Done::Opened(mail(user).open(folder).await),
        Work::Sync { user, folder, since, shown, watch } => {
            let mail = mail(user);
            if watch {
                let mut news = mail.watch();
                let _ = tokio::time::timeout(WATCH, news.changed()).await;
            }
            Done::Synced(mail.sync(folder, since, || shown).await)
        }
        Work::CertainlyTold { user, folder, modseq } => {
            Done::CertainlyTold(mail(user).certainly_told(folder, modseq).await)
        }
        Work::Store { user, folder, uids, flags, set } => {
            let change = if set { FlagChange::Add(flags) } else { FlagChange::Remove(flags) };
            Done::Stored(mail(user).store(folder, &uids, change, None).await)
        }
        Work::Expunge { user, folder, uids } => Done::Expunged(mail(user).expunge(folder, &uids).await),
        Work::PopQuit { user, messages } => {
            let all: Vec<usize> = (0..messages.len()).collect();
            let inbox = Inbox { mail: mail(user), uid_validity: 0, messages };
            Done::PopQuit(inbox.expunge(&all).await)
        }
        Work::Copy { user, folder, uids, target, remove } => {
            Done::Copied(mail(user).copy(folder, &uids, target, remove).await)
        }
        Work::Body { user, message } => Done::Body(mail(user).body(&message).await.map(|body| body.to_vec())),
        Work::Quota { address, bytes } => {
            let change = async {
                let users = node.users.resolve(&address).await?.users;
                for user in users {
                    node.users
                        .update_profile(user, |profile| {
                            profile.quota = bytes;
                            Ok(())
                        })
                        .await?;
                }
                Ok(())
            };
            Done::Changed(change.await)
        }
    }
}
