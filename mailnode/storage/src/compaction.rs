//! Rewriting segments with little left alive, and the thread that does it.
//!
//! What is alive goes through the normal commit path to the end of the log; the writer checks that it still is.
//! Only when all of it is on disk a record says that the segment is removed, and only when that record and the
//! index are on disk the file goes. A crash in between leaves the file, and the next start removes it.
//!
//! A deletion is alive as long as an older segment exists that may have a record of what was deleted, or
//! a rebuild of the index would bring it back. An acknowledgement (retire) is not moved: the entry is written
//! again without it.

use crate::collect::collect;
use crate::error::{Error, Result};
use crate::prepare::Operation;
use crate::record::{KIND_BLOB, Record, RemovedRecord, SEGMENT_HEADER};
use crate::rows::{BLOBS, BlobRow, EntryRow, Place, ValueRow, blob_key, blob_of_key, entry_key, value_key};
use crate::scan::{Found, Group, PlacedItem, SegmentReader};
use crate::segments::file_name;
use crate::shared::Shared;
use crate::threads::commit;
use cluster::{BlobId, BlobKind, EntryId, UserId};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// What is moved with one commit.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_OPERATIONS: usize = 4_096;
/// Time between two looks for work.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One pass, unthrottled.
pub fn maintain(shared: &Shared) -> Result<()> {
    let _alone = shared.maintenance();
    collect(shared)?;
    compact_all(shared, false)
}

/// Until the store is closed or fails.
pub fn keep_house(shared: &Arc<Shared>) {
    let mut collected = Instant::now();
    let mut persisted = shared.writer().segment;
    while !shared.pause(LOOK_EVERY) && shared.failure().is_none() {
        let _alone = shared.maintenance();
        let mut outcome = Ok(());
        if collected.elapsed() >= shared.options.collect_interval {
            collected = Instant::now();
            outcome = collect(shared);
        }
        let segment = shared.writer().segment;
        if outcome.is_ok() && segment != persisted {
            // So that a start replays about a segment at most.
            persisted = segment;
            outcome = shared.index.persist();
        }
        match outcome.and_then(|()| compact_all(shared, true)) {
            Ok(()) | Err(Error::Closed) => {}
            Err(error) => tracing::warn!(%error, "maintenance of the log"),
        }
    }
}

fn compact_all(shared: &Shared, throttled: bool) -> Result<()> {
    for segment in candidates(shared) {
        let mut compaction = Compaction {
            shared,
            reader: reader(shared, segment)?,
            operations: Vec::new(),
            bytes: 0,
            throttled,
            damaged: false,
        };
        if !compaction.run()? {
            return Ok(());
        }
    }
    Ok(())
}

/// Segments to rewrite, the emptiest first.
fn candidates(shared: &Shared) -> Vec<u64> {
    let active = shared.writer().segment;
    let lengths = shared.segments.lengths();
    let accounts = shared.accounts();
    let mut candidates: Vec<(u64, u64)> = lengths
        .into_iter()
        .filter(|&(segment, _)| segment != active)
        .filter_map(|(segment, length)| {
            let live = accounts.live.get(&segment).copied().unwrap_or_default();
            let percent = live.saturating_mul(100).checked_div(length).unwrap_or_default();
            (percent < shared.options.compact_below_percent.into()).then_some((percent, segment))
        })
        .collect();
    candidates.sort_unstable();
    candidates.into_iter().map(|(_, segment)| segment).collect()
}

fn reader(shared: &Shared, segment: u64) -> Result<SegmentReader> {
    let file = shared.segments.file(&*shared.disk, segment).map_err(Error::read)?;
    SegmentReader::new(segment, file)
}

struct Compaction<'a> {
    shared: &'a Shared,
    reader: SegmentReader,
    operations: Vec<Operation>,
    bytes: u64,
    throttled: bool,
    damaged: bool,
}

