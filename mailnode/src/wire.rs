//! What nodes say to each other, on top of the `rpc` crate: one request enum, one response enum, coded with
//! postcard. The protocol version that `rpc` negotiates names this set of messages ([`VERSIONS`]); a variant is
//! only ever added at the end, a field never (docs/decisions/versions.md).

use crate::healing::{DrainProgress, HealingStatus};
use crate::lists::{Fan, NotDelivered, Share};
use crate::log_heads::{Quarantine, SignedHead};
use crate::outbound::control::{QueueAnswer, QueueRequest};
use crate::parts::PartsStatus;
use crate::rotation::SecretStatus;
use bytes::Bytes;
use cluster::anti_entropy::{Page, Question};
use cluster::mailbox::{FlagChange, Mark, Marks, Shown};
use cluster::{
    BlobRef, Bucket, Entry, EntryId, Epoch, FolderId, MailMap, NodeId, Sent, Timestamp, UserId, View,
    WrappedKey,
};
use directory::embedded::{EmbeddedRequest, EmbeddedResponse};
use directory::encryption::PublicKey;
use serde::{Deserialize, Serialize};

/// Versions of these messages that this node speaks; `rpc` refuses a peer that has none of them.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 7..=7;

/// Entries in one message between nodes, at most; longer lists are sent in pages.
pub const PAGE: usize = 2_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? Carries the sender's epoch, so that the one behind can ask for the view.
    Probe {
        epoch: Epoch,
    },
    /// The sender's probes of `about` failed (to the coordinator).
    Suspect {
        about: NodeId,
    },
    /// A newer view (from the coordinator, or in answer to a probe with an older epoch).
    View {
        view: View,
        /// The receiver passes it on along this node's tree.
        root: Option<NodeId>,
    },
    /// Verify recipients that the receiver manages; answers with what placement needs.
    Recipients {
        users: Vec<UserId>,
        acting: bool,
    },
    /// Store a new message: the body (the call's bytes) once, and an entry for each recipient here.
    Store {
        entries: Vec<PendingEntry>,
    },
    /// Tell the manager of entries that are on disk. With `number`, answer with their UIDs.
    Notice {
        entries: Vec<Entry>,
        number: bool,
        acting: bool,
    },
    /// Updates of entries (DESIGN 4).
    Update {
        entries: Vec<PendingEntry>,
    },
    /// Which of these bodies do you not have?
    Missing {
        blobs: Vec<cluster::BlobId>,
    },
    /// `peer` has these versions: the receiver's update log need not keep them for it.
    Retire {
        peer: NodeId,
        versions: Vec<Version>,
    },
    /// The fragment of a user, in pages by entry id.
    Fragment {
        user: UserId,
        after: Option<EntryId>,
    },
    /// A blob's ciphertext (in the answer's bytes).
    Blob {
        id: cluster::BlobId,
    },
    /// Which users of these buckets do you hold fragments for?
    Users {
        buckets: Vec<Bucket>,
    },
    /// An operation on one user's account, for its manager.
    User {
        user: UserId,
        op: UserOp,
        acting: bool,
    },
    /// A folder of a user with sessions at the receiver may have changed (one-way).
    Changed {
        user: UserId,
    },
    /// The embedded user database's own protocol.
    Directory(EmbeddedRequest),
    /// How are you?
    Status,
    /// The sender could not keep all notices for the receiver: read the sender's fragments again.
    NoticesLost,
    /// Anti-entropy: what do you have of what we both should have?
    Compare(Question),
    /// All that you know of these entries, copies or not.
    Entries {
        ids: Vec<(UserId, EntryId)>,
    },
    /// Go out of service, or come back.
    Drain {
        draining: bool,
    },
    DrainProgress,
    /// Tombstones of entries that both should have, in pages; answered with a fragment.
    Tombstones {
        after: Option<(UserId, EntryId)>,
    },
    /// Remember where the sender's log ends.
    KeepHead(SignedHead),
    /// Where did the sender's log end when you last heard?
    KeptHead,
    /// About the outbound queue's messages that the receiver holds.
    Queue(QueueRequest),
    /// Renew the leases of these MIME parts; answered with those that are not there ([`Response::Missing`]). `check`: read each first.
    /// `fetch`: the receiver gets those that it lacks and should own from other nodes.
    KeepParts {
        parts: Vec<cluster::BlobId>,
        check: bool,
        fetch: bool,
    },
    /// Store a part (the call's bytes).
    StorePart {
        id: cluster::BlobId,
    },
    /// Bring a message (the call's bytes) to a list's members.
    Fan {
        fan: Fan,
        shares: Vec<Share>,
    },
    /// Which of these parts do bodies at the receiver refer to?
    WantedParts {
        parts: Vec<cluster::BlobId>,
    },
    /// About parts at the receiver. An answer says that it knows parts.
    Parts,
}

