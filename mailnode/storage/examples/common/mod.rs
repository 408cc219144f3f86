//! What the examples have in common.

use cluster::{
    BlobId, BlobRef, Entry, EntryId, FolderId, Location, NodeId, Register, Timestamp, UserId, WrappedKey,
};
use std::collections::BTreeMap;

/// The entry of a new message: the `number`th, of one of so many users in turn.
pub fn entry(number: u64, users: u64, id: BlobId, size: u64) -> Entry {
    let at = Timestamp { ticks: number << 16, node: NodeId(1) };
    Entry {
        id: EntryId::new(number, 0),
        user: UserId(u128::from(number % users)),
        blob: BlobRef { id, size, key: Register::new(WrappedKey(vec![7; 63]), at) },
        internal_date: 0,
        location: Location { folder: FolderId::INBOX, at, uid: None },
        flags: BTreeMap::new(),
        modseq: 0,
        replicas: Register::new(vec![NodeId(1), NodeId(2)], at),
        expunged: None,
    }
}
