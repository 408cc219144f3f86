//! What can be done for a commit before it is the writer's turn, in the caller's thread: limits, and the one
//! check that a body is what its name says.

use crate::error::{Error, Result};
use crate::options::Options;
use crate::record::RemovedRecord;
use crate::rows::Place;
use crate::write::Write;
use bytes::Bytes;
use cluster::{BlobId, BlobKind, Entry, EntryId, NodeId, UserId};

/// Most writes of one commit.
const MOST_WRITES: usize = 1 << 16;
/// Most peers that wait for one entry.
const MOST_PENDING: usize = 256;
/// Longest key of a record of the user database.
const LONGEST_KEY: usize = 4 << 10;
/// Longest value of a record of the user database.
const LONGEST_VALUE: usize = 16 << 20;
/// What an entry takes of the queue and the log, about: flags, names and keys are short.
const ENTRY_BYTES: usize = 600;
const FLAG_BYTES: usize = 64;

/// A change for the writer. All but the first six come from maintenance.
#[derive(Debug)]
pub enum Operation {
    Blob {
        id: BlobId,
        kind: BlobKind,
        body: Bytes,
        crc: u32,
    },
    Entry {
        entry: Box<Entry>,
        pending: Vec<NodeId>,
    },
    Retire {
        peer: NodeId,
        entries: Vec<(UserId, EntryId, u64)>,
    },
    Forget {
        user: UserId,
        entry: EntryId,
    },
    Value {
        key: Bytes,
        value: Option<Bytes>,
    },
    /// Begins the leases anew.
    Renew {
        ids: Vec<BlobId>,
    },
    /// Writes the body again if the index still means the one at `from`.
    MoveBlob {
        id: BlobId,
        kind: BlobKind,
        from: Place,
        body: Bytes,
        crc: u32,
    },
    /// Writes the entry again as it is now if its record is still the one at `from`.
    MoveEntry {
        user: UserId,
        entry: EntryId,
        from: Place,
    },
    MoveValue {
        key: Bytes,
        from: Place,
    },
    /// Writes the deletion of an entry again, unless there is one now.
    KeepForget {
        user: UserId,
        entry: EntryId,
        first: u64,
    },
    KeepDeletion {
        key: Bytes,
        first: u64,
    },
    KeepRemoved(RemovedRecord),
    RemoveSegment(RemovedRecord),
    /// The file of a removed segment is gone for certain.
    SegmentGone(u64),
    /// The body at `from` cannot be read.
    LoseBlob {
        id: BlobId,
        from: Place,
    },
    /// Drops a body whose lease ended then, or a part whose time in the trash did, if that is still so.
    CollectBlob {
        id: BlobId,
        due: u64,
    },
    /// Puts a part whose lease ended then into the trash, if that is still so.
    TrashPart {
        id: BlobId,
        due: u64,
        until: u64,
    },
    /// Forgets a tombstone that nobody waits for.
    CollectTombstone {
        user: UserId,
        entry: EntryId,
    },
}

impl Operation {
    /// No less than what it takes of the log.
    pub fn most_bytes(&self) -> u64 {
        let bytes = match self {
            Self::Blob { body, kind, .. } | Self::MoveBlob { body, kind, .. } => {
                body.len() + 64 + kind.references().len() * 32
            }
            Self::Renew { ids } => 64 + ids.len() * 32,
            Self::Entry { entry, pending } => {
                ENTRY_BYTES
                    + entry.flags.len() * FLAG_BYTES
                    + pending.len() * 8
                    + entry.blob.key.value.0.len()
            }
            Self::Retire { entries, .. } => 64 + entries.len() * 48,
            Self::Value { key, value } => 128 + key.len() + value.as_ref().map_or(0, Bytes::len),
            _ => ENTRY_BYTES,
        };
        bytes as u64
    }

    /// Does it bring new mail, or only change and remove what is here?
    pub const fn grows(&self) -> bool {
        matches!(self, Self::Blob { .. })
    }
}

/// Checks the limits and the names of bodies.
///
/// # Errors
/// [`Error::WrongName`], [`Error::TooLarge`].
pub fn prepare(writes: Vec<Write>, options: &Options) -> Result<Vec<Operation>> {
    within("commit of this many writes", writes.len(), MOST_WRITES)?;
    let operations: Vec<Operation> =
        writes.into_iter().map(|write| prepare_one(write, options)).collect::<Result<_>>()?;
    let bytes = operations.iter().map(Operation::most_bytes).sum::<u64>();
    let limit = u64::from(options.max_blob_bytes) + u64::from(options.group_bytes);
    if bytes > limit {
        return Err(Error::TooLarge { what: "commit", size: bytes, limit });
    }
    Ok(operations)
}

fn prepare_one(write: Write, options: &Options) -> Result<Operation> {
    Ok(match write {
        Write::Blob { id, parts } => {
            within("body", parts.len(), options.max_blob_bytes as usize)?;
            if BlobId::of(&parts) != id {
                return Err(Error::WrongName(format!("{id:?}")));
            }
            Operation::Blob { id, kind: BlobKind::of(&parts), crc: crc32c::crc32c(&parts), body: parts }
        }
        Write::Entry { entry, pending } => {
            within("list of peers", pending.len(), MOST_PENDING)?;
            Operation::Entry { entry: Box::new(entry), pending }
        }
        Write::Retire { peer, entries } => {
            within("list of acknowledgements", entries.len(), MOST_WRITES)?;
            Operation::Retire { peer, entries }
        }
        Write::Forget { user, entry } => Operation::Forget { user, entry },
        Write::Renew { ids } => {
            within("list of leases", ids.len(), MOST_WRITES)?;
            Operation::Renew { ids }
        }
        Write::Discard { id, due } => Operation::CollectBlob { id, due },
        Write::Record { key, value } => {
            within("key", key.len(), LONGEST_KEY)?;
            within("value", value.as_ref().map_or(0, Bytes::len), LONGEST_VALUE)?;
            Operation::Value { key: key.into(), value }
        }
    })
}

fn within(what: &'static str, size: usize, limit: usize) -> Result<()> {
    if size > limit {
        return Err(Error::TooLarge { what, size: size as u64, limit: limit as u64 });
    }
    Ok(())
}
