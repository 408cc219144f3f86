//! Changes to the index that belong to one group of the log, kept apart until the group is on disk.
//!
//! Reads see the changes over the index. The rows that follow from a row (update log, references, users,
//! leases, tombstones, accounts) are derived here and nowhere else, from the row before and the row after; so
//! replay of the log and the writing of it cannot come to different ends.

use crate::error::{Error, Result};
use crate::index::{Change, Index};
use crate::record::EntryRecord;
use crate::rows::{
    BlobRow, EntryRow, PART_TOTALS, POSITION, PartTotals, Position, Role, ValueRow, blob_key, count_key,
    cut_from_key, digest_key, entry_key, fragment_key, lease_key, parts_key, pending_key, reference_key,
    references_key, removed_key, segment_key, tombstone_key, user_key, value_key,
};
use bytes::Bytes;
use cluster::anti_entropy::DigestTree;
use cluster::blob::names_of;
use cluster::{BlobId, Bucket, Entry, EntryId, NodeId, UserId};
use std::collections::{BTreeMap, BTreeSet};

/// Sums over rows that are asked for often: kept in memory, and as rows of the index.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// Bytes alive by segment. A segment that was removed has no account.
    pub live: BTreeMap<u64, u64>,
    /// Rows of the update log by peer.
    pub pending: BTreeMap<NodeId, u64>,
    /// What a peer and this node should both have, by peer.
    pub digests: BTreeMap<NodeId, DigestTree>,
    pub parts: PartTotals,
}

/// Ends of leases that begin now, Unix seconds.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    pub body: u64,
    pub part: u64,
}

/// Is this live entry a copy of the node's?
pub fn holds(node: Option<NodeId>, entry: &Entry) -> bool {
    entry.is_live() && node.is_none_or(|node| entry.replicas.value.contains(&node))
}

pub struct Staging<'a> {
    index: &'a dyn Index,
    node: Option<NodeId>,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    live: BTreeMap<u64, i64>,
    removed: Vec<u64>,
    pending: BTreeMap<NodeId, i64>,
    /// What is toggled in the digests.
    digests: BTreeMap<(NodeId, Bucket), u64>,
    /// Bodies whose leases may have begun or ended.
    touched: BTreeSet<BlobId>,
    /// What changes in [`Accounts::parts`]: a row, and whether it is there.
    parts: Vec<(BlobRow, bool)>,
    due: Due,
}

impl<'a> Staging<'a> {
    pub fn new(index: &'a dyn Index, node: Option<NodeId>, due: Due) -> Self {
        Self {
            index,
            node,
            rows: BTreeMap::new(),
            bytes: 0,
            live: BTreeMap::new(),
            removed: Vec::new(),
            pending: BTreeMap::new(),
            digests: BTreeMap::new(),
            touched: BTreeSet::new(),
            parts: Vec::new(),
            due,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.touched.is_empty()
    }

    /// Bytes of the rows, about.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn holds(&self, entry: &Entry) -> bool {
        holds(self.node, entry)
    }

    pub fn is_awaited(&self, row: &EntryRow, since: u64) -> bool {
        row.is_awaited(self.node, since)
    }

    pub fn entry(&self, user: UserId, entry: EntryId) -> Result<Option<EntryRow>> {
        self.read(&entry_key(user, entry))?.map(|row| EntryRow::parse(&row)).transpose()
    }

    /// `meta`: pending peers and entry of `row`, encoded. True if the user had no entry here.
    pub fn put_entry(&mut self, before: Option<&EntryRow>, row: &EntryRow, meta: &[u8]) -> Result<bool> {
        let (user, id) = (row.entry.user, row.entry.id);
        if let Some(before) = before {
            self.account(before.place.segment, -(before.bytes as i64));
        }
        self.account(row.place.segment, row.bytes as i64);
        self.wait(user, id, before.map_or(&[], |row| &row.pending), &row.pending);
        self.refer(before.map(|row| &row.entry), Some(&row.entry));
        before.into_iter().for_each(|row| self.toggle(row));
        self.toggle(row);
        self.put(entry_key(user, id), row.to_bytes(meta));
        let first = before.is_none() && self.read(&user_key(user))?.is_none();
        if first {
            self.put(user_key(user), Bytes::new());
        }
        Ok(first)
    }

    /// True if it was the last of the user.
    pub fn remove_entry(&mut self, row: &EntryRow) -> Result<bool> {
        let (user, id) = (row.entry.user, row.entry.id);
        self.account(row.place.segment, -(row.bytes as i64));
        self.wait(user, id, &row.pending, &[]);
        self.refer(Some(&row.entry), None);
        self.toggle(row);
        self.remove(entry_key(user, id));
        let last = !self.any(&fragment_key(user))?;
        if last {
            self.remove(user_key(user));
        }
        Ok(last)
    }

    pub fn blob(&self, id: BlobId) -> Result<Option<BlobRow>> {
        self.read(&blob_key(id))?.map(|row| BlobRow::parse(&row)).transpose()
    }

