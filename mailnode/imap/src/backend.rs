//! What a session needs from the mail store. The node implements it against the cluster.
//!
//! What an implementation must keep:
//! - In one folder and UIDVALIDITY a UID never names two messages, and a message never appears below a UID that was
//!   shown (DESIGN.md, invariant 6). MODSEQ never goes back (RFC 7162 3.1).
//! - `size` is the exact length of what [`Account::body`] returns.
//! - Operations on UIDs that are gone skip them and say so by leaving them out of the answer; they do not fail.
//! - Every future is cancel-safe in the sense that dropping it loses no acknowledged change.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::flags::Flags;

/// The mail system: checks credentials and gives an account for each session.
pub trait Backend: Send + Sync + 'static {
    type Account: Account;

    /// Checks name and password. One `Account` belongs to one session and is dropped at its end.
    fn login(
        &self,
        name: &str,
        password: &str,
    ) -> impl Future<Output = Result<Self::Account, LoginError>> + Send;

    /// Called after each command, for metrics. `command` is one of a fixed set of upper-case names; `INVALID` is what
    /// was not understood.
    fn record(&self, command: &'static str, outcome: Outcome, took: Duration) {
        let _ = (command, outcome, took);
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Ok,
    No,
    Bad,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::No => "no",
            Outcome::Bad => "bad",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Unknown name or wrong password: `NO [AUTHENTICATIONFAILED]`.
    #[error("invalid credentials")]
    Invalid,
    /// Cannot be checked now: `NO [UNAVAILABLE]`. The text is shown to the client.
    #[error("{0}")]
    Temporary(String),
}

/// Why the backend did not do what it was asked to do. The texts are shown to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Try again later: `NO [UNAVAILABLE]`.
    #[error("{0}")]
    Temporary(String),
    /// The folder (or, for [`Account::body`], the message) is not there: `NO [NONEXISTENT]`, `NO [TRYCREATE]` or,
    /// for a message, skipped.
    #[error("not found")]
    NotFound,
    /// `NO [ALREADYEXISTS]`.
    #[error("already exists")]
    AlreadyExists,
    /// `NO [OVERQUOTA]`.
    #[error("over quota")]
    OverQuota,
    /// Can never be done: `NO [CANNOT]`.
    #[error("{0}")]
    Invalid(String),
    /// A message that this session has no key for: `NO [CONTACTADMIN]` (RFC 5530 3).
    #[error("{0}")]
    Locked(String),
}

/// What a folder is for (RFC 6154). INBOX is known by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecialUse {
    Sent,
    Drafts,
    Trash,
    Junk,
    Archive,
}

impl SpecialUse {
    pub const ALL: [SpecialUse; 5] =
        [SpecialUse::Sent, SpecialUse::Drafts, SpecialUse::Trash, SpecialUse::Junk, SpecialUse::Archive];

    /// The attribute as IMAP writes it, with its backslash.
    pub fn name(self) -> &'static str {
        match self {
            SpecialUse::Sent => "\\Sent",
            SpecialUse::Drafts => "\\Drafts",
            SpecialUse::Trash => "\\Trash",
            SpecialUse::Junk => "\\Junk",
            SpecialUse::Archive => "\\Archive",
        }
    }

    pub fn parse(name: &str) -> Option<SpecialUse> {
        SpecialUse::ALL.into_iter().find(|special_use| special_use.name().eq_ignore_ascii_case(name))
    }
}

/// A folder of the account. Levels of the hierarchy between folders need not exist as folders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Never used again for another folder of the account.
    pub id: u32,
    /// Whole name in UTF-8, levels separated by `/`. The inbox is `INBOX`, in capitals.
    pub name: String,
    pub subscribed: bool,
    pub special_use: Option<SpecialUse>,
    /// Never 0.
    pub uid_validity: u32,
}

/// What STATUS tells of a folder (RFC 9051 6.3.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub messages: u32,
    pub unseen: u32,
    pub deleted: u32,
    /// Sum of the messages' sizes in bytes.
    pub size: u64,
    pub uid_next: u32,
    pub uid_validity: u32,
    /// At least 1.
    pub highest_modseq: u64,
    /// The highest MODSEQ of its messages: other than `highest_modseq` it never moves because of another folder.
    pub newest_message: u64,
}

/// One message of a folder, without its body.
#[derive(Clone, Debug)]
pub struct Message<H> {
    /// Never 0.
    pub uid: u32,
    pub flags: Flags,
    /// Never 0; grows with every change of the flags (RFC 7162 3.1).
    pub modseq: u64,
    /// Length of the body in bytes, exactly.
    pub size: u64,
    /// Unix time in seconds, UTC; may be negative.
    pub internal_date: i64,
    /// Whatever the backend needs to find the body.
    pub handle: H,
}

/// Names a state of a folder to the backend that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Token(pub u64, pub u64);

/// What a session shows of a folder, for a backend that cannot tell from a token (after a failover, say).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// UIDs of all messages, ascending.
    pub uids: Vec<u32>,
    /// The highest UID it ever knew.
    pub highest_uid: u32,
    pub highest_modseq: u64,
}

/// A folder as it is at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot<H> {
    pub uid_validity: u32,
    pub uid_next: u32,
    /// At least 1.
    pub highest_modseq: u64,
    /// Names this state to [`Account::sync`].
    pub token: Token,
    /// Ascending by UID.
    pub messages: Vec<Arc<Message<H>>>,
}

