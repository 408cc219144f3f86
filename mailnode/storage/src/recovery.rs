//! What a start does: finds the end of the log, brings the index up to it, and tells a torn tail from damage.
//!
//! A group is written only after the one before was flushed. So a damaged group that anything follows (a later
//! group, a later segment file) was acknowledged once, and so was one that the index has seen: that is damage;
//! what is readable of it is used, the rest is reported. A damaged group at the very end that the index has not
//! seen was, as far as anybody can know, never acknowledged: it is cut off whole.
//!
//! The last group is written and flushed again before anything is served: it may be whole only in the kernel's
//! memory, and a flush of pages that the kernel believes clean does nothing.

use crate::disk::{Disk, DiskFile};
use crate::dump::numbers;
use crate::error::{Error, Result};
use crate::evaluate::replay;
use crate::index::Index;
use crate::options::Options;
use crate::record::{Chain, KIND_BLOB, Record, SEGMENT_HEADER};
use crate::rows::{
    BLOBS, BlobRow, COUNTS, DIGESTS, PART_TOTALS, POSITION, PartTotals, Place, Position, REMOVED, SEGMENTS,
    blob_of_key, number, number_of_key, parse_digest_key, removed_key,
};
use crate::scan::{Found, Group, SegmentReader};
use crate::segments::{Segments, file_name};
use crate::staging::{Accounts, Due, Staging};
use crate::writer::Writer;
use cluster::NodeId;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows of the index that replay applies at once, in bytes.
const BATCH_BYTES: usize = 4 << 20;

/// What the start found.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    pub segments: u64,
    /// The index was missing, of another format, or not of this log.
    pub index_rebuilt: bool,
    pub groups_replayed: u64,
    pub records_replayed: u64,
    /// Of a group at the end that was never acknowledged.
    pub bytes_cut: u64,
    /// Records of acknowledged groups that could not be read. Other replicas have them.
    pub corrupt_records: u64,
    /// Segment files that the index knows and the disk does not have.
    pub segments_missing: u64,
    pub took: Duration,
}

/// What a store starts with.
pub struct Recovered {
    pub segments: Segments,
    pub writer: Writer,
    pub accounts: Accounts,
    pub recovery: Recovery,
}

/// # Errors
/// [`Error::Open`] if the log is of a newer version; otherwise if the disk or the index fails.
pub fn recover(disk: &dyn Disk, index: &dyn Index, options: &Options) -> Result<Recovered> {
    let begun = Instant::now();
    let mut numbers = numbers(disk)?;
    let mut recovery = Recovery::default();
    let claimed = index.read(POSITION)?.and_then(|row| Position::parse(&row));
    let known = match claimed {
        Some(position) if agrees(disk, index, &numbers, position, &mut recovery)? => Some(position),
        _ => None,
    };
    let due = options.due(options.clock.unix_seconds());
    let accounts = if known.is_some() {
        load_accounts(index)?
    } else {
        recovery.index_rebuilt = !numbers.is_empty() || index.read(POSITION)?.is_some();
        index.clear()?;
        Accounts::default()
    };
    let mut walk = Walk {
        disk,
        index,
        due,
        node: options.node,
        staging: Staging::new(index, options.node, due),
        accounts,
        claimed,
        position: known,
        recovery,
        segments: Segments::default(),
    };
    let writer = walk.run(&numbers)?;
    let Walk { segments, accounts, mut recovery, .. } = walk;
    finish_removals(disk, index, &mut numbers)?;
    let gone = |number: &u64| !numbers.contains(number) && *number != writer.segment;
    segments.numbers().into_iter().filter(gone).for_each(|number| segments.removed(number));
    recovery.segments = numbers.len() as u64;
    recovery.took = begun.elapsed();
    Ok(Recovered { segments, writer, accounts, recovery })
}

