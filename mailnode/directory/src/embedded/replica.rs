//! A member's part: promises, reports, records written and read by primaries.

use super::bucket_set::put_mark;
use super::message::limits;
use super::occupied::Occupied;
use super::stored::{Ballot, Record, Stamp};
use super::{After, Disk, DiskError, Embedded, EmbeddedRequest, EmbeddedResponse, Report};
use crate::record::Key;
use bytes::Bytes;
use cluster::{Bucket, NodeId};

/// Records of one bucket read from disk at once.
const PAGE: usize = 256;

fn conclude(hash: &blake3::Hasher, records: u32, unsettled: bool) -> Report {
    let mut digest = [0; 16];
    hash.finalize_xof().fill(&mut digest);
    Report { digest, records, unsettled }
}

impl Embedded {
    pub(super) fn serve_primary(
        &mut self,
        from: NodeId,
        id: u64,
        request: EmbeddedRequest,
        disk: &impl Disk,
    ) {
        let outcome = match request {
            EmbeddedRequest::Promise { ballot, buckets } => return self.promise(from, id, ballot, buckets),
            EmbeddedRequest::Write { ballot, records } => return self.take(from, id, ballot, records, disk),
            EmbeddedRequest::Mark { ballot, buckets, firm } => {
                return self.mark(from, id, ballot, &buckets, firm);
            }
            EmbeddedRequest::Settle { stamps } => {
                self.settle(stamps, disk);
                Ok(EmbeddedResponse::Done)
            }
            EmbeddedRequest::Stamps { ballot, buckets, after } => {
                if self.promises.allows(from, ballot) {
                    Self::stamps(&buckets, after.as_ref(), disk).map(EmbeddedResponse::Stamps)
                } else {
                    Ok(self.refused(from))
                }
            }
            EmbeddedRequest::Fetch { ballot, keys } => {
                if self.promises.allows(from, ballot) {
                    Self::fetch(keys, disk).map(EmbeddedResponse::Fetched)
                } else {
                    Ok(self.refused(from))
                }
            }
            EmbeddedRequest::Confirm { ballot } => {
                let good = self.promises.allows(from, ballot);
                Ok(if good { EmbeddedResponse::Done } else { self.refused(from) })
            }
            _ => Ok(EmbeddedResponse::Invalid),
        };
        let failed = |error: DiskError| EmbeddedResponse::Unavailable(error.to_string());
        self.respond(id, outcome.unwrap_or_else(failed));
    }

    fn refused(&self, from: NodeId) -> EmbeddedResponse {
        EmbeddedResponse::Refused { promised: self.promises.to(from) }
    }

    /// The promise is on disk, and all writes taken before it too, before it is given and anything is read.
    fn promise(&mut self, from: NodeId, id: u64, ballot: Ballot, buckets: Vec<Bucket>) {
        if buckets.len() > limits::BUCKETS {
            return self.respond(id, EmbeddedResponse::Invalid);
        }
        if !self.promises.raise(from, ballot) {
            let refused = self.refused(from);
            return self.respond(id, refused);
        }
        if ballot.epoch > self.view.epoch {
            // Also by ourselves: what we are primary of is another's in that view, or not level in it.
            self.step_down();
        }
        self.write_promises(After::Promised { id, buckets });
    }

    /// What is here of these buckets.
    pub(super) fn report(&self, buckets: &[Bucket], disk: &impl Disk) -> EmbeddedResponse {
        let mut occupied = Occupied::new(disk);
        let empty = conclude(&blake3::Hasher::new(), 0, false);
        let report = |&bucket: &Bucket| match occupied.has(bucket)? {
            true => Self::report_bucket(bucket, disk),
            false => Ok(empty),
        };
        let reports: Result<Vec<Report>, DiskError> = buckets.iter().map(report).collect();
        match reports {
            Ok(reports) => EmbeddedResponse::Promised { marks: self.promises.marks.clone(), reports },
            Err(error) => EmbeddedResponse::Unavailable(error.to_string()),
        }
    }

    fn report_bucket(bucket: Bucket, disk: &impl Disk) -> Result<Report, DiskError> {
        let mut hash = blake3::Hasher::new();
        let (mut records, mut unsettled) = (0u32, false);
        let prefix = Key::prefix(bucket, None);
        let mut after: Option<Bytes> = None;
        loop {
            let page = disk.records(&prefix, after.as_deref(), PAGE)?;
            for (key, bytes) in &page {
                let record = Record::decode(bytes).ok_or(DiskError)?;
                hash.update(&(key.len() as u32).to_be_bytes()).update(key);
                hash.update(&record.stamp.version.to_be_bytes());
                hash.update(&record.stamp.epoch.0.to_be_bytes()).update(&record.token);
                records = records.saturating_add(1);
                unsettled |= !record.settled;
            }
            if page.len() < PAGE {
                break;
            }
            after = page.into_iter().next_back().map(|(last, _)| last);
        }
        Ok(conclude(&hash, records, unsettled))
    }

