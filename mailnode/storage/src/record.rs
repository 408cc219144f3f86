//! The format of the log on disk, version 1. This is its specification; integers are little-endian.
//!
//! A log is a directory of segment files named `<number, 16 hex digits>.log`. Numbers only grow.
//!
//! ```text
//! segment = header group*
//! header  = magic "PRKLSEG\n" | version u32 | crc u32 | number u64 | created u64 | sequence u64 | previous [32]
//! group   = header(96) body* meta* item* padding to a multiple of 8 bytes
//! ```
//!
//! A *group* is what one write and one flush bring to disk: one or more commits, kept or lost together. Its
//! header, by offset:
//!
//! | at | field | meaning |
//! | --- | --- | --- |
//! | 0 | magic `PGRP` | |
//! | 4 | version u8, 3 zeros | of header and items |
//! | 8 | segment u64 | number of the segment file |
//! | 16 | position u64 | offset of the group in it; so neither stale nor moved bytes pass for a group |
//! | 24 | sequence u64 | number of the group in the log, from 1, without gaps |
//! | 32 | time u64 | Unix seconds of the wall clock |
//! | 40 | records u32 | number of items |
//! | 44 | metas u32 | bytes of all metas |
//! | 48 | bodies u64 | bytes of all bodies |
//! | 56 | items crc u32 | CRC32C of all items |
//! | 60 | crc u32 | CRC32C of the other 92 bytes of the header |
//! | 64 | previous \[32\] | the chain up to here: the hash of the group before, zeros for the first |
//!
//! The hash of a group is BLAKE3 over its header, metas and items. Bodies are not hashed again: the meta of a
//! body is its name, which is its hash. As `previous` is part of the header, each group vouches for all before.
//!
//! An *item* describes one record: kind u8, version u8, flags u16 (bit 0: the last of its commit), meta length
//! u32, body length u32, CRC32C of the meta u32, CRC32C of the body u32, zero u32. Items are apart from what
//! they describe so that damage to one record leaves the others readable.
//!
//! Metas, by kind; all but the first in postcard:
//!
//! | kind | record | meta |
//! | --- | --- | --- |
//! | 1 | body | version 1: its name, 32 bytes; the only kind with a body |
//! | 1 | | version 2: its name, then 2 for a MIME part, or 1 and the names of the parts that were cut out of it ([`cluster::blob`]) |
//! | 2 | entry | peers that wait for it (the update log), the entry as merged |
//! | 3 | retire | peer, (user, entry, digest) that left its update log |
//! | 4 | forget | user, entry, oldest segment that may still have a record of it |
//! | 5 | value | key, value or none, oldest segment as above |
//! | 6 | segment removed | its number, the sequence and hash of its last group: the chain across the hole |
//! | 8 | leases | names of blobs whose leases begin anew; whatever lives by a lease has a new one after a rebuild, too |
//! | 7, 9..11 | reserved | signed snapshot, a peer's newest head, digest of a bucket |
//!
//! A reader that meets a kind or version it does not know refuses the log, unless the kind is 128 or more:
//! those may be skipped. A new layout of a record gets a new version and the old one stays readable.

