//! What operations do to the log and the index. Two ways lead here, writing and replay, and both end in
//! [`Staging`]: [`Evaluation`] decides which records an operation writes, [`replay`] repeats what records did.

use crate::error::Result;
use crate::prepare::Operation;
use crate::record::{
    EntryRecord, ForgetRecord, GroupBuilder, Record, RemovedRecord, RetireRecord, ValueRecord,
};
use crate::rows::{BlobRow, EntryRow, Place, Role, ValueRow, removed_key};
use crate::scan::PlacedItem;
use crate::staging::Staging;
use crate::write::Outcome;
use bytes::Bytes;
use cluster::{BlobId, BlobKind, Entry, EntryId, NodeId, UserId};
use std::sync::Arc;

/// A group in the making.
pub struct Evaluation<'a> {
    pub staging: Staging<'a>,
    pub group: GroupBuilder,
    pub segment: u64,
    pub sequence: u64,
    /// Where in the segment the group will start.
    pub position: u64,
    /// Unix seconds.
    pub now: u64,
    /// [`crate::Options::witnessed_since`], now.
    pub witnessed_since: u64,
}

impl Evaluation<'_> {
    pub fn run(&mut self, operation: &Operation) -> Result<Outcome> {
        match operation {
            Operation::Blob { id, kind, body, crc } => self.blob(*id, kind, body, *crc),
            Operation::Entry { entry, pending } => self.entry(entry, pending),
            Operation::Retire { peer, entries } => self.retire(*peer, entries),
            Operation::Forget { user, entry } => self.forget(*user, *entry),
            Operation::Value { key, value } => self.value(key, value.as_ref()),
            Operation::Renew { ids } => self.renew(ids),
            other => self.maintain(other).map(|()| Outcome::Record),
        }
    }

    fn blob(&mut self, id: BlobId, kind: &BlobKind, body: &Bytes, crc: u32) -> Result<Outcome> {
        let stored = self.staging.blob(id)?.is_none();
        if stored {
            self.write_blob(id, kind, body, crc, (0, role(kind)))?;
            self.staging.renew(id);
        } else if *kind == BlobKind::Part {
            // Whoever brings it relies on its lease.
            self.renew(&[id])?;
        } else {
            self.staging.renew(id);
        }
        Ok(Outcome::Blob { stored })
    }

    /// `lease`: its end, and the role.
    fn write_blob(
        &mut self,
        id: BlobId,
        kind: &BlobKind,
        body: &Bytes,
        crc: u32,
        (due, role): (u64, Role),
    ) -> Result<()> {
        let offset = self.position + self.group.next_body();
        let (place, bytes) = self.push(&Record::Blob(id, kind.clone()), Some((body.clone(), crc)))?;
        let length = body.len() as u32;
        let row = BlobRow { place, offset, length, crc, bytes, due, role };
        self.staging.put_blob(id, row, kind.references())
    }

    fn renew(&mut self, ids: &[BlobId]) -> Result<Outcome> {
        let (mut here, mut missing) = (Vec::new(), Vec::new());
        for &id in ids {
            if self.staging.blob(id)?.is_some() {
                here.push(id);
                self.staging.renew(id);
            } else {
                missing.push(id);
            }
        }
        if !here.is_empty() {
            // The index alone could forget it in a crash. The record is dead at once.
            self.push(&Record::Leases(here), None)?;
        }
        Ok(Outcome::Renewed { missing })
    }

    fn entry(&mut self, entry: &Entry, pending: &[NodeId]) -> Result<Outcome> {
        let before = self.staging.entry(entry.user, entry.id)?;
        let mut merged = before.as_ref().map_or_else(|| entry.clone(), |row| row.entry.clone());
        if let Some(row) = &before
            && !merged.merge(entry)
        {
            return Ok(Outcome::Entry {
                changed: false,
                digest: row.digest,
                first_of_user: false,
                entry: Arc::new(merged),
            });
        }
        let mut waiting = before.as_ref().map(|row| row.pending.clone()).unwrap_or_default();
        waiting.extend_from_slice(pending);
        waiting.sort_unstable();
        waiting.dedup();
        let digest = merged.digest();
        let first_of_user = self.write_entry(before.as_ref(), waiting, merged.clone(), digest)?;
        Ok(Outcome::Entry { changed: true, digest, first_of_user, entry: Arc::new(merged) })
    }

    fn write_entry(
        &mut self,
        before: Option<&EntryRow>,
        pending: Vec<NodeId>,
        entry: Entry,
        digest: u64,
    ) -> Result<bool> {
        let record = Record::Entry(EntryRecord { pending, entry });
        let (tag, meta) = record.encode()?;
        let (ordinal, bytes) = self.group.push(tag, &meta, None);
        let place = self.place(ordinal);
        let Record::Entry(EntryRecord { pending, entry }) = record else { return Ok(false) };
        let first = before.map_or(self.segment, |row| row.first);
        let row = EntryRow { place, first, bytes, digest, pending, entry };
        self.staging.put_entry(before, &row, &meta)
    }

    fn retire(&mut self, peer: NodeId, entries: &[(UserId, EntryId, u64)]) -> Result<Outcome> {
        let mut retired = Vec::new();
        for &(user, entry, digest) in entries {
            if retire_row(&mut self.staging, peer, user, entry, digest)? {
                retired.push((user, entry, digest));
            }
        }
        let rows = retired.len();
        if rows > 0 {
            self.push(&Record::Retire(RetireRecord { peer, entries: retired }), None)?;
        }
        Ok(Outcome::Retired { rows })
    }

    fn forget(&mut self, user: UserId, entry: EntryId) -> Result<Outcome> {
        let Some(row) = self.staging.entry(user, entry)? else {
            return Ok(Outcome::Forgotten { existed: false, last_of_user: false });
        };
        self.keep(&Record::Forget(ForgetRecord { user, entry, first: row.first }))?;
        let last_of_user = self.staging.remove_entry(&row)?;
        Ok(Outcome::Forgotten { existed: true, last_of_user })
    }

    fn value(&mut self, key: &Bytes, value: Option<&Bytes>) -> Result<Outcome> {
        let before = self.staging.value(key)?;
        let first = before.as_ref().map_or(self.segment, |row| row.first);
        match value {
            Some(value) if before.as_ref().is_some_and(|row| row.value == value) => {}
            Some(value) => self.write_value(key, before.as_ref(), value, first)?,
            None if before.is_none() => {}
            None => {
                self.keep(&Record::Value(ValueRecord { key: key.clone(), value: None, first }))?;
                self.staging.put_value(key, before.as_ref(), None);
            }
        }
        Ok(Outcome::Record)
    }

    fn write_value(
        &mut self,
        key: &Bytes,
        before: Option<&ValueRow>,
        value: &Bytes,
        first: u64,
    ) -> Result<()> {
        let record = ValueRecord { key: key.clone(), value: Some(value.clone()), first };
        let (place, bytes) = self.push(&Record::Value(record), None)?;
        let row = ValueRow { place, first, bytes, value: value.clone() };
        self.staging.put_value(key, before, Some(&row));
        Ok(())
    }

    fn maintain(&mut self, operation: &Operation) -> Result<()> {
        match operation {
            Operation::MoveBlob { id, kind, from, body, crc } => match self.staging.blob(*id)? {
                Some(row) if row.place == *from => {
                    self.write_blob(*id, kind, body, *crc, (row.due, row.role))
                }
                _ => Ok(()),
            },
            Operation::MoveEntry { user, entry, from } => match self.staging.entry(*user, *entry)? {
                Some(row) if row.place == *from => {
                    let (pending, entry) = (row.pending.clone(), row.entry.clone());
                    self.write_entry(Some(&row), pending, entry, row.digest).map(|_| ())
                }
                _ => Ok(()),
            },
            Operation::MoveValue { key, from } => match self.staging.value(key)? {
                Some(row) if row.place == *from => {
                    self.write_value(key, Some(&row), &row.value.clone(), row.first)
                }
                _ => Ok(()),
            },
            Operation::KeepForget { user, entry, first } => match self.staging.entry(*user, *entry)? {
                Some(row) => self.staging.note_first_of_entry(row, *first),
                None => {
                    self.keep(&Record::Forget(ForgetRecord { user: *user, entry: *entry, first: *first }))
                }
            },
            Operation::KeepDeletion { key, first } => match self.staging.value(key)? {
                Some(row) => {
                    self.staging.note_first_of_value(key, row, *first);
                    Ok(())
                }
                None => {
                    self.keep(&Record::Value(ValueRecord { key: key.clone(), value: None, first: *first }))
                }
            },
            Operation::KeepRemoved(record) => self.keep(&Record::Removed(*record)),
            Operation::RemoveSegment(record) => {
                self.keep(&Record::Removed(*record))?;
                self.staging.remove_segment(record.segment);
                Ok(())
            }
            Operation::SegmentGone(segment) => {
                self.staging.remove(removed_key(*segment));
                Ok(())
            }
            Operation::LoseBlob { id, from } => {
                if let Some(row) = self.staging.blob(*id)?.filter(|row| row.place == *from) {
                    self.staging.remove_blob(*id, &row)?;
                }
                Ok(())
            }
            Operation::CollectBlob { id, due } => {
                let over = |row: &BlobRow| row.role != Role::Part && self.is_over(row, *due);
                if let Some(row) = self.staging.blob(*id)?.filter(over) {
                    self.staging.remove_blob(*id, &row)?;
                }
                Ok(())
            }
            Operation::TrashPart { id, due, until } => {
                let over = |row: &BlobRow| row.role == Role::Part && self.is_over(row, *due);
                if let Some(row) = self.staging.blob(*id)?.filter(over) {
                    self.staging.trash(*id, row, *until);
                }
                Ok(())
            }
            Operation::CollectTombstone { user, entry } => {
                let row = self.staging.entry(*user, *entry)?;
                let goes = |row: EntryRow| {
                    !self.staging.holds(&row.entry) && !self.staging.is_awaited(&row, self.witnessed_since)
                };
                if row.is_some_and(goes) {
                    self.forget(*user, *entry)?;
                }
                Ok(())
            }
            // Operations of callers were handled before.
            _ => Ok(()),
        }
    }

    const fn is_over(&self, row: &BlobRow, due: u64) -> bool {
        row.due == due && row.due != 0 && row.due <= self.now
    }

    /// Writes a record that has no row of its own.
    fn keep(&mut self, record: &Record) -> Result<()> {
        let (place, bytes) = self.push(record, None)?;
        self.staging.keep(place.segment, bytes);
        Ok(())
    }

    fn push(&mut self, record: &Record, body: Option<(Bytes, u32)>) -> Result<(Place, u64)> {
        let (tag, meta) = record.encode()?;
        let (ordinal, bytes) = self.group.push(tag, &meta, body);
        Ok((self.place(ordinal), bytes))
    }

    const fn place(&self, ordinal: u32) -> Place {
        Place { segment: self.segment, sequence: self.sequence, ordinal }
    }
}

