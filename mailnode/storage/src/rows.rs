//! Rows of the index: keys laid out so that every question is a seek and a scan.
//!
//! | key | value |
//! | --- | --- |
//! | `m` | [`Position`]: up to where in the log the index is complete |
//! | `e` bucket user entry | [`EntryRow`] |
//! | `u` bucket user | nothing: the user has an entry here |
//! | `p` peer user entry | nothing: the peer waits for the entry (update log) |
//! | `b` blob | [`BlobRow`] |
//! | `f` blob user entry | nothing: the live entry, of which this node is a replica, refers to the blob |
//! | `g` time blob | nothing: the blob's lease ends then, unless an entry refers to it; or its time in the trash |
//! | `o` blob | names of the parts that were cut out of this body |
//! | `q` part blob | nothing: the part was cut out of this body |
//! | `a` | [`PartTotals`] |
//! | `t` time user entry | nothing: tombstone, or copy no more, since then (Unix seconds) |
//! | `r` key | [`ValueRow`]: a record of the user database |
//! | `s` segment | bytes that are alive in it |
//! | `x` segment | nothing: all alive was moved out of it, its file goes |
//! | `c` peer | number of `p` rows of the peer |
//! | `d` peer bucket | digest of the live entries of the bucket that both this node and the peer should have |
//!
//! Numbers in keys are big-endian, so that rows sort by them. [`FORMAT`] changes with the layout; an index of
//! another format is rebuilt from the log.

use crate::error::{Error, Result};
use crate::record::{Chain, EntryRecord, Fields};
use crate::staging::holds;
use bytes::{BufMut, Bytes, BytesMut};
use cluster::{BlobId, Bucket, Entry, EntryId, NodeId, UserId};

const FORMAT: u32 = 3;

pub const POSITION: &[u8] = b"m";
/// Prefix of the rows of users.
pub const USERS: &[u8] = b"u";

/// A record's place in the log: segment file, number of the group, number in the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u64,
    pub sequence: u64,
    pub ordinal: u32,
}

impl Place {
    fn put(self, into: &mut BytesMut) {
        into.put_u64_le(self.segment);
        into.put_u64_le(self.sequence);
        into.put_u32_le(self.ordinal);
    }

    fn take(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { segment: fields.u64()?, sequence: fields.u64()?, ordinal: fields.u32()? })
    }
}

#[derive(Debug, Clone)]
pub struct EntryRow {
    pub place: Place,
    /// Oldest segment that may have a record of the entry.
    pub first: u64,
    /// What the record takes of the log.
    pub bytes: u64,
    pub digest: u64,
    pub pending: Vec<NodeId>,
    pub entry: Entry,
}

impl EntryRow {
    /// `meta`: the record's, which is `pending` and `entry` encoded.
    pub fn to_bytes(&self, meta: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(44 + meta.len());
        self.place.put(&mut out);
        out.put_u64_le(self.first);
        out.put_u64_le(self.bytes);
        out.put_u64_le(self.digest);
        out.extend_from_slice(meta);
        out.freeze()
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let parsed = (|| {
            let place = Place::take(&mut fields)?;
            let (first, bytes, digest) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let EntryRecord { pending, entry } = postcard::from_bytes(fields.0).ok()?;
            Some(Self { place, first, bytes, digest, pending, entry })
        })();
        parsed.ok_or_else(|| damaged("entry"))
    }

    /// Is a peer to be told of this version yet? Not of a live one of an entry elsewhere, from before `since` (Unix seconds), of which a
    /// replica knows: whatever came after it may be forgotten everywhere soon ([`crate::Options::witnessed_since`]).
    pub fn is_awaited(&self, node: Option<NodeId>, since: u64) -> bool {
        let known = || self.entry.replicas.value.iter().any(|replica| !self.pending.contains(replica));
        let overdue = || {
            self.entry.is_live()
                && !holds(node, &self.entry)
                && self.entry.latest().unix_millis() / 1_000 < since
                && known()
        };
        !self.pending.is_empty() && !overdue()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRow {
    pub place: Place,
    /// Of the body in the segment file.
    pub offset: u64,
    pub length: u32,
    pub crc: u32,
    /// What the record takes of the log.
    pub bytes: u64,
    /// End of the lease, Unix seconds; 0 while an entry refers to it. In the trash: when it may go.
    pub due: u64,
    pub role: Role,
}

/// How a blob lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// While an entry here refers to it, and a lease longer.
    Body,
    /// A MIME part: by leases alone, which others renew.
    Part,
    /// A part whose lease ran out. It is read like any other, and renewing brings it back.
    Trash,
}

/// Parts on this disk: how many, and what their records take of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartTotals {
    pub live: u64,
    pub live_bytes: u64,
    pub trash: u64,
    pub trash_bytes: u64,
}