/// Removes the files of segments that compaction emptied.
fn finish_removals(disk: &dyn Disk, index: &dyn Index, numbers: &mut Vec<u64>) -> Result<()> {
    let mut removed = Vec::new();
    index.scan(REMOVED, REMOVED, &mut |key, _| {
        removed.extend(number_of_key(key));
        true
    })?;
    if removed.is_empty() {
        return Ok(());
    }
    // The rows may be newer than what is durable of the index.
    index.persist()?;
    for &segment in &removed {
        if numbers.contains(&segment) {
            disk.remove(&file_name(segment)).map_err(Error::read)?;
            numbers.retain(|&number| number != segment);
        }
    }
    disk.sync_directory().map_err(Error::read)?;
    index.apply(&mut removed.into_iter().map(|segment| (removed_key(segment), None)))
}

/// Is the index one of this log, as it was at this position?
fn agrees(
    disk: &dyn Disk,
    index: &dyn Index,
    numbers: &[u64],
    position: Position,
    recovery: &mut Recovery,
) -> Result<bool> {
    let mut missing = 0;
    index.scan(SEGMENTS, SEGMENTS, &mut |key, _| {
        missing += u64::from(number_of_key(key).is_none_or(|number| !numbers.contains(&number)));
        true
    })?;
    recovery.segments_missing = missing;
    if missing > 0 || !numbers.contains(&position.segment) {
        tracing::warn!(missing, "segments of the log that the index knows are gone; rebuilding the index");
        return Ok(false);
    }
    let file = disk.open(&file_name(position.segment)).map_err(Error::read)?;
    let same = match SegmentReader::new(position.segment, file)?.group(position.start)? {
        Found::Group(group) => group.chain == position.chain && group.end == position.end,
        _ => false,
    };
    if !same {
        tracing::warn!("the log does not continue where the index ends; rebuilding the index");
    }
    Ok(same)
}

fn load_accounts(index: &dyn Index) -> Result<Accounts> {
    let mut accounts = Accounts::default();
    index.scan(SEGMENTS, SEGMENTS, &mut |key, row| {
        accounts.live.extend(number_of_key(key).zip(number(row)));
        true
    })?;
    index.scan(COUNTS, COUNTS, &mut |key, row| {
        accounts.pending.extend(number_of_key(key).map(NodeId).zip(number(row)));
        true
    })?;
    index.scan(DIGESTS, DIGESTS, &mut |key, row| {
        if let Some(((peer, bucket), leaf)) = parse_digest_key(key).zip(number(row)) {
            accounts.digests.entry(peer).or_default().toggle(bucket, leaf);
        }
        true
    })?;
    let parts = index.read(PART_TOTALS)?.and_then(|row| PartTotals::parse(&row));
    accounts.parts = parts.unwrap_or_default();
    Ok(accounts)
}

struct Walk<'a> {
    disk: &'a dyn Disk,
    index: &'a dyn Index,
    due: Due,
    node: Option<NodeId>,
    staging: Staging<'a>,
    accounts: Accounts,
    /// The last group that the index says it has, which was acknowledged for certain.
    claimed: Option<Position>,
    /// Of the last group that the index has or will have.
    position: Option<Position>,
    recovery: Recovery,
    segments: Segments,
}

/// The end of a segment, and the chain there.
struct End {
    offset: u64,
    sequence: u64,
    chain: Chain,
    /// Start of the last group.
    last: Option<u64>,
}