/// How a blob lives that is new here.
const fn role(kind: &BlobKind) -> Role {
    match kind {
        BlobKind::Body | BlobKind::Manifest(_) => Role::Body,
        BlobKind::Part => Role::Part,
    }
}

/// Does to the index what writing the record did. `meta`: of the record.
pub fn replay(
    staging: &mut Staging<'_>,
    record: Record,
    meta: &[u8],
    place: Place,
    item: &PlacedItem,
) -> Result<()> {
    let bytes = item.item.bytes();
    match record {
        Record::Blob(id, kind) => {
            let (due, role) = staging.blob(id)?.map_or((0, role(&kind)), |row| (row.due, row.role));
            let (length, crc) = (item.item.body_length, item.item.body_crc);
            let row = BlobRow { place, offset: item.body_at, length, crc, bytes, due, role };
            staging.put_blob(id, row, kind.references())?;
            staging.renew(id);
            Ok(())
        }
        Record::Entry(EntryRecord { pending, entry }) => {
            let before = staging.entry(entry.user, entry.id)?;
            let first = before.as_ref().map_or(place.segment, |row| row.first);
            let row = EntryRow { place, first, bytes, digest: entry.digest(), pending, entry };
            staging.put_entry(before.as_ref(), &row, meta).map(|_| ())
        }
        Record::Retire(RetireRecord { peer, entries }) => {
            for (user, entry, digest) in entries {
                retire_row(staging, peer, user, entry, digest)?;
            }
            Ok(())
        }
        Record::Forget(ForgetRecord { user, entry, .. }) => {
            staging.keep(place.segment, bytes);
            match staging.entry(user, entry)? {
                Some(row) => staging.remove_entry(&row).map(|_| ()),
                None => Ok(()),
            }
        }
        Record::Value(ValueRecord { key, value, first }) => {
            let before = staging.value(&key)?;
            let row = value.map(|value| ValueRow { place, first, bytes, value });
            if row.is_none() {
                staging.keep(place.segment, bytes);
            }
            staging.put_value(&key, before.as_ref(), row.as_ref());
            Ok(())
        }
        Record::Removed(RemovedRecord { segment, .. }) => {
            staging.keep(place.segment, bytes);
            staging.remove_segment(segment);
            Ok(())
        }
        Record::Leases(ids) => {
            ids.into_iter().for_each(|id| staging.renew(id));
            Ok(())
        }
        Record::Skipped => {
            staging.keep(place.segment, bytes);
            Ok(())
        }
    }
}

/// True if the peer waited for this version of the entry.
fn retire_row(
    staging: &mut Staging<'_>,
    peer: NodeId,
    user: UserId,
    entry: EntryId,
    digest: u64,
) -> Result<bool> {
    let Some(before) = staging.entry(user, entry)? else { return Ok(false) };
    if before.digest != digest || !before.pending.contains(&peer) {
        return Ok(false);
    }
    let mut row = before.clone();
    row.pending.retain(|&waiting| waiting != peer);
    let record = EntryRecord { pending: row.pending, entry: row.entry };
    let meta = postcard::to_stdvec(&record).map_err(crate::error::Error::index)?;
    row.pending = record.pending;
    row.entry = record.entry;
    staging.put_entry(Some(&before), &row, &meta)?;
    Ok(true)
}