impl PartTotals {
    /// Counts a row, or no more.
    pub fn count(&mut self, row: &BlobRow, there: bool) {
        let (parts, bytes) = match row.role {
            Role::Body => return,
            Role::Part => (&mut self.live, &mut self.live_bytes),
            Role::Trash => (&mut self.trash, &mut self.trash_bytes),
        };
        for (sum, value) in [(parts, 1), (bytes, row.bytes)] {
            *sum = if there { sum.saturating_add(value) } else { sum.saturating_sub(value) };
        }
    }

    pub fn to_bytes(self) -> Bytes {
        let fields = [self.live, self.live_bytes, self.trash, self.trash_bytes];
        fields.iter().flat_map(|field| field.to_le_bytes()).collect()
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let (live, live_bytes) = (fields.u64()?, fields.u64()?);
        Some(Self { live, live_bytes, trash: fields.u64()?, trash_bytes: fields.u64()? })
    }
}

impl BlobRow {
    pub fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(57);
        self.place.put(&mut out);
        out.put_u64_le(self.offset);
        out.put_u32_le(self.length);
        out.put_u32_le(self.crc);
        out.put_u64_le(self.bytes);
        out.put_u64_le(self.due);
        out.put_u8(match self.role {
            Role::Body => 0,
            Role::Part => 1,
            Role::Trash => 2,
        });
        out.freeze()
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let parsed = (|| {
            Some(Self {
                place: Place::take(&mut fields)?,
                offset: fields.u64()?,
                length: fields.u32()?,
                crc: fields.u32()?,
                bytes: fields.u64()?,
                due: fields.u64()?,
                role: match fields.take()? {
                    [0] => Role::Body,
                    [1] => Role::Part,
                    [2] => Role::Trash,
                    _ => return None,
                },
            })
        })();
        parsed.ok_or_else(|| damaged("blob"))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueRow {
    pub place: Place,
    pub first: u64,
    pub bytes: u64,
    pub value: Bytes,
}

impl ValueRow {
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(36 + self.value.len());
        self.place.put(&mut out);
        out.put_u64_le(self.first);
        out.put_u64_le(self.bytes);
        out.extend_from_slice(&self.value);
        out.freeze()
    }

    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        let parsed = (|| {
            let place = Place::take(&mut fields)?;
            let (first, bytes) = (fields.u64()?, fields.u64()?);
            Some(Self { place, first, bytes, value: Bytes::copy_from_slice(fields.0) })
        })();
        parsed.ok_or_else(|| damaged("value"))
    }
}

/// The last group that the index has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub segment: u64,
    pub sequence: u64,
    pub start: u64,
    pub end: u64,
    pub chain: Chain,
}

impl Position {
    pub fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(68);
        out.put_u32_le(FORMAT);
        for field in [self.segment, self.sequence, self.start, self.end] {
            out.put_u64_le(field);
        }
        out.extend_from_slice(&self.chain);
        out.freeze()
    }

    /// None if another version wrote it.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        (fields.u32()? == FORMAT).then_some(())?;
        Some(Self {
            segment: fields.u64()?,
            sequence: fields.u64()?,
            start: fields.u64()?,
            end: fields.u64()?,
            chain: fields.take()?,
        })
    }
}

fn damaged(what: &str) -> Error {
    Error::index(format_args!("a row of kind {what} does not decode"))
}

fn key(parts: &[&[u8]]) -> Bytes {
    let mut out = BytesMut::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.freeze()
}

fn bucket_of(user: UserId) -> [u8; 2] {
    Bucket::of_user(user).0.to_be_bytes()
}

pub fn entry_key(user: UserId, entry: EntryId) -> Bytes {
    key(&[b"e", &bucket_of(user), &user.to_bytes(), &entry.to_bytes()])
}

/// Prefix of a user's entries.
pub fn fragment_key(user: UserId) -> Bytes {
    key(&[b"e", &bucket_of(user), &user.to_bytes()])
}

pub fn user_key(user: UserId) -> Bytes {
    key(&[USERS, &bucket_of(user), &user.to_bytes()])
}

/// Prefix of a bucket's users.
pub fn bucket_key(bucket: Bucket) -> Bytes {
    key(&[USERS, &bucket.0.to_be_bytes()])
}

pub fn pending_key(peer: NodeId, user: UserId, entry: EntryId) -> Bytes {
    key(&[b"p", &peer.to_bytes(), &user.to_bytes(), &entry.to_bytes()])
}

/// Prefix of a peer's update log.
pub fn peer_key(peer: NodeId) -> Bytes {
    key(&[b"p", &peer.to_bytes()])
}

pub const BLOBS: &[u8] = b"b";