    pub(super) fn stamps(
        buckets: &[Bucket],
        after: Option<&Key>,
        disk: &impl Disk,
    ) -> Result<Vec<(Key, Stamp, bool)>, DiskError> {
        let mut stamps = Vec::new();
        for &bucket in buckets.iter().take(limits::BUCKETS) {
            if after.is_some_and(|after| after.bucket() > bucket) {
                continue;
            }
            let prefix = Key::prefix(bucket, None);
            let mut after: Option<Bytes> =
                after.filter(|after| after.bucket() == bucket).map(|after| after.as_bytes().clone());
            loop {
                let room = limits::STAMPS - stamps.len();
                let asked = room.min(PAGE);
                let page = disk.records(&prefix, after.as_deref(), asked)?;
                for (key, bytes) in &page {
                    let record = Record::decode(bytes).ok_or(DiskError)?;
                    let key = Key::from_bytes(key).ok_or(DiskError)?;
                    stamps.push((key, record.stamp, record.settled));
                }
                if stamps.len() >= limits::STAMPS {
                    return Ok(stamps);
                }
                if page.len() < asked {
                    break;
                }
                after = page.into_iter().next_back().map(|(last, _)| last);
            }
        }
        Ok(stamps)
    }

    fn fetch(keys: Vec<Key>, disk: &impl Disk) -> Result<Vec<(Key, Option<Record>)>, DiskError> {
        let mut fetched = Vec::new();
        let mut bytes = 0;
        for key in keys.into_iter().take(limits::RECORDS) {
            let record = Self::get(disk, &key)?;
            bytes += record.as_ref().and_then(|record| record.value.as_ref()).map_or(0, Bytes::len);
            if bytes > limits::RECORD_BYTES && !fetched.is_empty() {
                break;
            }
            fetched.push((key, record));
        }
        Ok(fetched)
    }

    fn take(&mut self, from: NodeId, id: u64, ballot: Ballot, records: Vec<(Key, Record)>, disk: &impl Disk) {
        if !self.may_write(from, ballot) {
            let refused = self.refused(from);
            return self.respond(id, refused);
        }
        if records.len() > limits::RECORDS || !records.iter().all(|(key, _)| key.is_valid()) {
            return self.respond(id, EmbeddedResponse::Invalid);
        }
        let mut newer = Vec::new();
        for (key, record) in records {
            match Self::get(disk, &key) {
                Ok(known) => {
                    // What we have of this ballot's primary is never newer than what it decided.
                    if known.is_none_or(|known| known.stamp < record.stamp) {
                        newer.push((key, Some(record)));
                    }
                }
                Err(error) => return self.respond(id, EmbeddedResponse::Unavailable(error.to_string())),
            }
        }
        // Even if nothing is new: what is here may be on its way to the disk yet.
        self.write(newer, After::Respond { id, response: EmbeddedResponse::Done }, false);
    }

    fn may_write(&self, from: NodeId, ballot: Ballot) -> bool {
        #[cfg(test)]
        if self.has_bug(super::PlantedBug::AnyEpoch) {
            return true;
        }
        self.promises.allows(from, ballot)
    }

    fn mark(&mut self, from: NodeId, id: u64, ballot: Ballot, buckets: &[Bucket], firm: bool) {
        // Without the view we would not know who is active in it.
        if !self.promises.allows(from, ballot) || ballot.epoch != self.view.epoch {
            let refused = self.refused(from);
            return self.respond(id, refused);
        }
        self.put_mark(buckets, firm);
        self.write_promises(After::Respond { id, response: EmbeddedResponse::Done });
    }

    pub(super) fn put_mark(&mut self, buckets: &[Bucket], firm: bool) {
        put_mark(&mut self.promises.marks, self.view.epoch, &self.places, firm, buckets);
    }

    /// States that were committed need not be written again when the bucket is levelled next.
    pub(super) fn settle(&mut self, stamps: Vec<(Key, Stamp)>, disk: &impl Disk) {
        let mut settled = Vec::new();
        for (key, stamp) in stamps.into_iter().take(limits::RECORDS) {
            if self.writing.contains_key(&key) || !key.is_valid() {
                continue;
            }
            if let Ok(Some(record)) = Self::get(disk, &key)
                && record.stamp == stamp
                && !record.settled
            {
                settled.push((key, Some(Record { settled: true, ..record })));
            }
        }
        if !settled.is_empty() {
            self.write(settled, After::Nothing, true);
        }
    }
}
