//! Garbage collection by leases (DESIGN 7): a body that no live entry here refers to lives until its lease
//! ends; a tombstone until its lifetime has passed and no peer waits for it, and likewise the memory of an entry
//! that has other replicas now (if one of them knows of it, the others are not waited for any longer: a tombstone that came after
//! it may be forgotten by then). A MIME part, which lives by its lease alone, goes to the trash when that ends, and only later away,
//! when the node has asked whether anybody refers to it ([`crate::Store::doomed`]).
//!
//! The index has the ends of leases and the times of tombstones in order, so a pass looks only at what is due.
//! The writer decides: what was renewed or revived since the look stays. Dropping a body writes nothing to the
//! log; after a rebuild of the index it is back, with a new lease.

use crate::error::Result;
use crate::prepare::Operation;
use crate::rows::{
    BlobRow, EntryRow, LEASES, Role, TOMBSTONES, blob_key, entry_key, parse_lease_key, parse_tombstone_key,
};
use crate::shared::Shared;
use crate::threads::commit;
use bytes::Bytes;

/// Rows of one commit.
const PAGE: usize = 1_000;

pub fn collect(shared: &Shared) -> Result<()> {
    let now = shared.options.clock.unix_seconds();
    pages(shared, LEASES, &mut |key| match parse_lease_key(key) {
        Some((due, id)) if due <= now => {
            let row = shared.index.read(&blob_key(id))?.map(|row| BlobRow::parse(&row)).transpose()?;
            Ok(match row.map(|row| row.role) {
                Some(Role::Part) => {
                    let until = now.saturating_add(shared.options.trash.as_secs());
                    Due::Now(Operation::TrashPart { id, due, until })
                }
                // The node asks its peers first.
                Some(Role::Trash) => Due::Skip,
                Some(Role::Body) | None => Due::Now(Operation::CollectBlob { id, due }),
            })
        }
        Some(_) => Ok(Due::Never),
        None => Ok(Due::Skip),
    })?;
    let before = shared.options.forgotten_before(now);
    let (node, witnessed_since) = (shared.options.node, shared.options.witnessed_since(now));
    pages(shared, TOMBSTONES, &mut |key| match parse_tombstone_key(key) {
        Some((since, user, entry)) if since <= before => {
            let row = shared.index.read(&entry_key(user, entry))?;
            let waiting = match row {
                Some(row) => EntryRow::parse(&row)?.is_awaited(node, witnessed_since),
                None => true,
            };
            Ok(if waiting { Due::Skip } else { Due::Now(Operation::CollectTombstone { user, entry }) })
        }
        Some(_) => Ok(Due::Never),
        None => Ok(Due::Skip),
    })
}

enum Due {
    Now(Operation),
    Skip,
    /// Neither this nor any after it.
    Never,
}

fn pages(shared: &Shared, prefix: &[u8], decide: &mut dyn FnMut(&[u8]) -> Result<Due>) -> Result<()> {
    let mut from = Bytes::copy_from_slice(prefix);
    loop {
        let mut keys = Vec::with_capacity(PAGE);
        shared.index.scan(prefix, &from, &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            keys.len() < PAGE
        })?;
        let mut operations = Vec::new();
        let mut more = keys.len() == PAGE;
        for key in &keys {
            match decide(key)? {
                Due::Now(operation) => operations.push(operation),
                Due::Skip => {}
                Due::Never => {
                    more = false;
                    break;
                }
            }
        }
        if !operations.is_empty() {
            commit(shared, operations)?;
        }
        let Some(last) = keys.last().filter(|_| more) else { return Ok(()) };
        from = [&last[..], &[0]].concat().into();
    }
}