pub fn blob_of_key(key: &[u8]) -> Option<BlobId> {
    key.strip_prefix(BLOBS)?.try_into().ok().map(BlobId)
}

pub fn blob_key(id: BlobId) -> Bytes {
    key(&[b"b", &id.0])
}

pub fn reference_key(id: BlobId, user: UserId, entry: EntryId) -> Bytes {
    key(&[b"f", &id.0, &user.to_bytes(), &entry.to_bytes()])
}

/// Prefix of the references to a blob.
pub fn references_key(id: BlobId) -> Bytes {
    key(&[b"f", &id.0])
}

/// The parts of a body.
pub fn parts_key(body: BlobId) -> Bytes {
    key(&[b"o", &body.0])
}

pub const CUT_FROM: &[u8] = b"q";

pub fn cut_from_key(part: BlobId, body: BlobId) -> Bytes {
    key(&[CUT_FROM, &part.0, &body.0])
}

/// Prefix of the bodies that a part was cut out of.
pub fn part_key(part: BlobId) -> Bytes {
    key(&[CUT_FROM, &part.0])
}

/// The part and the body.
pub fn parse_cut_from_key(key: &[u8]) -> Option<(BlobId, BlobId)> {
    let mut fields = Fields(key.strip_prefix(CUT_FROM)?);
    Some((BlobId(fields.take()?), BlobId(fields.take()?)))
}

pub const PART_TOTALS: &[u8] = b"a";

pub const LEASES: &[u8] = b"g";

pub fn lease_key(due: u64, id: BlobId) -> Bytes {
    key(&[LEASES, &due.to_be_bytes(), &id.0])
}

pub fn parse_lease_key(key: &[u8]) -> Option<(u64, BlobId)> {
    let mut fields = Fields(key.strip_prefix(LEASES)?);
    Some((u64::from_be_bytes(fields.take()?), BlobId(fields.take()?)))
}

pub const TOMBSTONES: &[u8] = b"t";

pub fn tombstone_key(since: u64, user: UserId, entry: EntryId) -> Bytes {
    key(&[TOMBSTONES, &since.to_be_bytes(), &user.to_bytes(), &entry.to_bytes()])
}

pub fn parse_tombstone_key(key: &[u8]) -> Option<(u64, UserId, EntryId)> {
    let mut fields = Fields(key.strip_prefix(TOMBSTONES)?);
    let since = u64::from_be_bytes(fields.take()?);
    Some((since, UserId::from_bytes(fields.take()?), EntryId::from_bytes(fields.take()?)))
}

pub fn value_key(name: &[u8]) -> Bytes {
    key(&[b"r", name])
}

pub const SEGMENTS: &[u8] = b"s";
pub const REMOVED: &[u8] = b"x";
pub const COUNTS: &[u8] = b"c";
pub const DIGESTS: &[u8] = b"d";

pub fn segment_key(segment: u64) -> Bytes {
    key(&[SEGMENTS, &segment.to_be_bytes()])
}

pub fn removed_key(segment: u64) -> Bytes {
    key(&[REMOVED, &segment.to_be_bytes()])
}

pub fn count_key(peer: NodeId) -> Bytes {
    key(&[COUNTS, &peer.to_bytes()])
}

pub fn digest_key(peer: NodeId, bucket: Bucket) -> Bytes {
    key(&[DIGESTS, &peer.to_bytes(), &bucket.0.to_be_bytes()])
}

pub fn parse_digest_key(key: &[u8]) -> Option<(NodeId, Bucket)> {
    let mut fields = Fields(key.strip_prefix(DIGESTS)?);
    Some((NodeId::from_bytes(fields.take()?), Bucket(u16::from_be_bytes(fields.take()?))))
}

pub const ENTRIES: &[u8] = b"e";

/// Prefix of a bucket's entries.
pub fn entries_key(bucket: Bucket) -> Bytes {
    key(&[ENTRIES, &bucket.0.to_be_bytes()])
}

/// The number in a key that is one byte and a number.
pub fn number_of_key(key: &[u8]) -> Option<u64> {
    key.get(1..)?.try_into().ok().map(u64::from_be_bytes)
}

pub fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

/// The last 16-byte ids of a key, user and entry.
pub fn ids_of_key(key: &[u8]) -> Option<(UserId, EntryId)> {
    let (rest, entry) = key.split_last_chunk::<16>()?;
    let (_, user) = rest.split_last_chunk::<16>()?;
    Some((UserId::from_bytes(*user), EntryId::from_bytes(*entry)))
}

/// The user at the end of a key of [`user_key`].
pub fn user_of_key(key: &[u8]) -> Option<UserId> {
    key.split_last_chunk::<16>().map(|(_, user)| UserId::from_bytes(*user))
}
