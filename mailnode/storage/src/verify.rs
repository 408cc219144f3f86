//! Reading the whole log and believing nothing: checksums, names of bodies, the chain from the first group to
//! the head that the writer knows.
//!
//! Where compaction removed a segment the chain is carried by the record that says so.

use crate::disk::Disk;
use crate::dump::numbers;
use crate::error::{Error, Result};
use crate::heads::Head;
use crate::record::{Chain, Record, RemovedRecord, SEGMENT_HEADER, ValueRecord};
use crate::scan::{Found, Group, SegmentReader};
use crate::segments::file_name;
use crate::shared::Shared;
use cluster::{BlobId, BlobKind};
use std::collections::HashMap;

/// What [`crate::Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    pub segments: u64,
    pub groups: u64,
    pub records: u64,
    pub bytes: u64,
    /// Records that are not what was written; a group that cannot be read counts as one.
    pub corrupt_records: u64,
    /// Bodies with a right checksum and a wrong name.
    pub wrong_names: u64,
    /// Groups that do not follow the one before them: something was altered, removed, added or swapped.
    pub broken_links: u64,
    /// Bytes at the end that are no whole group: what was being written when the power went, or was cut off.
    pub torn_bytes: u64,
    /// The last group: what a peer would remember of this log.
    pub head: Head,
}

impl Verification {
    /// Is the log what was written, all of it?
    pub const fn is_sound(&self) -> bool {
        self.corrupt_records == 0 && self.wrong_names == 0 && self.broken_links == 0
    }
}

pub fn verify(shared: &Shared) -> Result<Verification> {
    let _alone = shared.maintenance();
    let (newest, end, sequence, head) = {
        let writer = shared.writer();
        (writer.segment, writer.end, writer.sequence, writer.chain)
    };
    let mut walk = Walk::default();
    for number in shared.segments.numbers().into_iter().filter(|&number| number <= newest) {
        let file = shared.disk.open(&file_name(number)).map_err(Error::read)?;
        let mut reader = SegmentReader::new(number, file)?;
        if number == newest {
            reader.length = reader.length.min(end);
        }
        walk.segment(&reader, false)?;
    }
    walk.close_gaps();
    let reached = walk.at.is_some_and(|link| link.chain == head && link.sequence + 1 == sequence);
    walk.found.broken_links += u64::from(!reached && sequence > 1);
    walk.found.head = Head { sequence: sequence.saturating_sub(1), chain: head };
    Ok(walk.found)
}

/// The same of files that no node uses now, without an index: what is wrong is only said. Takes as long as reading them.
///
/// `watch` is told of each group and each value in it.
///
/// # Errors
/// If the disk fails, or a newer version of Prickle wrote them.
pub fn verify_files(disk: &dyn Disk, watch: &mut dyn FnMut(Seen<'_>)) -> Result<Verification> {
    let mut walk = Walk { watch: Some(watch), ..Walk::default() };
    let numbers = numbers(disk)?;
    for &number in &numbers {
        let reader = SegmentReader::new(number, disk.open(&file_name(number)).map_err(Error::read)?)?;
        walk.segment(&reader, numbers.last() == Some(&number))?;
    }
    walk.close_gaps();
    Ok(walk.found)
}

/// A group by its place in the chain.
#[derive(Debug, Clone, Copy)]
struct Link {
    segment: u64,
    sequence: u64,
    chain: Chain,
}

/// What is met on the way through a log.
pub enum Seen<'a> {
    /// The log up to this group.
    Group(Head),
    /// A value that was written ([`crate::Write::Record`]).
    Value { key: &'a [u8], value: &'a [u8] },
}

struct Walk<'a> {
    watch: Option<&'a mut dyn FnMut(Seen<'_>)>,
    found: Verification,
    /// The last group; None after damage, when nothing is known of what follows.
    at: Option<Link>,
    /// First groups of segments whose predecessor is not there.
    gaps: Vec<(u64, u64, Chain)>,
    removed: HashMap<u64, RemovedRecord>,
}

impl Default for Walk<'_> {
    fn default() -> Self {
        Self {
            watch: None,
            found: Verification::default(),
            // Before the first group of all.
            at: Some(Link { segment: 0, sequence: 0, chain: [0; 32] }),
            gaps: Vec::new(),
            removed: HashMap::new(),
        }
    }
}

impl Walk<'_> {
    /// `last`: nothing comes after it, so that its end may be torn.
    fn segment(&mut self, reader: &SegmentReader, last: bool) -> Result<()> {
        self.found.segments += 1;
        self.found.bytes += reader.length;
        if reader.length == 0 {
            return Ok(());
        }
        if reader.header()?.is_none() {
            self.found.corrupt_records += 1;
        }
        let mut offset = SEGMENT_HEADER as u64;
        while offset < reader.length {
            match reader.group(offset)? {
                Found::Group(group) => {
                    self.link(reader.number, &group);
                    self.records(reader, &group)?;
                    offset = group.end;
                }
                _ => match reader.search(offset + 8, 0)? {
                    None if last => {
                        self.found.torn_bytes = reader.length - offset;
                        break;
                    }
                    next => {
                        self.found.corrupt_records += 1;
                        self.at = None;
                        let Some(next) = next else { break };
                        offset = next;
                    }
                },
            }
        }
        Ok(())
    }

    fn link(&mut self, segment: u64, group: &Group) {
        let header = &group.header;
        match self.at {
            Some(link) if link.segment == segment || link.segment + 1 == segment => {
                let follows = header.previous == link.chain && header.sequence == link.sequence + 1;
                self.found.broken_links += u64::from(!follows);
            }
            Some(_) => self.gaps.push((segment, header.sequence, header.previous)),
            None => {}
        }
        self.at = Some(Link { segment, sequence: header.sequence, chain: group.chain });
        self.found.head = Head { sequence: header.sequence, chain: group.chain };
        if let Some(watch) = &mut self.watch {
            watch(Seen::Group(self.found.head));
        }
    }

    fn records(&mut self, reader: &SegmentReader, group: &Group) -> Result<()> {
        self.found.groups += 1;
        for item in &group.items {
            self.found.records += 1;
            match group.record(item)? {
                Some((Record::Blob(name, kind), _)) => match reader.body(item)? {
                    Some(body) => {
                        let right = BlobId::of(&body) == name && BlobKind::of(&body) == kind;
                        self.found.wrong_names += u64::from(!right);
                    }
                    None => self.found.corrupt_records += 1,
                },
                Some((Record::Value(ValueRecord { key, value: Some(value), .. }), _)) => {
                    if let Some(watch) = &mut self.watch {
                        watch(Seen::Value { key: &key, value: &value });
                    }
                }
                Some((Record::Removed(record), _)) => {
                    self.removed.insert(record.segment, record);
                }
                Some(_) => {}
                None => self.found.corrupt_records += 1,
            }
        }
        Ok(())
    }

    fn close_gaps(&mut self) {
        for (segment, sequence, previous) in std::mem::take(&mut self.gaps) {
            let before = segment.checked_sub(1).and_then(|before| self.removed.get(&before));
            let follows = before.is_some_and(|gone| gone.chain == previous && gone.sequence + 1 == sequence);
            self.found.broken_links += u64::from(!follows);
        }
    }
}
