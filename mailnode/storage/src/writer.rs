//! The one writer of the log: turns commits into a group, brings it to disk, then shows it in the index.
//!
//! What must hold: nothing is answered or visible before it is on disk; after a write or flush of which the
//! outcome is unknown nothing more is written (the kernel may have dropped the pages of a failed flush and
//! report success for the next).

use crate::error::{Error, Result};
use crate::evaluate::Evaluation;
use crate::prepare::Operation;
use crate::record::{Chain, GroupBuilder, SEGMENT_HEADER, SealedGroup, SegmentHeader};
use crate::rows::Position;
use crate::shared::Shared;
use crate::staging::Staging;
use crate::write::Outcome;
use crate::{disk::DiskFile, segments::file_name};
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// The end of the log.
pub struct Writer {
    pub segment: u64,
    /// None until the first group of the segment is written.
    pub file: Option<Arc<dyn DiskFile>>,
    /// Where the next group goes; 0 if not even the header of the segment is written.
    pub end: u64,
    /// The file's name may not be on disk yet.
    pub unnamed: bool,
    /// Of the next group.
    pub sequence: u64,
    pub chain: Chain,
}

impl Writer {
    /// Commits each list of operations as a whole, all with one flush.
    ///
    /// # Errors
    /// For all of them. After [`Error::Full`] nothing was kept and the next may succeed; others are for good.
    pub fn commit(&mut self, shared: &Shared, commits: &[Vec<Operation>]) -> Result<Vec<Vec<Outcome>>> {
        if let Some(error) = shared.failure() {
            return Err(error);
        }
        let outcome = self.try_commit(shared, commits);
        if let Err(error) = &outcome
            && !matches!(error, Error::Full)
        {
            shared.fail(error);
        }
        outcome
    }

    fn try_commit(&mut self, shared: &Shared, commits: &[Vec<Operation>]) -> Result<Vec<Vec<Outcome>>> {
        let operations = commits.iter().flatten();
        let most = operations.map(Operation::most_bytes).sum::<u64>();
        if self.end > 0 && self.end + most > u64::from(shared.options.segment_bytes) {
            *self = Self { segment: self.segment + 1, file: None, end: 0, unnamed: true, ..*self };
        }
        let now = shared.options.clock.unix_seconds();
        let due = shared.options.due(now);
        let position = self.end.max(SEGMENT_HEADER as u64);
        let mut evaluation = Evaluation {
            staging: Staging::new(&*shared.index, shared.options.node, due),
            group: GroupBuilder::default(),
            segment: self.segment,
            sequence: self.sequence,
            position,
            now,
            witnessed_since: shared.options.witnessed_since(now),
        };
        let mut outcomes = Vec::with_capacity(commits.len());
        for commit in commits {
            outcomes.push(commit.iter().map(|operation| evaluation.run(operation)).collect::<Result<_>>()?);
            evaluation.group.end_commit();
        }
        let Evaluation { staging, group, .. } = evaluation;
        let position = if group.records() > 0 {
            let group = group.seal(self.segment, position, self.sequence, now, self.chain);
            Some(self.write(shared, position, now, group)?)
        } else {
            None
        };
        let mut changes = staging.finish(&mut shared.accounts(), position)?.peekable();
        if changes.peek().is_some() {
            shared.index.apply(&mut changes)?;
        }
        shared.counters.commits.fetch_add(commits.len() as u64, Relaxed);
        Ok(outcomes)
    }

    fn write(&mut self, shared: &Shared, start: u64, now: u64, group: SealedGroup) -> Result<Position> {
        let begun = Instant::now();
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.create(shared)?,
        };
        let header = SegmentHeader {
            number: self.segment,
            created: now,
            sequence: self.sequence,
            previous: self.chain,
        };
        let header = header.to_bytes();
        let mut parts = Vec::with_capacity(group.bodies.len() + 3);
        if self.end == 0 {
            parts.push(IoSlice::new(&header));
        }
        parts.push(IoSlice::new(&group.header));
        parts.extend(group.bodies.iter().map(|body| IoSlice::new(body)));
        parts.push(IoSlice::new(&group.tail));
        if let Err(error) = file.write_at(self.end, &parts) {
            // Nothing was flushed, so nothing is unknown if the file can be cut to what it was.
            return Err(if is_full(&error) && file.truncate(self.end).is_ok() {
                Error::Full
            } else {
                read_only(&error)
            });
        }
        file.sync().map_err(|error| read_only(&error))?;
        shared.counters.fsyncs.fetch_add(1, Relaxed);
        if self.unnamed {
            shared.disk.sync_directory().map_err(|error| read_only(&error))?;
            shared.counters.fsyncs.fetch_add(1, Relaxed);
            self.unnamed = false;
        }
        shared.counters.flushed(begun.elapsed());
        let end = start + group.length;
        shared.counters.bytes_written.fetch_add(end - self.end, Relaxed);
        shared.segments.grew(self.segment, end);
        let position =
            Position { segment: self.segment, sequence: self.sequence, start, end, chain: group.chain };
        self.end = end;
        self.sequence += 1;
        self.chain = group.chain;
        Ok(position)
    }

    fn create(&mut self, shared: &Shared) -> Result<Arc<dyn DiskFile>> {
        let created = shared.disk.create(&file_name(self.segment));
        let file = created.map_err(|error| if is_full(&error) { Error::Full } else { read_only(&error) })?;
        self.file = Some(file.clone());
        shared.segments.opened(self.segment, file.clone());
        Ok(file)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn read_only(error: &io::Error) -> Error {
    Error::ReadOnly(error.to_string().into())
}