/// Answers to [`Question`]s.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Digests(Vec<u64>),
    Items(Page),
}

/// An entry and the peers that are not known to have this version (the update log's remaining nodes).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingEntry {
    pub entry: Entry,
    pub pending: Vec<NodeId>,
}

impl PendingEntry {
    /// With nobody left to tell.
    pub const fn settled(entry: Entry) -> Self {
        Self { entry, pending: Vec::new() }
    }
}

/// What came of an update at a replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Updated {
    /// On disk, and what was sent is all that the replica knows.
    Same,
    /// On disk; the replica knew more, and this is the join.
    Newer(Box<Entry>),
    /// Not taken: the replica lacks the message's body. Send that first.
    NoBody,
}

/// A state of an entry ([`Entry::digest`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub user: UserId,
    pub entry: EntryId,
    pub digest: u64,
}

/// A password on its way to the manager. Never printed, and zeroed when dropped.
#[derive(Clone, Serialize, Deserialize, zeroize::ZeroizeOnDrop)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum UserOp {
    Authenticate {
        password: Password,
    },
    /// The account's record was changed: read it again.
    Refresh,
    Folders,
    CreateFolder {
        name: String,
        special_use: Option<directory::SpecialUse>,
    },
    DeleteFolder {
        name: String,
    },
    RenameFolder {
        from: String,
        to: String,
    },
    Subscribe {
        name: String,
        subscribed: bool,
    },
    Status {
        folder: FolderId,
    },
    Open {
        folder: FolderId,
    },
    Sync {
        folder: FolderId,
        since: Mark,
    },
    Store {
        folder: FolderId,
        uids: Vec<u32>,
        change: FlagChange,
        unchanged_since: Option<u64>,
    },
    Expunge {
        folder: FolderId,
        uids: Vec<u32>,
    },
    Copy {
        folder: FolderId,
        uids: Vec<u32>,
        target: FolderId,
        remove: bool,
    },
    /// After [`FolderChanges::Unknown`].
    Resync {
        folder: FolderId,
        shown: Shown,
    },
    /// Which messages' keys are wrapped otherwise than the account's mode asks for? The manager begins to wrap what it
    /// can; a session with the private key gets at most so many of the others to work on.
    Misfits {
        most: usize,
    },
    /// Keys that a session has wrapped for the cluster.
    Rewrapped {
        keys: Vec<(EntryId, WrappedKey)>,
    },
    /// Messages were given up, and are on no disk any more: the mailbox is to be read anew.
    GivenUp,
    /// What a client that remembers this MODSEQ was certainly told ([`cluster::mailbox::certainly_told`]).
    CertainlyTold {
        folder: FolderId,
        modseq: u64,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    Done,
    Failed(Failure),
    Probe {
        epoch: Epoch,
    },
    Recipients(Vec<RecipientState>),
    /// For each entry of an update, in order.
    Updated(Vec<Updated>),
    Missing(Vec<cluster::BlobId>),
    /// For each entry its UID, with the folder's UIDVALIDITY.
    Numbered(Vec<Option<Numbered>>),
    /// A page, and whether there are more.
    Fragment {
        entries: Vec<Entry>,
        more: bool,
    },
    Blob,
    Users(Vec<(UserId, Bucket)>),
    User(UserReply),
    Directory(EmbeddedResponse),
    Status(NodeStatus),
    Compared(Answer),
    DrainProgress(DrainProgress),
    /// What is remembered of the asker's log, and whether this node is in service.
    KeptHead {
        head: Option<SignedHead>,
        serving: bool,
    },
    Queue(QueueAnswer),
    /// Who did not get the message.
    Fanned(Vec<(UserId, NotDelivered)>),
    WantedParts(Vec<cluster::BlobId>),
    Parts(PartsStatus),
}

/// What a node says of itself in `cluster status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub load: cluster::Load,
    /// Entries here, counted by the first replica that serves, that have fewer serving replicas than they name.
    pub under_replicated_entries: u64,
    pub pending_updates: u64,
    pub live_bytes: u64,
    pub dead_bytes: u64,
    pub active_users: u64,
    #[serde(default)]
    pub healing: HealingStatus,
    /// The log of this node that was put into quarantine last, and why; this one came after it.
    #[serde(default)]
    pub quarantined: Option<Quarantine>,
    #[serde(default)]
    pub secret: SecretStatus,
}