use crate::error::{Error, Result};
use bytes::Bytes;
use cluster::blob::names_of;
use cluster::{BlobId, BlobKind, Entry, EntryId, NodeId, UserId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub const SEGMENT_HEADER: usize = 72;
pub const GROUP_HEADER: usize = 96;
pub const ITEM: usize = 24;
const ALIGNMENT: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"PRKLSEG\n";
const GROUP_MAGIC: [u8; 4] = *b"PGRP";
const SEGMENT_VERSION: u32 = 1;
const GROUP_VERSION: u8 = 1;
const RECORD_VERSION: u8 = 1;
/// Of a body that is more than a whole body.
const KINDLED_BLOB_VERSION: u8 = 2;
const LAST_OF_COMMIT: u16 = 1;
/// From here on kinds may be skipped by readers that do not know them.
const SKIPPABLE: u8 = 128;

/// The hash of a group, which stands for all groups up to it.
pub type Chain = [u8; 32];

pub const KIND_BLOB: u8 = 1;
const KIND_ENTRY: u8 = 2;
const KIND_RETIRE: u8 = 3;
const KIND_FORGET: u8 = 4;
const KIND_VALUE: u8 = 5;
const KIND_REMOVED: u8 = 6;
const KIND_LEASES: u8 = 8;

/// A record as read from its item and meta.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // Most are entries, and they live for a moment.
pub enum Record {
    Blob(BlobId, BlobKind),
    Entry(EntryRecord),
    Retire(RetireRecord),
    Forget(ForgetRecord),
    Value(ValueRecord),
    Removed(RemovedRecord),
    Leases(Vec<BlobId>),
    /// Of a later version that says it may be skipped.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    pub pending: Vec<NodeId>,
    pub entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireRecord {
    pub peer: NodeId,
    pub entries: Vec<(UserId, EntryId, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetRecord {
    pub user: UserId,
    pub entry: EntryId,
    pub first: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
    pub first: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedRecord {
    pub segment: u64,
    pub sequence: u64,
    pub chain: Chain,
}

impl Record {
    /// # Errors
    /// [`Error::Open`] if a newer version of Prickle wrote it; None if it does not decode.
    pub fn decode(item: &Item, meta: &[u8]) -> Result<Option<Self>> {
        if item.kind >= SKIPPABLE {
            return Ok(Some(Self::Skipped));
        }
        if item.kind == KIND_BLOB && item.version == KINDLED_BLOB_VERSION {
            return Ok(kindled(meta));
        }
        if item.version != RECORD_VERSION {
            return Err(newer(item));
        }
        Ok(match item.kind {
            KIND_BLOB => meta.try_into().ok().map(|name| Self::Blob(BlobId(name), BlobKind::Body)),
            KIND_ENTRY => from_meta(meta).map(Self::Entry),
            KIND_RETIRE => from_meta(meta).map(Self::Retire),
            KIND_FORGET => from_meta(meta).map(Self::Forget),
            KIND_VALUE => from_meta(meta).map(Self::Value),
            KIND_REMOVED => from_meta(meta).map(Self::Removed),
            KIND_LEASES => from_meta(meta).map(Self::Leases),
            _ => return Err(newer(item)),
        })
    }

    /// The kind, version and meta to write.
    ///
    /// # Errors
    /// If a field cannot be encoded, which no field of these types does.
    pub fn encode(&self) -> Result<(Tag, Vec<u8>)> {
        let (kind, meta) = match self {
            Self::Blob(id, BlobKind::Body) => (KIND_BLOB, id.0.to_vec()),
            Self::Blob(id, kind) => {
                let mut meta = id.0.to_vec();
                meta.push(if *kind == BlobKind::Part { PART } else { MANIFEST });
                kind.references().iter().for_each(|name| meta.extend_from_slice(&name.0));
                return Ok((Tag { kind: KIND_BLOB, version: KINDLED_BLOB_VERSION }, meta));
            }
            Self::Entry(record) => (KIND_ENTRY, to_meta(record)?),
            Self::Retire(record) => (KIND_RETIRE, to_meta(record)?),
            Self::Forget(record) => (KIND_FORGET, to_meta(record)?),
            Self::Value(record) => (KIND_VALUE, to_meta(record)?),
            Self::Removed(record) => (KIND_REMOVED, to_meta(record)?),
            Self::Leases(names) => (KIND_LEASES, to_meta(names)?),
            Self::Skipped => (SKIPPABLE, Vec::new()),
        };
        Ok((Tag { kind, version: RECORD_VERSION }, meta))
    }
}

/// What an item says of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub kind: u8,
    pub version: u8,
}

const MANIFEST: u8 = 1;
const PART: u8 = 2;

/// A body that is a part, or names parts.
fn kindled(meta: &[u8]) -> Option<Record> {
    let (name, rest) = meta.split_first_chunk::<32>()?;
    let kind = match rest.split_first()? {
        (&PART, []) => BlobKind::Part,
        (&MANIFEST, names) => BlobKind::Manifest(names_of(names)?),
        _ => return None,
    };
    Some(Record::Blob(BlobId(*name), kind))
}

fn newer(item: &Item) -> Error {
    Error::Open(format!(
        "the log has a record of kind {} version {}, which this version of Prickle does not know; run a newer one",
        item.kind, item.version
    ))
}

fn from_meta<T: DeserializeOwned>(meta: &[u8]) -> Option<T> {
    postcard::from_bytes(meta).ok()
}

fn to_meta<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    postcard::to_extend(record, Vec::with_capacity(320)).map_err(Error::index)
}

/// One record of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    pub kind: u8,
    pub version: u8,
    pub last_of_commit: bool,
    pub meta_length: u32,
    pub body_length: u32,
    pub meta_crc: u32,
    pub body_crc: u32,
}

impl Item {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        let [kind, version] = fields.take::<2>()?;
        let flags = u16::from_le_bytes(fields.take()?);
        Some(Self {
            kind,
            version,
            last_of_commit: flags & LAST_OF_COMMIT != 0,
            meta_length: fields.u32()?,
            body_length: fields.u32()?,
            meta_crc: fields.u32()?,
            body_crc: fields.u32()?,
        })
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&[self.kind, self.version]);
        into.extend_from_slice(&u16::from(self.last_of_commit).to_le_bytes());
        for field in [self.meta_length, self.body_length, self.meta_crc, self.body_crc, 0] {
            into.extend_from_slice(&field.to_le_bytes());
        }
    }

    /// What the record takes of the log.
    pub const fn bytes(&self) -> u64 {
        ITEM as u64 + self.meta_length as u64 + self.body_length as u64
    }
}

