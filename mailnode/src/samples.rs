//! Entries for unit tests.

use cluster::{BlobId, BlobRef, Entry, EntryId, FolderId, Location, Register, Timestamp, UserId, WrappedKey};
use std::collections::BTreeMap;

/// Of a message of ten bytes that nobody has given a UID.
pub fn entry(id: u128) -> Entry {
    Entry {
        id: EntryId(id),
        user: UserId(1),
        blob: BlobRef {
            id: BlobId([0; 32]),
            size: 10,
            key: Register::new(WrappedKey(Vec::new()), Timestamp::ZERO),
        },
        internal_date: 0,
        location: Location { folder: FolderId::INBOX, at: Timestamp::ZERO, uid: None },
        flags: BTreeMap::new(),
        modseq: 0,
        replicas: Register::new(Vec::new(), Timestamp::ZERO),
        expunged: None,
    }
}