/// Why a node did not do what it was asked to do, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Failure {
    /// By the receiver's view somebody else manages the user: look at the view again.
    #[error("not the manager in epoch {0:?}")]
    NotManager(Epoch),
    #[error("not found")]
    NotFound,
    #[error("already exists")]
    AlreadyExists,
    #[error("invalid credentials")]
    BadCredentials,
    #[error("over quota")]
    OverQuota,
    #[error("{0}")]
    Invalid(String),
    /// Try again later.
    #[error("{0}")]
    Temporary(String),
    /// It waited for too long, at the receiver or on its way: ask again, if you are still there. Nothing was done.
    #[error("the request waited for too long; try again")]
    Late,
    /// It is encrypted for the user, and what they logged in with does not open it.
    #[error(
        "this message is encrypted, and your password does not open it: your administrator can help with your recovery \
         key or an app password"
    )]
    Locked,
}

impl Failure {
    /// Nothing was done, and it would be another time: whoever manages the user is to be asked again.
    pub const fn is_to_be_asked_again(&self) -> bool {
        matches!(self, Self::NotManager(_) | Self::Late)
    }
}

/// A recipient, verified by its manager.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RecipientState {
    /// With `seal_to`, the keys of bodies are for this key of the user's alone.
    Accepts {
        mail_map: MailMap,
        seal_to: Option<PublicKey>,
        /// Of that key, or of there being none, by the cluster's CA.
        signature: Option<Vec<u8>>,
    },
    Unknown,
    Disabled,
    OverQuota,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    pub uid_validity: u32,
    pub uid: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum UserReply {
    Done,
    /// The password is right; with what it opens, if the account has keys.
    LoggedIn {
        keys: Option<Box<directory::Encryption>>,
    },
    Folders(Vec<FolderInfo>),
    Status(FolderStatus),
    Opened(Opened),
    Changes(FolderChanges),
    Stored {
        changes: Vec<Message>,
        modified: Vec<u32>,
    },
    Expunged(Vec<u32>),
    Copied {
        uid_validity: u32,
        from: Vec<u32>,
        to: Vec<u32>,
    },
    Misfits(Misfits),
    CertainlyTold(u64),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Misfits {
    pub left: u64,
    pub for_session: Vec<(EntryId, BlobRef)>,
}

/// One message as sessions know it: its entry, less what only replicas need.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    pub uid: u32,
    pub entry: EntryId,
    pub flags: Vec<cluster::Flag>,
    pub modseq: u64,
    pub internal_date: i64,
    pub blob: cluster::BlobRef,
    pub replicas: Vec<NodeId>,
}