/// The first bytes of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub number: u64,
    pub created: u64,
    /// Of its first group.
    pub sequence: u64,
    pub previous: Chain,
}

impl SegmentHeader {
    pub fn to_bytes(self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.created.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[40..].copy_from_slice(&self.previous);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// None: not the whole header of a segment.
    ///
    /// # Errors
    /// [`Error::Open`] if a newer version of Prickle wrote it.
    pub fn parse(bytes: &[u8; SEGMENT_HEADER]) -> Result<Option<Self>> {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..]);
        let mut fields = Fields(bytes);
        let parsed = (|| {
            let magic = fields.take::<8>()?;
            let version = fields.u32()?;
            let stored = fields.u32()?;
            let header = Self {
                number: fields.u64()?,
                created: fields.u64()?,
                sequence: fields.u64()?,
                previous: fields.take()?,
            };
            (magic == SEGMENT_MAGIC && stored == crc).then_some((version, header))
        })();
        match parsed {
            Some((version, _)) if version != SEGMENT_VERSION => Err(Error::Open(format!(
                "the log has format {version}, this version of Prickle reads {SEGMENT_VERSION}; run a newer one"
            ))),
            other => Ok(other.map(|(_, header)| header)),
        }
    }
}

/// The first bytes of a group; the table above says what the fields are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHeader {
    pub segment: u64,
    pub position: u64,
    pub sequence: u64,
    pub time: u64,
    pub records: u32,
    pub metas: u32,
    pub bodies: u64,
    pub items_crc: u32,
    pub previous: Chain,
}