impl Compaction<'_> {
    /// False if the store is closing.
    fn run(&mut self) -> Result<bool> {
        let mut removed = RemovedRecord { segment: self.reader.number, sequence: 0, chain: [0; 32] };
        let mut offset = SEGMENT_HEADER as u64;
        while offset < self.reader.length {
            match self.reader.group(offset)? {
                Found::Group(group) => {
                    if !self.group(&group)? {
                        return Ok(true);
                    }
                    if self.throttle(group.end - offset)? {
                        return Ok(false);
                    }
                    (removed.sequence, removed.chain) = (group.header.sequence, group.chain);
                    offset = group.end;
                }
                _ => {
                    self.found_damage(offset);
                    removed.chain = [0; 32];
                    match self.reader.search(offset + 8, 0)? {
                        Some(next) => offset = next,
                        None => break,
                    }
                }
            }
        }
        let written = self.shared.segments.lengths().get(&self.reader.number).copied();
        if self.damaged || written.is_some_and(|written| self.reader.length < written) {
            self.rescue()?;
        }
        self.flush()?;
        self.remove(removed)?;
        Ok(true)
    }

    fn found_damage(&mut self, offset: u64) {
        tracing::warn!(segment = self.reader.number, offset, "damage found by compaction");
        self.shared.counters.found_corrupt(1);
        self.damaged = true;
    }

    /// False if the segment has records of a later version, of which we cannot say whether they are alive.
    fn group(&mut self, group: &Group) -> Result<bool> {
        for (ordinal, item) in group.items.iter().enumerate() {
            let place = Place {
                segment: self.reader.number,
                sequence: group.header.sequence,
                ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
            };
            match group.record(item)? {
                Some((Record::Skipped, _)) => return Ok(false),
                Some((record, _)) => self.record(record, place, item)?,
                None => self.found_damage(item.body_at),
            }
        }
        Ok(true)
    }

    fn record(&mut self, record: Record, place: Place, item: &PlacedItem) -> Result<()> {
        let segments = &self.shared.segments;
        match record {
            Record::Blob(id, kind) => {
                if self.blob(id)?.is_some_and(|row| row.place == place) {
                    debug_assert_eq!(item.item.kind, KIND_BLOB);
                    match self.reader.body(item)? {
                        Some(body) => {
                            let (body, crc) = (body.into(), item.item.body_crc);
                            self.push(Operation::MoveBlob { id, kind, from: place, body, crc })?;
                        }
                        None => self.lose(id, place)?,
                    }
                }
            }
            Record::Entry(record) => {
                let (user, entry) = (record.entry.user, record.entry.id);
                if self.entry(user, entry)?.is_some_and(|row| row.place == place) {
                    self.push(Operation::MoveEntry { user, entry, from: place })?;
                }
            }
            Record::Retire(record) => {
                for (user, entry, digest) in record.entries {
                    let older = |row: &EntryRow| row.digest == digest && row.place.segment < place.segment;
                    if let Some(row) = self.entry(user, entry)?.filter(older) {
                        self.push(Operation::MoveEntry { user, entry, from: row.place })?;
                    }
                }
            }
            Record::Forget(record) => {
                if segments.any_in(record.first..place.segment) {
                    let (user, entry, first) = (record.user, record.entry, record.first);
                    self.push(Operation::KeepForget { user, entry, first })?;
                }
            }
            Record::Value(record) => {
                let (key, first) = (record.key, record.first);
                if record.value.is_none() {
                    if segments.any_in(first..place.segment) {
                        self.push(Operation::KeepDeletion { key, first })?;
                    }
                } else if self.value(&key)?.is_some_and(|row| row.place == place) {
                    self.push(Operation::MoveValue { key, from: place })?;
                }
            }
            Record::Removed(record) => {
                if segments.any_in(record.segment + 1..record.segment + 2) {
                    self.push(Operation::KeepRemoved(record))?;
                }
            }
            // Without it a rebuild gives no shorter lease.
            Record::Leases(_) | Record::Skipped => {}
        }
        Ok(())
    }

    fn lose(&mut self, id: BlobId, from: Place) -> Result<()> {
        tracing::error!(blob = ?id, segment = from.segment, "a body is damaged; another replica has it");
        self.shared.counters.found_corrupt(1);
        self.push(Operation::LoseBlob { id, from })
    }

    /// Some records cannot be read: what the index knows of this segment is written again from there.
    fn rescue(&mut self) -> Result<()> {
        let number = self.reader.number;
        let (mut entries, mut values, mut blobs) = (Vec::new(), Vec::new(), Vec::new());
        let index = &self.shared.index;
        index.scan(b"e", b"e", &mut |_, row| {
            let row = EntryRow::parse(row).ok().filter(|row| row.place.segment == number);
            entries.extend(row.map(|row| (row.entry.user, row.entry.id, row.place)));
            true
        })?;
        index.scan(b"r", b"r", &mut |key, row| {
            let row = ValueRow::parse(row).ok().filter(|row| row.place.segment == number);
            values.extend(row.map(|row| (key.get(1..).unwrap_or_default().to_vec(), row.place)));
            true
        })?;
        index.scan(BLOBS, BLOBS, &mut |key, row| {
            let row = BlobRow::parse(row).ok().filter(|row| row.place.segment == number);
            blobs.extend(blob_of_key(key).zip(row));
            true
        })?;
        for (user, entry, from) in entries {
            self.push(Operation::MoveEntry { user, entry, from })?;
        }
        for (key, from) in values {
            self.push(Operation::MoveValue { key: key.into(), from })?;
        }
        for (id, row) in blobs {
            let mut body = vec![0; row.length as usize];
            let read = self.reader.file.read_at(row.offset, &mut body).map_err(Error::read)?;
            let (from, crc) = (row.place, row.crc);
            if read == body.len() && crc32c::crc32c(&body) == crc {
                let kind = BlobKind::of(&body);
                self.push(Operation::MoveBlob { id, kind, from, body: body.into(), crc })?;
            } else {
                self.lose(id, from)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, operation: Operation) -> Result<()> {
        self.bytes += operation.most_bytes();
        self.operations.push(operation);
        if self.bytes >= BATCH_BYTES || self.operations.len() >= BATCH_OPERATIONS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        let operations = std::mem::take(&mut self.operations);
        if !operations.is_empty() {
            commit(self.shared, operations)?;
        }
        Ok(())
    }

    /// Waits as long as so many bytes may take; true if the store is closing.
    fn throttle(&self, bytes: u64) -> Result<bool> {
        let rate = f64::from(self.shared.options.compact_bytes_per_second.max(1));
        Ok(self.throttled && self.shared.pause(Duration::from_secs_f64(bytes as f64 / rate)))
    }

    fn remove(&self, record: RemovedRecord) -> Result<()> {
        let shared = self.shared;
        let segment = record.segment;
        commit(shared, vec![Operation::RemoveSegment(record)])?;
        shared.index.persist()?;
        let outcome = shared.disk.remove(&file_name(segment)).and_then(|()| shared.disk.sync_directory());
        if let Err(error) = outcome {
            // Which files there are is not known any more.
            let error = Error::ReadOnly(error.to_string().into());
            shared.fail(&error);
            return Err(error);
        }
        shared.segments.removed(segment);
        shared.counters.fsyncs.fetch_add(1, Relaxed);
        shared.counters.compacted_bytes.fetch_add(self.reader.length, Relaxed);
        commit(shared, vec![Operation::SegmentGone(segment)]).map(|_| ())
    }

    fn entry(&self, user: UserId, entry: EntryId) -> Result<Option<EntryRow>> {
        self.shared.index.read(&entry_key(user, entry))?.map(|row| EntryRow::parse(&row)).transpose()
    }

    fn blob(&self, id: BlobId) -> Result<Option<BlobRow>> {
        self.shared.index.read(&blob_key(id))?.map(|row| BlobRow::parse(&row)).transpose()
    }

    fn value(&self, name: &[u8]) -> Result<Option<ValueRow>> {
        self.shared.index.read(&value_key(name))?.map(|row| ValueRow::parse(&row)).transpose()
    }
}
