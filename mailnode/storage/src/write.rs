//! What callers write, and what comes of it.

use bytes::Bytes;
use cluster::{BlobId, Entry, EntryId, NodeId, UserId};
use std::sync::Arc;

/// One change. A commit is a list of them, kept or lost together.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // Most are entries.
pub enum Write {
    /// Stores a body or MIME part under its name, the BLAKE3 hash of `parts`; what it is its bytes say ([`cluster::blob`]). If it is
    /// already here nothing is written: one copy per node. Either way its lease begins anew.
    Blob { id: BlobId, parts: Bytes },
    /// Joins a version of an entry with the one that is here ([`Entry::merge`]). `pending`: peers that are not
    /// known to have this version; if it brings a change they join those that still wait for an older one (the
    /// update log). A version that changes nothing is dropped, its `pending` with it (PAPERS A8).
    Entry { entry: Entry, pending: Vec<NodeId> },
    /// The peer acknowledged these entries at these digests ([`Entry::digest`]): they leave its update log,
    /// except those that have changed since.
    Retire { peer: NodeId, entries: Vec<(UserId, EntryId, u64)> },
    /// The leases of these blobs begin anew; those in the trash are back. Durable like any other commit.
    Renew { ids: Vec<BlobId> },
    /// Drops a part whose time in the trash ended then ([`crate::Store::doomed`]), unless it was renewed since.
    Discard { id: BlobId, due: u64 },
    /// This node is no longer a replica of the entry: it goes, without a tombstone.
    Forget { user: UserId, entry: EntryId },
    /// A record of the embedded user database; the last write wins, None deletes.
    Record { key: Vec<u8>, value: Option<Bytes> },
}

/// When a commit is answered. Either way what is answered is on disk and visible to reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As soon as possible: the next flush is for it.
    Synced,
    /// With the next flush that somebody else needs, or after `Options::lazy_delay`: for what may be lost, and
    /// should cost no flush of its own.
    Lazy,
}

/// What came of a [`Write`], in the order of the commit.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// `stored` is false if the body was already here.
    Blob {
        stored: bool,
    },
    Entry {
        /// False: this node knew all of it.
        changed: bool,
        /// [`Entry::digest`] of the entry after the merge: what to acknowledge to the sender.
        digest: u64,
        /// The user had no entry here before: a new fragment, of which the manager should hear.
        first_of_user: bool,
        /// After the merge.
        entry: Arc<Entry>,
    },
    /// How many rows left the update log.
    Retired {
        rows: usize,
    },
    Forgotten {
        existed: bool,
        /// The user's last entry here went: the fragment is gone.
        last_of_user: bool,
    },
    Record,
    /// Blobs that are not here.
    Renewed {
        missing: Vec<BlobId>,
    },
}
