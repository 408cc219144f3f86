//! A logged-in user's mail as sessions see it: what IMAP and POP3 have in common.
//!
//! A user's private keys live in the memory of the sessions that were logged in to with a secret that opens them, and nowhere
//! else: the manager hands out what is sealed, the session opens it, and the last clone of [`Mail`] zeroes it.

use super::News;
use crate::delivery::{self, Recipient};
use crate::environment;
use crate::manager::account;
use crate::node::Node;
use crate::retrieval;
use crate::sessions::recent::Recent;
use crate::sessions::rewrap;
use crate::wire::{
    Failure, FolderChanges, FolderInfo, FolderStatus, Message, Numbered, Opened, Password, UserOp, UserReply,
};
use bytes::Bytes;
use cluster::mailbox::{FlagChange, Mark, Shown};
use cluster::{Flag, FolderId, UserId};
use directory::Encryption;
use directory::encryption::Unlocked;
use std::sync::Arc;

fn unexpected<T>() -> Result<T, Failure> {
    Err(Failure::Temporary("unexpected answer".into()))
}

/// The mail of one user, through this node.
#[derive(Clone)]
pub struct Mail {
    pub node: Arc<Node>,
    pub user: UserId,
    /// What the secret that was logged in with has opened.
    unlocked: Arc<Unlocked>,
    /// There are keys that it has not.
    partly_locked: bool,
    recent: Recent,
}

impl Mail {
    /// Without any keys.
    pub fn new(node: Arc<Node>, user: UserId) -> Self {
        Self { node, user, unlocked: Arc::default(), partly_locked: false, recent: Recent::default() }
    }

    /// [`Mail::log_in`], and opens the user's keys.
    ///
    /// # Errors
    /// As [`Mail::log_in`].
    pub async fn log_in_to_read(
        node: &Arc<Node>,
        protocol: &'static str,
        name: &str,
        password: &str,
    ) -> Result<Self, Failure> {
        let (mut mail, keys) = Self::authenticate(node, protocol, name, password).await?;
        let Some(keys) = keys else { return Ok(mail) };
        let all = keys.pairs();
        let (user, password) = (mail.user, Password(password.to_owned()));
        let busy = |_| Failure::Temporary("too many log-ins at once; try again".into());
        let _slot = node.password_slots.acquire().await.map_err(busy)?;
        let unlocked = environment::blocking(move || keys.unlock(user, &password.0))
            .await
            .map_err(|_| Failure::Temporary("the keys could not be opened; try again".into()))?;
        mail.partly_locked = unlocked.keys().count() < all;
        node.metrics.encryption.unlocked(mail.partly_locked);
        mail.unlocked = Arc::new(unlocked);
        let held = Arc::downgrade(&mail.unlocked);
        tokio::spawn(rewrap::while_unlocked(Arc::downgrade(node), user, held));
        Ok(mail)
    }

    /// True if mail from before a reset of the password cannot be read.
    pub const fn is_partly_locked(&self) -> bool {
        self.partly_locked
    }

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
        Ok(Self::authenticate(node, protocol, name, password).await?.0)
    }

    async fn authenticate(
        node: &Arc<Node>,
        protocol: &'static str,
        name: &str,
        password: &str,
    ) -> Result<(Self, Option<Box<Encryption>>), Failure> {
        let outcome = Self::check(node, name, password).await;
        let label = match &outcome {
            Ok(_) => "ok",
            Err(Failure::BadCredentials) => "refused",
            Err(_) => "error",
        };
        node.metrics.logins.with_label_values(&[protocol, label]).inc();
        let (user, keys) = outcome?;
        Ok((Self::new(node.clone(), user), keys))
    }

    async fn check(
        node: &Arc<Node>,
        name: &str,
        password: &str,
    ) -> Result<(UserId, Option<Box<Encryption>>), Failure> {
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
            Ok(UserReply::LoggedIn { keys }) => Ok((user, keys)),
            Ok(_) => unexpected(),
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

    /// Up to which MODSEQ a client that remembers this one was certainly told of changes.
    pub async fn certainly_told(&self, folder: FolderId, modseq: u64) -> Result<u64, Failure> {
        match self.node.operate(self.user, UserOp::CertainlyTold { folder, modseq }).await {
            Ok(UserReply::CertainlyTold(modseq)) => Ok(modseq),
            // An older version, which does not know (docs/decisions/versions.md).
            Err(Failure::Invalid(_)) => Ok(modseq),
            Ok(_) => unexpected(),
            Err(failure) => Err(failure),
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
        if let Some(body) = self.recent.get(message.blob.id) {
            self.node.metrics.recent_bodies.inc();
            return Ok(body);
        }
        let reader = Some((self.user, &*self.unlocked));
        let body = retrieval::body(&self.node, &message.blob, &message.replicas, reader).await?;
        self.recent.put(&self.node.recent_bodies, message.blob.id, &body);
        Ok(body)
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
        let (mail_map, seal_to) = match states.into_values().next() {
            Some(Ok(crate::wire::RecipientState::Accepts { mail_map, seal_to, .. })) => (mail_map, seal_to),
            Some(Ok(crate::wire::RecipientState::OverQuota)) => return Err(Failure::OverQuota),
            Some(Err(failure)) => return Err(failure),
            _ => return Err(Failure::NotFound),
        };
        let recipient =
            Recipient { user: self.user, mail_map, folder, flags, internal_date, seal_to, fixed: None };
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

    pub fn watch(&self) -> News {
        self.node.watchers.watch(self.user)
    }
}
