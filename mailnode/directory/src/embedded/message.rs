//! What the nodes say to each other about records. Variants are only ever added at the end.

use super::bucket_set::Mark;
use super::stored::{Ballot, Record, Stamp};
use crate::record::{Key, Kind, Token};
use bytes::Bytes;
use cluster::{Bucket, Epoch};
use serde::{Deserialize, Serialize};

/// Sizes of messages and lists. Whatever a peer sends beyond them is refused.
pub mod limits {
    /// Buckets in one step of levelling.
    pub const BUCKETS: usize = 256;
    /// Stamps in one page.
    pub const STAMPS: usize = 1_000;
    /// Records in one message, and their bytes.
    pub const RECORDS: usize = 128;
    pub const RECORD_BYTES: usize = 512 * 1024;
    /// The longest value of a record.
    pub const VALUE: usize = 4 * 1024 * 1024;
    /// Records in one page of a list.
    pub const PAGE: usize = 1_000;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum EmbeddedRequest {
    /// To the primary; with `stale` to anybody, who then says what they have.
    Read { key: Key, stale: bool },
    /// To the primary. `millis` is the caller's Unix time.
    CompareAndSet { key: Key, expected: u64, token: Token, millis: u64, value: Option<Bytes> },
    /// To a primary: the records of its buckets after an id, in order of ids.
    List { kind: Kind, after: Option<Bytes>, limit: u32 },
    /// Take nothing from lower ballots from now on, and say what you know of these buckets.
    Promise { ballot: Ballot, buckets: Vec<Bucket> },
    /// The stamps of all records of these (ascending) buckets after a key.
    Stamps { ballot: Ballot, buckets: Vec<Bucket>, after: Option<Key> },
    /// These records; the answer may stop early.
    Fetch { ballot: Ballot, keys: Vec<Key> },
    /// Put these on disk, unless you have newer ones.
    Write { ballot: Ballot, records: Vec<(Key, Record)> },
    /// The sender's buckets are level: every replica of this view has every record.
    Mark { ballot: Ballot, buckets: Vec<Bucket>, firm: bool },
    /// Is this ballot still the highest that you promised me?
    Confirm { ballot: Ballot },
    /// These states were committed (nobody waits for an answer).
    Settle { stamps: Vec<(Key, Stamp)> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum EmbeddedResponse {
    Done,
    /// The record as it is. `value` None: deleted or never there; it is sure.
    Record {
        version: u64,
        value: Option<Bytes>,
    },
    /// The receiver does not have it and cannot say that nobody does.
    Unknown,
    Committed {
        version: u64,
    },
    /// The record has another version.
    Conflict {
        version: u64,
    },
    /// By the receiver's view somebody else is the primary.
    NotPrimary(Epoch),
    /// Try again later. A write may or may not have happened.
    Unavailable(String),
    Listed(Vec<(Key, u64, Bytes)>),
    Promised {
        marks: Vec<Mark>,
        reports: Vec<Report>,
    },
    /// The last page is shorter than [`limits::STAMPS`].
    Stamps(Vec<(Key, Stamp, bool)>),
    Fetched(Vec<(Key, Option<Record>)>),
    /// The receiver promised this to the sender, or a later epoch to everybody.
    Refused {
        promised: Ballot,
    },
    /// The request makes no sense.
    Invalid,
}

/// What a member has of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Over keys, stamps and tokens.
    pub digest: [u8; 16],
    pub records: u32,
    /// Some record is not known to be committed.
    pub unsettled: bool,
}
