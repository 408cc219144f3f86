//! What healing asks of a store (DESIGN 4): digests to compare with a peer, entries in order to walk over, and
//! the bodies that should be here.

use crate::error::Result;
use crate::rows::{
    BLOBS, BlobRow, ENTRIES, EntryRow, blob_key, blob_of_key, entries_key, entry_key, ids_of_key,
    references_key,
};
use crate::store::Store;
use bytes::Bytes;
use cluster::anti_entropy::{DigestTree, Item, Page};
use cluster::{BlobId, Bucket, Entry, EntryId, NodeId, UserId};

impl Store {
    /// Digests of the live entries that both this node and the peer should have.
    pub fn digests(&self, peer: NodeId) -> DigestTree {
        self.shared().accounts().digests.get(&peer).cloned().unwrap_or_default()
    }

    /// A page of what the digests of a bucket are made of: at most `limit` items after `after`. Blocks.
    pub fn items(
        &self,
        peer: NodeId,
        bucket: Bucket,
        after: Option<(UserId, EntryId)>,
        limit: usize,
    ) -> Result<Page> {
        let mut page = Page::default();
        self.visit(&entries_key(bucket), after, &mut |row| {
            if self.holds(&row.entry) && row.entry.replicas.value.contains(&peer) {
                page.more = page.items.len() == limit;
                if !page.more {
                    let (digest, at) = (row.digest, row.entry.latest().unix_millis());
                    page.items.push(Item { user: row.entry.user, entry: row.entry.id, digest, at });
                }
            }
            !page.more
        })?;
        Ok(page)
    }

    /// All live entries of which this node is a replica, in pages in an order of their own. Blocks.
    pub fn copies(&self, after: Option<(UserId, EntryId)>, limit: usize) -> Result<Vec<Entry>> {
        let mut copies = Vec::new();
        self.visit(&Bytes::from_static(ENTRIES), after, &mut |row| {
            if self.holds(&row.entry) {
                copies.push(row.entry);
            }
            copies.len() < limit
        })?;
        Ok(copies)
    }

    /// Tombstones of entries of which both this node and the peer are replicas, in the order of [`Store::copies`]. Blocks.
    pub fn tombstones(
        &self,
        peer: NodeId,
        after: Option<(UserId, EntryId)>,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        let mut tombstones = Vec::new();
        self.visit(&Bytes::from_static(ENTRIES), after, &mut |row| {
            if !row.entry.is_live() && row.entry.replicas.value.contains(&peer) {
                tombstones.push(row.entry);
            }
            tombstones.len() < limit
        })?;
        Ok(tombstones)
    }

    fn visit(
        &self,
        prefix: &Bytes,
        after: Option<(UserId, EntryId)>,
        visit: &mut dyn FnMut(EntryRow) -> bool,
    ) -> Result<()> {
        let after = after.map(|(user, entry)| entry_key(user, entry));
        let from = after.as_ref().unwrap_or(prefix);
        let mut outcome = Ok(());
        self.shared().index.scan(prefix, from, &mut |key, row| {
            if after.as_ref().is_some_and(|after| *key == after[..]) {
                return true;
            }
            match EntryRow::parse(row) {
                Ok(row) => visit(row),
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        })?;
        outcome
    }

    /// An entry here that refers to the body, if there is one: its replicas have the body, too.
    pub fn referrer(&self, id: BlobId) -> Result<Option<Entry>> {
        let mut found = None;
        let prefix = references_key(id);
        self.shared().index.scan(&prefix, &prefix, &mut |key, _| {
            found = ids_of_key(key);
            found.is_none()
        })?;
        found.map_or(Ok(None), |(user, entry)| self.entry(user, entry))
    }

    /// Names and lengths of the bodies here, in order of names: at most `limit` after `after`. Blocks.
    pub fn blobs(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<(BlobId, u32)>> {
        let after = after.map(blob_key);
        let from = after.as_deref().unwrap_or(BLOBS);
        let mut blobs = Vec::new();
        let mut outcome = Ok(());
        self.shared().index.scan(BLOBS, from, &mut |key, row| {
            if after.as_deref() == Some(key) {
                return true;
            }
            match BlobRow::parse(row) {
                Ok(row) => blobs.extend(blob_of_key(key).map(|id| (id, row.length))),
                Err(error) => outcome = Err(error),
            }
            outcome.is_ok() && blobs.len() < limit
        })?;
        outcome.map(|()| blobs)
    }
}