impl Walk<'_> {
    fn run(&mut self, numbers: &[u64]) -> Result<Writer> {
        let Some(&newest) = numbers.last() else {
            let segment = 1;
            return Ok(Writer { segment, file: None, end: 0, unnamed: true, sequence: 1, chain: [0; 32] });
        };
        let known = self.position;
        let mut end = End {
            offset: known.map_or(0, |position| position.end),
            sequence: known.map_or(0, |position| position.sequence) + 1,
            chain: known.map_or([0; 32], |position| position.chain),
            last: known.map(|position| position.start),
        };
        let mut newest_file = None;
        for &number in numbers {
            let file = self.disk.open(&file_name(number)).map_err(Error::read)?;
            let reader = SegmentReader::new(number, file.clone())?;
            self.segments.grew(number, reader.length);
            if known.is_some_and(|position| number < position.segment) {
                continue;
            }
            if known.is_none_or(|position| number > position.segment) {
                end = self.begin(&reader, number == newest, &end)?;
            }
            end = self.segment(&reader, number == newest, end)?;
            newest_file = Some(file);
        }
        self.flush()?;
        let Some(file) = newest_file else { return Err(Error::Open("no segment could be read".into())) };
        self.settle_end(&file, newest, &end)?;
        self.segments.grew(newest, end.offset);
        self.segments.opened(newest, file.clone());
        Ok(Writer {
            segment: newest,
            file: Some(file),
            end: end.offset,
            unnamed: false,
            sequence: end.sequence,
            chain: end.chain,
        })
    }

    fn begin(&mut self, reader: &SegmentReader, newest: bool, before: &End) -> Result<End> {
        let (mut sequence, mut chain) = (before.sequence, before.chain);
        match reader.header()? {
            Some(header) => {
                if header.sequence > sequence && before.last.is_some() {
                    // The end of the segment before is gone, or a segment between them.
                    tracing::warn!(segment = reader.number, "groups are missing before this segment");
                }
                (sequence, chain) = (header.sequence.max(sequence), header.previous);
            }
            // Never acknowledged: the header comes with the first group.
            None if newest && reader.search(0, 0)?.is_none() => {
                return Ok(End { offset: 0, sequence, chain, last: None });
            }
            None => {
                self.recovery.corrupt_records += 1;
                tracing::warn!(segment = reader.number, "the header of a segment is damaged");
            }
        }
        Ok(End { offset: SEGMENT_HEADER as u64, sequence, chain, last: None })
    }

    fn segment(&mut self, reader: &SegmentReader, newest: bool, mut end: End) -> Result<End> {
        while end.offset < reader.length {
            let start = end.offset;
            match reader.group(start)? {
                Found::Group(group) if group.header.sequence >= end.sequence => {
                    let sequence = group.header.sequence;
                    if !self.acknowledged(reader, newest, sequence, group.end)? && !whole(reader, &group)? {
                        break;
                    }
                    self.group(reader, start, &group)?;
                    let (offset, chain) = (group.end, group.chain);
                    end = End { offset, sequence: sequence + 1, chain, last: Some(start) };
                }
                Found::Damaged { header, end: to }
                    if header.sequence >= end.sequence
                        && self.acknowledged(reader, newest, header.sequence, to)? =>
                {
                    self.damaged(reader, start, u64::from(header.records.max(1)));
                    let claimed = self.claimed.filter(|position| position.sequence == header.sequence);
                    let chain = claimed.map_or([0; 32], |position| position.chain);
                    end = End { offset: to, sequence: header.sequence + 1, chain, last: None };
                }
                _ => match reader.search(start + 8, end.sequence)? {
                    Some(next) => {
                        self.damaged(reader, start, 1);
                        end = End { offset: next, last: None, ..end };
                    }
                    None => match self.claimed_at(reader, start) {
                        Some(position) => {
                            self.damaged(reader, start, 1);
                            let (offset, sequence) = (position.end, position.sequence + 1);
                            end = End { offset, sequence, chain: position.chain, last: None };
                        }
                        None => break,
                    },
                },
            }
        }
        if newest {
            self.recovery.bytes_cut += reader.length.saturating_sub(end.offset);
        } else if reader.length > end.offset {
            self.damaged(reader, end.offset, 1);
        }
        Ok(end)
    }

    fn damaged(&mut self, reader: &SegmentReader, offset: u64, records: u64) {
        tracing::warn!(segment = reader.number, offset, "a group of the log is damaged");
        self.recovery.corrupt_records += records;
    }

    /// Was this group certainly acknowledged? Then what is wrong with it is damage.
    fn acknowledged(&self, reader: &SegmentReader, newest: bool, sequence: u64, end: u64) -> Result<bool> {
        let claimed = |position: Position| position.segment == reader.number && position.sequence >= sequence;
        Ok(!newest || self.claimed.is_some_and(claimed) || reader.search(end, sequence + 1)?.is_some())
    }

    /// The group that the index knows to begin here.
    fn claimed_at(&self, reader: &SegmentReader, start: u64) -> Option<Position> {
        let here = |position: &Position| position.segment == reader.number && position.start == start;
        self.claimed.filter(here).filter(|position| position.end <= reader.length)
    }

    fn group(&mut self, reader: &SegmentReader, start: u64, group: &Group) -> Result<()> {
        for (ordinal, item) in group.items.iter().enumerate() {
            let place = Place {
                segment: reader.number,
                sequence: group.header.sequence,
                ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
            };
            let readable = item.item.kind != KIND_BLOB || reader.body(item)?.is_some();
            match group.record(item)?.filter(|_| readable) {
                Some((record, meta)) => {
                    if let Record::Removed(removed) = &record {
                        self.purge(removed.segment)?;
                    }
                    replay(&mut self.staging, record, meta, place, item)?;
                    self.recovery.records_replayed += 1;
                }
                None => {
                    tracing::warn!(segment = reader.number, group = start, ordinal, "a record is damaged");
                    self.recovery.corrupt_records += 1;
                }
            }
        }
        self.staging.keep(reader.number, 0);
        self.recovery.groups_replayed += 1;
        self.position = Some(Position {
            segment: reader.number,
            sequence: group.header.sequence,
            start,
            end: group.end,
            chain: group.chain,
        });
        if self.staging.bytes() >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// A crash left the file of a segment of which all that lived had been moved. Bodies that had been collected
    /// leave no record, so that rows of them are here again.
    fn purge(&mut self, segment: u64) -> Result<()> {
        if self.segments.lengths().contains_key(&segment) {
            self.flush()?;
            let mut gone = Vec::new();
            self.index.scan(BLOBS, BLOBS, &mut |key, row| {
                let row = BlobRow::parse(row).ok().filter(|row| row.place.segment == segment);
                gone.extend(blob_of_key(key).zip(row));
                true
            })?;
            gone.iter().try_for_each(|(id, row)| self.staging.remove_blob(*id, row))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let staging = std::mem::replace(&mut self.staging, Staging::new(self.index, self.node, self.due));
        if staging.is_empty() {
            return Ok(());
        }
        let mut changes = staging.finish(&mut self.accounts, self.position)?;
        self.index.apply(&mut changes)
    }

    /// Cuts what comes after the last group and makes the rest durable for certain.
    fn settle_end(&self, file: &Arc<dyn DiskFile>, newest: u64, end: &End) -> Result<()> {
        let failed = |error| Error::Open(format!("the end of segment {newest} cannot be written: {error}"));
        if file.length().map_err(Error::read)? > end.offset {
            file.truncate(end.offset).map_err(failed)?;
        }
        let from = end.last.unwrap_or(0).min(end.offset);
        let mut last = vec![0; usize::try_from(end.offset - from).map_err(Error::index)?];
        let read = file.read_at(from, &mut last).map_err(Error::read)?;
        if read != last.len() {
            return Err(Error::Open(format!("segment {newest} changed while it was read")));
        }
        file.write_at(from, &[IoSlice::new(&last)]).map_err(failed)?;
        file.sync().map_err(failed)?;
        self.disk.sync_directory().map_err(failed)
    }
}

/// Is every record of the group as it was written?
fn whole(reader: &SegmentReader, group: &Group) -> Result<bool> {
    for item in &group.items {
        if group.record(item)?.is_none() || (item.item.kind == KIND_BLOB && reader.body(item)?.is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}