impl From<&Entry> for Message {
    fn from(entry: &Entry) -> Self {
        Self {
            uid: entry.location.uid.map_or(0, |uid| uid.number),
            entry: entry.id,
            flags: entry.flags_set().cloned().collect(),
            modseq: entry.modseq,
            internal_date: entry.internal_date,
            blob: entry.blob.clone(),
            replicas: entry.replicas.value.clone(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FolderInfo {
    pub id: FolderId,
    pub name: String,
    pub subscribed: bool,
    pub special_use: Option<directory::SpecialUse>,
    pub uid_validity: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FolderStatus {
    pub messages: u32,
    pub unseen: u32,
    pub deleted: u32,
    pub bytes: u64,
    /// The highest MODSEQ of its messages.
    pub newest_message: u64,
    pub uid_next: u32,
    pub uid_validity: u32,
    pub highest_modseq: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    pub uid_validity: u32,
    pub marks: Marks,
    pub messages: Vec<Message>,
    /// False if messages may be missing, because too many nodes are away.
    pub complete: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FolderChanges {
    Delta {
        marks: Marks,
        upserts: Vec<Message>,
        vanished: Vec<u32>,
    },
    Everything(Opened),
    /// Another index told the session what it knows: it must say what it shows ([`UserOp::Resync`]).
    Unknown,
}

impl Request {
    /// Name of a request for metrics and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Probe { .. } => "probe",
            Self::Suspect { .. } => "suspect",
            Self::View { .. } => "view",
            Self::Recipients { .. } => "recipients",
            Self::Store { .. } => "store",
            Self::Notice { .. } => "notice",
            Self::Update { .. } => "update",
            Self::Missing { .. } => "missing",
            Self::Retire { .. } => "retire",
            Self::Fragment { .. } => "fragment",
            Self::Blob { .. } => "blob",
            Self::Users { .. } => "users",
            Self::User { .. } => "user",
            Self::Changed { .. } => "changed",
            Self::Directory(_) => "directory",
            Self::Status => "status",
            Self::NoticesLost => "notices-lost",
            Self::Compare(_) => "compare",
            Self::Entries { .. } => "entries",
            Self::Drain { .. } => "drain",
            Self::DrainProgress => "drain-progress",
            Self::Tombstones { .. } => "tombstones",
            Self::KeepHead(_) => "keep-head",
            Self::KeptHead => "kept-head",
            Self::Queue(_) => "queue",
            Self::KeepParts { .. } => "keep-parts",
            Self::StorePart { .. } => "store-part",
            Self::Fan { .. } => "fan",
            Self::WantedParts { .. } => "wanted-parts",
            Self::Parts => "parts",
        }
    }

    /// True if doing it twice is as good as once, so that it may be sent to another node when it is not known
    /// whether the first did it.
    pub const fn is_repeatable(&self) -> bool {
        !matches!(
            self,
            Self::User {
                op: UserOp::Copy { .. }
                    | UserOp::CreateFolder { .. }
                    | UserOp::DeleteFolder { .. }
                    | UserOp::RenameFolder { .. },
                ..
            }
        )
    }

    /// True if doing it again is harmless even after something else was done: a change of flags is not, since it undoes
    /// a later one. Where that may happen, the second node is asked when the first cannot begin any more
    /// ([`crate::peer_server::STALE`]).
    pub const fn may_come_late(&self) -> bool {
        let changes_back =
            matches!(self, Self::User { op: UserOp::Store { .. } | UserOp::Subscribe { .. }, .. });
        self.is_repeatable() && !changes_back
    }
}

/// What every message tells of its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// Its hybrid clock: whatever the receiver does next is later than what the sender did before.
    pub clock: Timestamp,
    /// Unix milliseconds by its machine's clock, for [`cluster::AgreedTime`].
    pub wall: u64,
    pub sent: Sent,
    /// The highest version of the cluster's secret that it has.
    pub newest_secret: crate::crypto::Version,
    /// Its disk may lack what it should have ([`crate::healing::refill`]).
    pub refilling: bool,
}

/// Encodes a message as (head, body) of a call. A long message without bytes of its own goes into the body,
/// which is streamed, so that the head stays small.
pub fn encode<T: Serialize>(
    sender: Sender,
    message: &T,
    bytes: Bytes,
) -> Result<(Bytes, Bytes), postcard::Error> {
    const LONG: usize = 64 * 1024;
    let coded = Bytes::from(postcard::to_stdvec(&(sender, message))?);
    Ok(if coded.len() > LONG && bytes.is_empty() { (Bytes::new(), coded) } else { (coded, bytes) })
}

/// The reverse of [`encode`].
///
/// # Errors
/// If a peer sent something that is not such a message.
pub fn decode<T: serde::de::DeserializeOwned>(
    head: &Bytes,
    body: Bytes,
) -> Result<(Sender, T, Bytes), postcard::Error> {
    let long = head.is_empty();
    let (sender, message) = postcard::from_bytes(if long { &body } else { head })?;
    Ok((sender, message, if long { Bytes::new() } else { body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_short_and_long_and_with_bytes() {
        let request = Request::Users { buckets: Bucket::all().collect() };
        let sent = Sent { life: cluster::Incarnation(3), millis: 9 };
        let clock = Sender {
            clock: Timestamp { ticks: 7, node: NodeId(1) },
            wall: 8,
            sent,
            newest_secret: 2,
            refilling: false,
        };
        let (head, body) = encode(clock, &request, Bytes::new()).unwrap();
        let (at, back, _) = decode::<Request>(&head, body).unwrap();
        assert_eq!(at, clock);
        assert!(matches!(back, Request::Users { buckets } if buckets.len() == Bucket::COUNT));

        let long = Response::Users(vec![(UserId(u128::MAX), Bucket(1)); 10_000]);
        let (head, body) = encode(clock, &long, Bytes::new()).unwrap();
        assert!(head.is_empty());
        assert!(
            matches!(decode::<Response>(&head, body).unwrap().1, Response::Users(users) if users.len() == 10_000)
        );

        let (head, body) = encode(clock, &Response::Blob, Bytes::from_static(b"ciphertext")).unwrap();
        assert_eq!(&decode::<Response>(&head, body).unwrap().2[..], b"ciphertext");
    }

    #[test]
    fn a_password_is_not_printed() {
        let op = UserOp::Authenticate { password: Password("hunter2".into()) };
        assert!(!format!("{op:?}").contains("hunter2"));
    }
}