    /// `parts`: that were cut out of it.
    pub fn put_blob(&mut self, id: BlobId, row: BlobRow, parts: &[BlobId]) -> Result<()> {
        if let Some(before) = self.blob(id)? {
            self.account(before.place.segment, -(before.bytes as i64));
            self.count(before, false);
        }
        self.account(row.place.segment, row.bytes as i64);
        self.count(row, true);
        self.put(blob_key(id), row.to_bytes());
        if !parts.is_empty() {
            self.put(parts_key(id), parts.iter().flat_map(|part| part.0).collect());
            parts.iter().for_each(|part| self.put(cut_from_key(*part, id), Bytes::new()));
        }
        Ok(())
    }

    /// Puts a part whose lease ran out into the trash, until then.
    pub fn trash(&mut self, id: BlobId, row: BlobRow, until: u64) {
        let trashed = BlobRow { due: until, role: Role::Trash, ..row };
        self.set_lease(id, row, trashed);
    }

    /// Another end of the lease, or another role.
    fn set_lease(&mut self, id: BlobId, before: BlobRow, after: BlobRow) {
        if before.due != 0 {
            self.remove(lease_key(before.due, id));
        }
        if after.due != 0 {
            self.put(lease_key(after.due, id), Bytes::new());
        }
        self.count(before, false);
        self.count(after, true);
        self.put(blob_key(id), after.to_bytes());
    }

    fn count(&mut self, row: BlobRow, there: bool) {
        if row.role != Role::Body {
            self.parts.push((row, there));
        }
    }

    /// Deletions of the entry are needed as long as a segment from `first` on may have a record of it.
    pub fn note_first_of_entry(&mut self, mut row: EntryRow, first: u64) -> Result<()> {
        if first < row.first {
            row.first = first;
            let (user, id) = (row.entry.user, row.entry.id);
            let record = EntryRecord { pending: row.pending.clone(), entry: row.entry.clone() };
            let meta = postcard::to_stdvec(&record).map_err(Error::index)?;
            self.put(entry_key(user, id), row.to_bytes(&meta));
        }
        Ok(())
    }

    /// As above, of a value.
    pub fn note_first_of_value(&mut self, name: &[u8], mut row: ValueRow, first: u64) {
        if first < row.first {
            row.first = first;
            self.put(value_key(name), row.to_bytes());
        }
    }

    /// Begins the lease of a blob anew.
    pub fn renew(&mut self, id: BlobId) {
        self.touched.insert(id);
    }

    pub fn remove_blob(&mut self, id: BlobId, row: &BlobRow) -> Result<()> {
        self.account(row.place.segment, -(row.bytes as i64));
        self.count(*row, false);
        self.remove(blob_key(id));
        if row.due != 0 {
            self.remove(lease_key(row.due, id));
        }
        if let Some(parts) = self.read(&parts_key(id))? {
            let parts =
                names_of(&parts).ok_or_else(|| Error::index("a row of kind parts does not decode"))?;
            parts.into_iter().for_each(|part| self.remove(cut_from_key(part, id)));
            self.remove(parts_key(id));
        }
        Ok(())
    }

    pub fn value(&self, name: &[u8]) -> Result<Option<ValueRow>> {
        self.read(&value_key(name))?.map(|row| ValueRow::parse(&row)).transpose()
    }

    pub fn put_value(&mut self, name: &[u8], before: Option<&ValueRow>, row: Option<&ValueRow>) {
        if let Some(before) = before {
            self.account(before.place.segment, -(before.bytes as i64));
        }
        match row {
            Some(row) => {
                self.account(row.place.segment, row.bytes as i64);
                self.put(value_key(name), row.to_bytes());
            }
            None if before.is_some() => self.remove(value_key(name)),
            None => {}
        }
    }

    /// A record without a row of its own, kept until its segment is compacted.
    pub fn keep(&mut self, segment: u64, bytes: u64) {
        self.account(segment, bytes as i64);
    }

    /// All that lives in the segment was moved; its file is to go.
    pub fn remove_segment(&mut self, segment: u64) {
        self.removed.push(segment);
        self.remove(segment_key(segment));
        self.put(removed_key(segment), Bytes::new());
    }

