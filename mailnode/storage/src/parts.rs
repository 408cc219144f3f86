//! What the node asks of a store about MIME parts (docs/decisions/parts.md): which are referred to here, which are here, and which
//! could go.

use crate::error::Result;
pub use crate::rows::PartTotals;
use crate::rows::{
    BLOBS, BlobRow, CUT_FROM, LEASES, Role, blob_key, blob_of_key, parse_cut_from_key, parse_lease_key,
    part_key,
};
use crate::store::Store;
use bytes::Bytes;
use cluster::BlobId;

/// Rows that one question looks at, at most; the rest comes with the next.
const ROWS: usize = 10_000;

/// A page of names, and where to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartPage {
    pub parts: Vec<BlobId>,
    /// Ask for what is after this; None: that was all.
    pub next: Option<PartCursor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartCursor(Bytes);

impl Store {
    /// Parts that bodies of live entries here refer to, in order, each once in a page: the next may begin with the last of this
    /// one. Blocks.
    pub fn wanted_parts(&self, after: Option<PartCursor>, limit: usize) -> Result<PartPage> {
        let shared = self.shared();
        let after = after.map(|cursor| cursor.0);
        let from = after.as_deref().unwrap_or(CUT_FROM);
        let (mut rows, mut last) = (Vec::new(), None);
        shared.index.scan(CUT_FROM, from, &mut |key, _| {
            if after.as_deref() != Some(key) {
                rows.extend(parse_cut_from_key(key));
                last = Some(Bytes::copy_from_slice(key));
            }
            rows.len() < limit
        })?;
        let next = last.filter(|_| rows.len() >= limit).map(PartCursor);
        let mut parts: Vec<BlobId> = Vec::new();
        for (part, body) in rows {
            let row = shared.index.read(&blob_key(body))?.map(|row| BlobRow::parse(&row)).transpose()?;
            if parts.last() != Some(&part) && row.is_some_and(|row| row.due == 0) {
                parts.push(part);
            }
        }
        Ok(PartPage { parts, next })
    }

    /// Does a body here refer to the part, even one that no entry refers to any more?
    pub fn refers_to_part(&self, part: BlobId) -> Result<bool> {
        let prefix = part_key(part);
        let mut found = false;
        self.shared().index.scan(&prefix, &prefix, &mut |_, _| {
            found = true;
            false
        })?;
        Ok(found)
    }

    /// Parts here, in the trash or not, in order. Looks at all blobs. Blocks.
    pub fn parts_here(&self, after: Option<PartCursor>, limit: usize) -> Result<PartPage> {
        let after = after.map(|cursor| cursor.0);
        let from = after.as_deref().unwrap_or(BLOBS);
        let mut page = PartPage::default();
        let (mut seen, mut outcome) = (0, Ok(()));
        self.shared().index.scan(BLOBS, from, &mut |key, row| {
            if after.as_deref() == Some(key) {
                return true;
            }
            seen += 1;
            match BlobRow::parse(row) {
                Ok(row) if row.role != Role::Body => page.parts.extend(blob_of_key(key)),
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
            let full = seen >= ROWS || page.parts.len() >= limit;
            if full {
                page.next = Some(PartCursor(Bytes::copy_from_slice(key)));
            }
            outcome.is_ok() && !full
        })?;
        outcome.map(|()| page)
    }

    /// Parts whose time in the trash is over, and when it was: at most `limit`, the oldest first. They stay until
    /// [`crate::Write::Discard`], or come back with [`crate::Write::Renew`]. Blocks.
    pub fn doomed(&self, limit: usize) -> Result<Vec<(BlobId, u64)>> {
        let shared = self.shared();
        let now = shared.options.clock.unix_seconds();
        let mut due = Vec::new();
        shared.index.scan(LEASES, LEASES, &mut |key, _| {
            let Some((at, id)) = parse_lease_key(key).filter(|(at, _)| *at <= now) else { return false };
            due.push((id, at));
            due.len() < ROWS
        })?;
        let mut doomed = Vec::new();
        for (id, at) in due {
            let row = shared.index.read(&blob_key(id))?.map(|row| BlobRow::parse(&row)).transpose()?;
            if row.is_some_and(|row| row.role == Role::Trash && row.due == at) {
                doomed.push((id, at));
            }
            if doomed.len() == limit {
                break;
            }
        }
        Ok(doomed)
    }
}