/// What happened in a folder since a token.
#[derive(Clone, Debug)]
pub enum Changes<H> {
    /// Only what changed. Empty lists mean that nothing did.
    Delta(Delta<H>),
    /// The backend cannot tell (after a failover, say): the session compares this with what it has shown.
    Fresh(Snapshot<H>),
}

#[derive(Clone, Debug)]
pub struct Delta<H> {
    pub uid_next: u32,
    pub highest_modseq: u64,
    pub token: Token,
    /// New messages, and known ones with new flags, in any order.
    pub messages: Vec<Arc<Message<H>>>,
    /// UIDs that are gone.
    pub vanished: Vec<u32>,
}

/// One message for [`Account::append`].
#[derive(Clone, Debug)]
pub struct AppendMessage {
    pub flags: Flags,
    /// Unix time in seconds, UTC; `None` is now.
    pub internal_date: Option<i64>,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    pub uid_validity: u32,
    /// One for each message, in the order they were given.
    pub uids: Vec<u32>,
}

/// How STORE changes flags (RFC 9051 6.4.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreChange {
    Add(Flags),
    Remove(Flags),
    Replace(Flags),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Flags and MODSEQ after the change, of each message that was there and not in `modified`, changed or not.
    pub changes: Vec<(u32, Flags, u64)>,
    /// UIDs left alone because they changed after `unchanged_since` (RFC 7162 3.1.3).
    pub modified: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Of the target folder.
    pub uid_validity: u32,
    /// UIDs that were copied or moved; `to[i]` is the new UID of `from[i]`.
    pub from: Vec<u32>,
    pub to: Vec<u32>,
}

/// A logged-in user's mail, as one session sees it.
pub trait Account: Send + Sync + 'static {
    type Handle: Clone + Send + Sync + 'static;

    /// What the user has to be told at log-in: `* OK [ALERT]` (RFC 9051 7.1).
    fn alert(&self) -> Option<String> {
        None
    }

    /// All folders, in any order. INBOX is always among them.
    fn folders(&self) -> impl Future<Output = Result<Vec<Folder>, Error>> + Send;

    /// Creates a folder; its parents need not exist. [`Error::AlreadyExists`] if it does.
    fn create_folder(
        &self,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes a folder with its messages, but not those below it (RFC 9051 6.3.5). Never called for INBOX.
    fn delete_folder(&self, name: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Renames a folder and all below it. Never called for INBOX. UIDs and UIDVALIDITY stay with the folder. `from` may be a level
    /// that only has folders below it.
    fn rename_folder(&self, from: &str, to: &str) -> impl Future<Output = Result<(), Error>> + Send;

    fn subscribe(&self, name: &str, subscribed: bool) -> impl Future<Output = Result<(), Error>> + Send;

    fn status(&self, folder: u32) -> impl Future<Output = Result<Status, Error>> + Send;

    /// The folder as it is now; from here on [`Account::changed`] watches it, and no other.
    fn open(&self, folder: u32) -> impl Future<Output = Result<Snapshot<Self::Handle>, Error>> + Send;

    /// What changed since `token`, which came from the last `open` or `sync` of this folder. Called after nearly every command:
    /// must cost next to nothing if nothing changed. A backend that does not know the token asks what is `shown`, and gives new UIDs to
    /// messages that are not in it and would appear below its highest.
    fn sync(
        &self,
        folder: u32,
        token: Token,
        shown: impl FnOnce() -> Shown + Send,
    ) -> impl Future<Output = Result<Changes<Self::Handle>, Error>> + Send;

    /// A client remembers `modseq` as the highest that it was told of the folder. Answers up to which MODSEQ it was told of
    /// all changes: a lower one only if some of them were unknown to whoever told it.
    fn certainly_told(&self, folder: u32, modseq: u64) -> impl Future<Output = Result<u64, Error>> + Send;

    /// Resolves when the opened folder may have changed since the last `sync`. May be dropped and called again at any time without
    /// losing a change.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Grows with every event of the account, in whatever folder: each makes [`Account::changed`] resolve.
    fn events(&self) -> impl Future<Output = u64> + Send;

    /// The whole raw message, exactly as it was delivered or appended.
    fn body(&self, message: &Message<Self::Handle>) -> impl Future<Output = Result<Bytes, Error>> + Send;

    /// Adds messages, all or none.
    fn append(
        &self,
        folder: u32,
        messages: Vec<AppendMessage>,
    ) -> impl Future<Output = Result<Appended, Error>> + Send;

    /// Changes the flags of `uids` (ascending). With `unchanged_since`, leaves alone and lists messages with a higher MODSEQ.
    fn store(
        &self,
        folder: u32,
        uids: &[u32],
        change: StoreChange,
        unchanged_since: Option<u64>,
    ) -> impl Future<Output = Result<Stored, Error>> + Send;

    /// Expunges `uids` (ascending), which the session saw with `\Deleted`. Returns those that are gone now.
    fn expunge(&self, folder: u32, uids: &[u32]) -> impl Future<Output = Result<Vec<u32>, Error>> + Send;

    /// Copies messages with flags and internal date, all that are still there or none.
    fn copy(
        &self,
        folder: u32,
        uids: &[u32],
        target: u32,
    ) -> impl Future<Output = Result<Copied, Error>> + Send;

    /// Moves messages; each is at any moment in at least one of the two folders.
    fn move_messages(
        &self,
        folder: u32,
        uids: &[u32],
        target: u32,
    ) -> impl Future<Output = Result<Copied, Error>> + Send;
}