    /// Adds the rows that follow from all the others, and brings the accounts up to date; returns all rows.
    pub fn finish(
        mut self,
        accounts: &mut Accounts,
        position: Option<Position>,
    ) -> Result<impl Iterator<Item = Change> + use<>> {
        self.settle_leases()?;
        for segment in std::mem::take(&mut self.removed) {
            accounts.live.remove(&segment);
            self.live.remove(&segment);
        }
        for (segment, change) in std::mem::take(&mut self.live) {
            if change < 0 && !accounts.live.contains_key(&segment) {
                // Of a segment that is gone.
                continue;
            }
            let live = accounts.live.entry(segment).or_default();
            *live = live.saturating_add_signed(change);
            self.put(segment_key(segment), Bytes::copy_from_slice(&live.to_le_bytes()));
        }
        let parts = std::mem::take(&mut self.parts);
        if !parts.is_empty() {
            parts.iter().for_each(|(row, there)| accounts.parts.count(row, *there));
            self.put(Bytes::from_static(PART_TOTALS), accounts.parts.to_bytes());
        }
        for (peer, change) in std::mem::take(&mut self.pending) {
            let count = accounts.pending.entry(peer).or_default();
            *count = count.saturating_add_signed(change);
            if *count == 0 {
                accounts.pending.remove(&peer);
                self.remove(count_key(peer));
            } else {
                self.put(count_key(peer), Bytes::copy_from_slice(&count.to_le_bytes()));
            }
        }
        for ((peer, bucket), change) in std::mem::take(&mut self.digests) {
            let leaf = accounts.digests.entry(peer).or_default().toggle(bucket, change);
            match leaf {
                _ if change == 0 => {}
                0 => self.remove(digest_key(peer, bucket)),
                leaf => self.put(digest_key(peer, bucket), Bytes::copy_from_slice(&leaf.to_le_bytes())),
            }
        }
        if let Some(position) = position {
            self.put(Bytes::from_static(POSITION), position.to_bytes());
        }
        Ok(self.rows.into_iter())
    }

    /// A body that a live entry refers to has no lease; one that is referred to no more, or was brought anew,
    /// has one from now on. A part always has one.
    fn settle_leases(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.touched) {
            let Some(row) = self.blob(id)? else { continue };
            let (due, role) = match row.role {
                Role::Body if self.any(&references_key(id))? => (0, Role::Body),
                Role::Body => (self.due.body, Role::Body),
                Role::Part | Role::Trash => (self.due.part, Role::Part),
            };
            let after = BlobRow { due, role, ..row };
            if after != row {
                self.set_lease(id, row, after);
            }
        }
        Ok(())
    }

    fn wait(&mut self, user: UserId, entry: EntryId, before: &[NodeId], after: &[NodeId]) {
        for &peer in before.iter().filter(|peer| !after.contains(peer)) {
            self.remove(pending_key(peer, user, entry));
            *self.pending.entry(peer).or_default() -= 1;
        }
        for &peer in after.iter().filter(|peer| !before.contains(peer)) {
            self.put(pending_key(peer, user, entry), Bytes::new());
            *self.pending.entry(peer).or_default() += 1;
        }
    }

    fn refer(&mut self, before: Option<&Entry>, after: Option<&Entry>) {
        let node = self.node;
        let held = |entry: &&Entry| holds(node, entry);
        match (before.filter(held), after.filter(held)) {
            (None, Some(entry)) => {
                self.put(reference_key(entry.blob.id, entry.user, entry.id), Bytes::new());
                self.touched.insert(entry.blob.id);
            }
            (Some(entry), None) => {
                self.remove(reference_key(entry.blob.id, entry.user, entry.id));
                self.touched.insert(entry.blob.id);
            }
            _ => {}
        }
        let tombstone = |entry: &Entry| {
            let moved = (!holds(node, entry)).then_some(entry.replicas.at);
            let since = entry.expunged.or(moved)?.unix_millis() / 1_000;
            Some(tombstone_key(since, entry.user, entry.id))
        };
        let (before, after) = (before.and_then(tombstone), after.and_then(tombstone));
        if before != after {
            before.into_iter().for_each(|key| self.remove(key));
            after.into_iter().for_each(|key| self.put(key, Bytes::new()));
        }
    }

    /// Adds the entry to the digests of its other replicas, or takes it away: the same operation.
    fn toggle(&mut self, row: &EntryRow) {
        if self.holds(&row.entry) {
            let bucket = Bucket::of_user(row.entry.user);
            for &peer in row.entry.replicas.value.iter().filter(|&&peer| Some(peer) != self.node) {
                *self.digests.entry((peer, bucket)).or_default() ^= row.digest;
            }
        }
    }

    fn account(&mut self, segment: u64, change: i64) {
        *self.live.entry(segment).or_default() += change;
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.bytes += key.len() + value.len();
        self.rows.insert(key, Some(value));
    }

    pub fn remove(&mut self, key: Bytes) {
        self.bytes += key.len();
        self.rows.insert(key, None);
    }

    fn read(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.rows.get(key) {
            Some(row) => Ok(row.clone()),
            None => self.index.read(key),
        }
    }

    /// Is there a row whose key starts with this?
    fn any(&self, prefix: &Bytes) -> Result<bool> {
        let staged = self.rows.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(prefix));
        if staged.into_iter().any(|(_, row)| row.is_some()) {
            return Ok(true);
        }
        let mut found = false;
        self.index.scan(prefix, prefix, &mut |key, _| {
            found = !self.rows.contains_key(key);
            !found
        })?;
        Ok(found)
    }
}