impl GroupHeader {
    pub fn to_bytes(self) -> [u8; GROUP_HEADER] {
        let mut bytes = [0; GROUP_HEADER];
        bytes[..4].copy_from_slice(&GROUP_MAGIC);
        bytes[4] = GROUP_VERSION;
        for (at, field) in
            [(8, self.segment), (16, self.position), (24, self.sequence), (32, self.time), (48, self.bodies)]
        {
            bytes[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        for (at, field) in [(40, self.records), (44, self.metas), (56, self.items_crc)] {
            bytes[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
        bytes[64..].copy_from_slice(&self.previous);
        let crc = Self::crc(&bytes);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn crc(bytes: &[u8; GROUP_HEADER]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..60]), &bytes[64..])
    }

    /// None if these bytes are no whole header of a group that was written at `position` of `segment`.
    pub fn parse(bytes: &[u8; GROUP_HEADER], segment: u64, position: u64) -> Option<Self> {
        let mut fields = Fields(bytes);
        if fields.take::<4>()? != GROUP_MAGIC || fields.take::<4>()? != [GROUP_VERSION, 0, 0, 0] {
            return None;
        }
        let (at_segment, at_position) = (fields.u64()?, fields.u64()?);
        let (sequence, time) = (fields.u64()?, fields.u64()?);
        let (records, metas, bodies) = (fields.u32()?, fields.u32()?, fields.u64()?);
        let (items_crc, crc, previous) = (fields.u32()?, fields.u32()?, fields.take()?);
        let header = Self {
            segment: at_segment,
            position: at_position,
            sequence,
            time,
            records,
            metas,
            bodies,
            items_crc,
            previous,
        };
        let right = crc == Self::crc(bytes) && at_segment == segment && at_position == position;
        right.then_some(header)
    }

    /// Could a header start with these bytes? For searches.
    pub fn starts_like(bytes: &[u8]) -> bool {
        bytes.starts_with(&GROUP_MAGIC)
    }

    pub fn items_length(&self) -> u64 {
        u64::from(self.records) * ITEM as u64
    }

    /// Length with padding; None if it overflows.
    pub fn length(&self) -> Option<u64> {
        let tail = u64::from(self.metas) + self.items_length();
        let length = (GROUP_HEADER as u64).checked_add(self.bodies)?.checked_add(tail)?;
        length.checked_next_multiple_of(ALIGNMENT as u64)
    }

    /// The hash of the group whose metas and items are `tail`.
    pub fn chain(&self, tail: &[u8]) -> Chain {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.to_bytes());
        hasher.update(tail);
        *hasher.finalize().as_bytes()
    }
}

/// Collects the records of a group. Bodies come first on disk, so that where they will be is known at once.
#[derive(Debug, Default)]
pub struct GroupBuilder {
    bodies: Vec<Bytes>,
    body_bytes: u64,
    metas: Vec<u8>,
    items: Vec<Item>,
}

/// A group ready to be written: header, bodies, tail, in this order.
pub struct SealedGroup {
    pub header: [u8; GROUP_HEADER],
    pub bodies: Vec<Bytes>,
    pub tail: Vec<u8>,
    pub length: u64,
    pub chain: Chain,
}

impl GroupBuilder {
    /// Where the next body goes, from the beginning of the group.
    pub const fn next_body(&self) -> u64 {
        GROUP_HEADER as u64 + self.body_bytes
    }

    pub fn records(&self) -> u32 {
        self.items.len() as u32
    }

    /// Adds a record; returns its number in the group and what it takes of the log. `body`: with its CRC32C.
    pub fn push(&mut self, tag: Tag, meta: &[u8], body: Option<(Bytes, u32)>) -> (u32, u64) {
        let (body, body_crc) = body.unwrap_or_default();
        let item = Item {
            kind: tag.kind,
            version: tag.version,
            last_of_commit: false,
            meta_length: meta.len() as u32,
            body_length: body.len() as u32,
            meta_crc: crc32c::crc32c(meta),
            body_crc,
        };
        self.metas.extend_from_slice(meta);
        self.body_bytes += body.len() as u64;
        if !body.is_empty() {
            self.bodies.push(body);
        }
        let ordinal = self.records();
        self.items.push(item);
        (ordinal, item.bytes())
    }

    /// The records since the last call are one commit.
    pub fn end_commit(&mut self) {
        if let Some(item) = self.items.last_mut() {
            item.last_of_commit = true;
        }
    }

