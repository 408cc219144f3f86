//! A logged-in user's mail as sessions see it: what IMAP and POP3 have in common.

use crate::delivery::{self, Recipient};
use crate::manager::account;
use crate::node::Node;
use crate::retrieval;
use crate::wire::{
    Failure, FolderChanges, FolderInfo, FolderStatus, Message, Numbered, Opened, Password, UserOp, UserReply,
};
use bytes::Bytes;
use cluster::mailbox::{FlagChange, Mark, Shown};
use cluster::{Flag, FolderId, UserId};
use std::sync::Arc;
use tokio::sync::watch;

fn unexpected<T>() -> Result<T, Failure> {
    Err(Failure::Temporary("unexpected answer".into()))
}

/// The mail of one user, through this node.
#[derive(Clone)]
pub struct Mail {
    pub node: Arc<Node>,
    pub user: UserId,
}

impl Mail {
    /// Logs in at the user's manager (DESIGN 2).
    ///
    /// # Errors
    /// [`Failure::BadCredentials`] for an unknown name as for a wrong password.
    pub async fn log_in(
        node: &Arc<Node>,
        protocol: &'static str,
        name: &str,
        password: &str,
    ) -> Result<Self, Failure> {
        let outcome = Self::check(node, name, password).await;
        let label = match &outcome {
            Ok(_) => "ok",
            Err(Failure::BadCredentials) => "refused",
            Err(_) => "error",
        };
        node.metrics.logins.with_label_values(&[protocol, label]).inc();
        let user = outcome?;
        Ok(Self { node: node.clone(), user })
    }

    async fn check(node: &Arc<Node>, name: &str, password: &str) -> Result<UserId, Failure> {
        let user = match node.users.login_name(name).await {
            Ok(user) => user,
            Err(Failure::NotFound | Failure::Invalid(_)) => {
                account::pretend_to_check(node, password).await;
                return Err(Failure::BadCredentials);
            }
            Err(failure) => return Err(failure),
        };
        let op = UserOp::Authenticate { password: Password(password.to_owned()) };
        match node.operate(user, op).await {
            Ok(_) => Ok(user),
            Err(Failure::NotFound) => Err(Failure::BadCredentials),
            Err(failure) => Err(failure),
        }
    }

    pub async fn folders(&self) -> Result<Vec<FolderInfo>, Failure> {
        match self.node.operate(self.user, UserOp::Folders).await? {
            UserReply::Folders(folders) => Ok(folders),
            _ => unexpected(),
        }
    }

    /// A change of the folder tree.
    pub async fn change_folders(&self, op: UserOp) -> Result<(), Failure> {
        self.node.operate(self.user, op).await.map(|_| ())
    }

    pub async fn status(&self, folder: FolderId) -> Result<FolderStatus, Failure> {
        match self.node.operate(self.user, UserOp::Status { folder }).await? {
            UserReply::Status(status) => Ok(status),
            _ => unexpected(),
        }
    }

    pub async fn open(&self, folder: FolderId) -> Result<Opened, Failure> {
        match self.node.operate(self.user, UserOp::Open { folder }).await? {
            UserReply::Opened(opened) => Ok(opened),
            _ => unexpected(),
        }
    }

    /// What changed since a mark. `shown` tells what the session shows, should the manager not know it.
    pub async fn sync(
        &self,
        folder: FolderId,
        since: Mark,
        shown: impl FnOnce() -> Shown,
    ) -> Result<FolderChanges, Failure> {
        let changes = match self.node.operate(self.user, UserOp::Sync { folder, since }).await? {
            UserReply::Changes(FolderChanges::Unknown) => {
                self.node.operate(self.user, UserOp::Resync { folder, shown: shown() }).await?
            }
            known => known,
        };
        match changes {
            UserReply::Changes(changes) => Ok(changes),
            _ => unexpected(),
        }
    }

    pub async fn store(
        &self,
        folder: FolderId,
        uids: &[u32],
        change: FlagChange,
        unchanged_since: Option<u64>,
    ) -> Result<(Vec<Message>, Vec<u32>), Failure> {
        let op = UserOp::Store { folder, uids: uids.to_vec(), change, unchanged_since };
        match self.node.operate(self.user, op).await? {
            UserReply::Stored { changes, modified } => Ok((changes, modified)),
            _ => unexpected(),
        }
    }

    pub async fn expunge(&self, folder: FolderId, uids: &[u32]) -> Result<Vec<u32>, Failure> {
        match self.node.operate(self.user, UserOp::Expunge { folder, uids: uids.to_vec() }).await? {
            UserReply::Expunged(gone) => Ok(gone),
            _ => unexpected(),
        }
    }

    /// (UIDVALIDITY of the target, UIDs before, UIDs after).
    pub async fn copy(
        &self,
        folder: FolderId,
        uids: &[u32],
        target: FolderId,
        remove: bool,
    ) -> Result<(u32, Vec<u32>, Vec<u32>), Failure> {
        let op = UserOp::Copy { folder, uids: uids.to_vec(), target, remove };
        match self.node.operate(self.user, op).await? {
            UserReply::Copied { uid_validity, from, to } => Ok((uid_validity, from, to)),
            _ => unexpected(),
        }
    }

    pub async fn body(&self, message: &Message) -> Result<Bytes, Failure> {
        retrieval::body(&self.node, &message.blob, &message.replicas).await
    }

    /// Adds a message and waits for its UID. Should that not come, the message is taken back, because the
    /// client will be told that it failed.
    pub async fn append(
        &self,
        folder: FolderId,
        flags: Vec<Flag>,
        internal_date: Option<i64>,
        body: &[u8],
    ) -> Result<Numbered, Failure> {
        let states = self.node.verify(&[self.user]).await;
        let mail_map = match states.into_values().next() {
            Some(Ok(crate::wire::RecipientState::Accepts { mail_map })) => mail_map,
            Some(Ok(crate::wire::RecipientState::OverQuota)) => return Err(Failure::OverQuota),
            Some(Err(failure)) => return Err(failure),
            _ => return Err(Failure::NotFound),
        };
        let recipient = Recipient { user: self.user, mail_map, folder, flags, internal_date };
        let stored = delivery::deliver(&self.node, vec![recipient], body).await;
        let entry = match stored.into_iter().next() {
            Some(outcome) => outcome?,
            None => return unexpected(),
        };
        match self.node.number(self.user, vec![entry.clone()]).await {
            Ok(numbered) if numbered.first().copied().flatten().is_some() => {
                numbered.into_iter().next().flatten().map_or_else(unexpected, Ok)
            }
            outcome => {
                delivery::take_back(&self.node, &entry).await;
                Err(outcome.err().unwrap_or(Failure::Temporary("the message got no UID; try again".into())))
            }
        }
    }

    pub fn watch(&self) -> watch::Receiver<u64> {
        self.node.watchers.watch(self.user)
    }
}