    pub fn seal(self, segment: u64, position: u64, sequence: u64, time: u64, previous: Chain) -> SealedGroup {
        let metas = self.metas.len() as u32;
        let records = self.records();
        let mut tail = self.metas;
        tail.reserve(self.items.len() * ITEM + ALIGNMENT);
        let items_at = tail.len();
        for item in &self.items {
            item.write(&mut tail);
        }
        let items_crc = crc32c::crc32c(tail.get(items_at..).unwrap_or_default());
        let header = GroupHeader {
            segment,
            position,
            sequence,
            time,
            records,
            metas,
            bodies: self.body_bytes,
            items_crc,
            previous,
        };
        let chain = header.chain(&tail);
        let unpadded = GROUP_HEADER as u64 + self.body_bytes + tail.len() as u64;
        let length = unpadded.next_multiple_of(ALIGNMENT as u64);
        tail.resize(tail.len() + (length - unpadded) as usize, 0);
        SealedGroup { header: header.to_bytes(), bodies: self.bodies, tail, length, chain }
    }
}

/// Takes fixed-size fields off the front of a slice.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> SealedGroup {
        let mut builder = GroupBuilder::default();
        let body = Bytes::from_static(b"ciphertext");
        let crc = crc32c::crc32c(&body);
        let (tag, meta) = Record::Blob(BlobId::of(&body), BlobKind::Body).encode().unwrap();
        builder.push(tag, &meta, Some((body, crc)));
        let forget = Record::Forget(ForgetRecord { user: UserId(1), entry: EntryId(2), first: 3 });
        let (tag, meta) = forget.encode().unwrap();
        builder.push(tag, &meta, None);
        builder.end_commit();
        builder.seal(4, 72, 9, 1_000, [5; 32])
    }

    #[test]
    fn a_header_is_read_back_only_where_it_was_written() {
        let group = sealed();
        let header = GroupHeader::parse(&group.header, 4, 72).unwrap();
        assert_eq!((header.sequence, header.records, header.bodies), (9, 2, 10));
        assert_eq!(header.length(), Some(group.length));
        assert!(GroupHeader::parse(&group.header, 5, 72).is_none());
        assert!(GroupHeader::parse(&group.header, 4, 80).is_none());
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let group = sealed();
        let segment = SegmentHeader { number: 4, created: 1, sequence: 9, previous: [5; 32] }.to_bytes();
        for bit in 0..GROUP_HEADER * 8 {
            let mut bytes = group.header;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(GroupHeader::parse(&bytes, 4, 72).is_none(), "bit {bit}");
        }
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut bytes = segment;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&bytes).unwrap().is_none(), "bit {bit}");
        }
    }

    #[test]
    fn a_later_format_is_refused_and_a_skippable_kind_skipped() {
        let item = |kind, version| Item {
            kind,
            version,
            last_of_commit: true,
            meta_length: 0,
            body_length: 0,
            meta_crc: 0,
            body_crc: 0,
        };
        assert!(matches!(Record::decode(&item(7, 1), b""), Err(Error::Open(_))));
        assert!(matches!(Record::decode(&item(2, 2), b""), Err(Error::Open(_))));
        assert!(matches!(Record::decode(&item(1, 3), b""), Err(Error::Open(_))));
        assert_eq!(Record::decode(&item(200, 9), b"").unwrap(), Some(Record::Skipped));
        assert_eq!(Record::decode(&item(2, 1), b"\xff").unwrap(), None);
    }

    #[test]
    fn a_body_of_each_kind_is_read_back_and_a_damaged_one_is_none() {
        let names = vec![BlobId([1; 32]), BlobId([2; 32])];
        for kind in [BlobKind::Body, BlobKind::Part, BlobKind::Manifest(names)] {
            let record = Record::Blob(BlobId([9; 32]), kind);
            let (tag, meta) = record.encode().unwrap();
            let item = Item {
                kind: tag.kind,
                version: tag.version,
                last_of_commit: true,
                meta_length: meta.len() as u32,
                body_length: 0,
                meta_crc: 0,
                body_crc: 0,
            };
            assert_eq!(Record::decode(&item, &meta).unwrap(), Some(record));
            assert_eq!(Record::decode(&item, &meta[..meta.len() - 1]).unwrap(), None);
        }
    }

    #[test]
    fn the_hash_of_a_group_depends_on_the_one_before() {
        let one = sealed();
        let header = GroupHeader::parse(&one.header, 4, 72).unwrap();
        let other = GroupHeader { previous: [6; 32], ..header };
        assert_ne!(header.chain(&one.tail), other.chain(&one.tail));
    }
}
