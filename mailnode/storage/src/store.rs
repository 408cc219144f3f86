//! The store: this node's disk as the rest of the node sees it.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::heads::{self, Comparison, Head};
use crate::index::Index;
use crate::options::Options;
use crate::prepare::{Operation, prepare};
use crate::recovery::{Recovered, Recovery, recover};
use crate::rows::{
    BlobRow, EntryRow, PartTotals, USERS, ValueRow, blob_key, bucket_key, entry_key, fragment_key,
    ids_of_key, peer_key, pending_key, user_of_key, value_key,
};
use crate::shared::Shared;
use crate::staging::holds;
use crate::threads::Threads;
use crate::verify::{Verification, verify};
use crate::write::{Durability, Outcome, Write};
use crate::{compaction, read};
use bytes::Bytes;
use cluster::{BlobId, Bucket, Entry, EntryId, Fragment, Load, NodeId, UserId};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bodies above this many bytes are hashed on a thread that may take its time.
const HASH_INLINE: usize = 256 << 10;

/// A handle; clones are one store. When the last is dropped the store is closed.
#[derive(Clone)]
pub struct Store {
    threads: Arc<Threads>,
}

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metrics {
    pub commits: u64,
    /// Groups of commits that were flushed together.
    pub groups: u64,
    pub fsyncs: u64,
    pub bytes_written: u64,
    /// Bytes of the log that the index refers to.
    pub live_bytes: u64,
    /// Bytes of the log that compaction may free.
    pub dead_bytes: u64,
    pub segments: u64,
    /// Found since and at the start.
    pub corrupt_records: u64,
    /// Bytes of segments that compaction removed.
    pub compacted_bytes: u64,
    pub parts: PartTotals,
}

impl Store {
    /// Recovers the log, brings the index up to it, and starts the threads if `options` want them.
    ///
    /// # Errors
    /// [`Error::Open`] if it was written by a newer version; otherwise if the disk or the index fails.
    pub fn open(disk: impl Disk, index: impl Index, options: Options) -> Result<(Self, Recovery)> {
        let Recovered { segments, writer, accounts, recovery } = recover(&disk, &index, &options)?;
        let shared = Shared::new(Box::new(disk), Box::new(index), options, segments, writer, accounts);
        shared.counters.found_corrupt(recovery.corrupt_records);
        if recovery.corrupt_records > 0 || recovery.bytes_cut > 0 {
            tracing::warn!(?recovery, "the log was damaged or cut");
        }
        Ok((Self { threads: Arc::new(Threads::start(Arc::new(shared))?) }, recovery))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        self.threads.shared()
    }

    /// Waits for room in the queue, then for the flush. Dropping the future after the first wait does not take
    /// the commit back. Without threads it is done when this returns for the first time.
    ///
    /// # Errors
    /// See [`Error`]; of a commit that was refused nothing is kept.
    pub async fn commit(&self, writes: Vec<Write>, durability: Durability) -> Result<Vec<Outcome>> {
        let shared = self.shared();
        if let Some(error) = shared.failure() {
            return Err(error);
        }
        let bodies = writes.iter().map(|write| match write {
            Write::Blob { parts, .. } => parts.len(),
            _ => 0,
        });
        let large = shared.options.threads && bodies.sum::<usize>() > HASH_INLINE;
        let operations = match tokio::runtime::Handle::try_current() {
            Ok(runtime) if large => {
                let shared = shared.clone();
                let prepared = runtime.spawn_blocking(move || prepare(writes, &shared.options));
                prepared.await.map_err(|_| Error::Closed)??
            }
            _ => prepare(writes, &shared.options)?,
        };
        if operations.iter().any(Operation::grows) {
            shared.admit(operations.iter().map(Operation::most_bytes).sum())?;
        }
        if shared.options.threads {
            return shared.queue.submit(operations, durability).await;
        }
        if shared.queue.is_closed() {
            return Err(Error::Closed);
        }
        let outcomes = shared.writer().commit(shared, &[operations])?;
        Ok(outcomes.into_iter().next().unwrap_or_default())
    }

    /// All that this node knows of an entry, copy or not.
    pub fn entry(&self, user: UserId, entry: EntryId) -> Result<Option<Entry>> {
        let row = self.shared().index.read(&entry_key(user, entry))?;
        Ok(row.map(|row| EntryRow::parse(&row)).transpose()?.map(|row| row.entry))
    }

    /// Copies and tombstones.
    pub fn fragment(&self, user: UserId) -> Result<Fragment> {
        let mut fragment = Fragment::new(user);
        self.visit_entries(user, None, false, &mut |entry| {
            fragment.absorb(entry);
            true
        })?;
        Ok(fragment)
    }

    /// A page of a fragment: at most `limit` entries after `after`, in order of ids.
    pub fn entries(&self, user: UserId, after: Option<EntryId>, limit: usize) -> Result<Vec<Entry>> {
        self.page(user, after, false, limit)
    }

    /// As [`Store::entries`], with the versions of entries elsewhere that a replica still has to get from here: a
    /// witness may be the only one left who knows of a change.
    pub fn versions(&self, user: UserId, after: Option<EntryId>, limit: usize) -> Result<Vec<Entry>> {
        self.page(user, after, true, limit)
    }

    fn page(
        &self,
        user: UserId,
        after: Option<EntryId>,
        witnessed: bool,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        self.visit_entries(user, after, witnessed, &mut |entry| {
            if entries.len() < limit {
                entries.push(entry);
            }
            entries.len() < limit
        })?;
        Ok(entries)
    }

    fn visit_entries(
        &self,
        user: UserId,
        after: Option<EntryId>,
        witnessed: bool,
        visit: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<()> {
        let prefix = fragment_key(user);
        let from = after.map_or_else(|| prefix.clone(), |after| entry_key(user, after));
        let mut outcome = Ok(());
        let options = &self.shared().options;
        let since = options.witnessed_since(options.clock.unix_seconds());
        self.shared().index.scan(&prefix, &from, &mut |key, row| {
            if after.is_some() && *key == from[..] {
                return true;
            }
            match EntryRow::parse(row) {
                Ok(row)
                    if row.entry.is_live()
                        && !self.holds(&row.entry)
                        && !(witnessed && row.is_awaited(options.node, since)) =>
                {
                    true
                }
                Ok(row) => visit(row.entry),
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            }
        })?;
        outcome
    }

    /// Is this live entry a copy of this node's?
    pub fn holds(&self, entry: &Entry) -> bool {
        holds(self.shared().options.node, entry)
    }

    /// Users of these buckets, in ascending order, with a fragment here. Buckets without any cost nothing.
    pub fn users(&self, buckets: impl IntoIterator<Item = Bucket>) -> Result<Vec<UserId>> {
        let mut users = Vec::new();
        // Of the first user behind the last bucket that was looked at.
        let mut next = Some(Bucket(0));
        for bucket in buckets {
            match next {
                Some(next) if next <= bucket => {}
                Some(_) => continue,
                None => break,
            }
            next = None;
            self.shared().index.scan(USERS, &bucket_key(bucket), &mut |key, _| {
                let Some(user) = user_of_key(key) else { return true };
                if Bucket::of_user(user) == bucket {
                    users.push(user);
                } else {
                    next = Some(Bucket::of_user(user));
                }
                next.is_none()
            })?;
        }
        Ok(users)
    }

    /// None: not here (never was, garbage, or found corrupt); read another replica.
    pub async fn blob(&self, id: BlobId) -> Result<Option<Bytes>> {
        read::blob(self.shared(), id).await
    }

    pub fn has_blob(&self, id: BlobId) -> Result<bool> {
        let row = self.shared().index.read(&blob_key(id))?;
        Ok(row.map(|row| BlobRow::parse(&row)).transpose()?.is_some())
    }

    /// The update log of a peer: at most `limit` entries after `after`, in order of user and id. What is not to be told any more
    /// ([`Options::witnessed_since`]) is left out.
    pub fn pending(
        &self,
        peer: NodeId,
        mut after: Option<(UserId, EntryId)>,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        let prefix = peer_key(peer);
        let options = &self.shared().options;
        let since = options.witnessed_since(options.clock.unix_seconds());
        loop {
            let from = after.map_or_else(|| prefix.clone(), |(user, entry)| pending_key(peer, user, entry));
            let mut ids = Vec::new();
            self.shared().index.scan(&prefix, &from, &mut |key, _| {
                if ids.len() < limit && (after.is_none() || *key != from[..]) {
                    ids.extend(ids_of_key(key));
                }
                ids.len() < limit
            })?;
            after = ids.last().copied();
            let more = !ids.is_empty() && ids.len() == limit;
            let mut entries = Vec::with_capacity(ids.len());
            for (user, entry) in ids {
                // One that went away meanwhile was acknowledged or forgotten.
                let Some(row) = self.shared().index.read(&entry_key(user, entry))? else { continue };
                let row = EntryRow::parse(&row)?;
                if row.is_awaited(options.node, since) {
                    entries.push(row.entry);
                }
            }
            // An empty page says that there are no more.
            if !entries.is_empty() || !more {
                return Ok(entries);
            }
        }
    }

    pub fn pending_count(&self, peer: NodeId) -> u64 {
        self.shared().accounts().pending.get(&peer).copied().unwrap_or_default()
    }

    /// Peers with a pending entry.
    pub fn pending_peers(&self) -> Vec<NodeId> {
        self.shared().accounts().pending.keys().copied().collect()
    }

    pub fn record(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let row = self.shared().index.read(&value_key(key))?;
        Ok(row.map(|row| ValueRow::parse(&row)).transpose()?.map(|row| row.value))
    }

    /// Records whose keys start with `prefix`, after `after`, at most `limit`, in order of keys.
    pub fn records(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
        let prefix = value_key(prefix);
        let from = after.map_or_else(|| prefix.clone(), value_key);
        let mut rows = Vec::new();
        let mut outcome = Ok(());
        self.shared().index.scan(&prefix, &from, &mut |key, row| {
            if rows.len() >= limit {
                return false;
            }
            if after.is_some() && *key == from[..] {
                return true;
            }
            match (key.get(1..), ValueRow::parse(row)) {
                (Some(key), Ok(row)) => rows.push((Bytes::copy_from_slice(key), row.value)),
                (_, Err(error)) => outcome = Err(error),
                (None, _) => {}
            }
            outcome.is_ok() && rows.len() < limit
        })?;
        outcome.map(|()| rows)
    }

    /// Why nothing is written any more, if that is so: the node should say that it is not ready.
    pub fn failed(&self) -> Option<Error> {
        self.shared().failure()
    }

    pub fn load(&self) -> Load {
        let shared = self.shared();
        let space = shared.space();
        let used = u128::from(space.total.saturating_sub(space.available)) * 1_000;
        let fullness = used.checked_div(u128::from(space.total)).unwrap_or_default();
        // A simulator's runs must not depend on how long things really take.
        let flush = if shared.options.threads { shared.counters.flush_micros() / 100 } else { 0 };
        Load {
            pending: shared.queue.pending(),
            fullness: u16::try_from(fullness).unwrap_or(u16::MAX),
            flush: u16::try_from(flush).unwrap_or(u16::MAX),
        }
    }

    pub fn metrics(&self) -> Metrics {
        let shared = self.shared();
        let counters = &shared.counters;
        let (live_bytes, parts) = {
            let accounts = shared.accounts();
            (accounts.live.values().sum(), accounts.parts)
        };
        Metrics {
            commits: counters.commits.load(Relaxed),
            groups: counters.groups.load(Relaxed),
            fsyncs: counters.fsyncs.load(Relaxed),
            bytes_written: counters.bytes_written.load(Relaxed),
            live_bytes,
            dead_bytes: shared.segments.total_length().saturating_sub(live_bytes),
            segments: shared.segments.numbers().len() as u64,
            corrupt_records: counters.corrupt_records.load(Relaxed),
            compacted_bytes: counters.compacted_bytes.load(Relaxed),
            parts,
        }
    }

    /// Drops what nobody needs and rewrites segments with little alive, now and without throttle. With threads
    /// it happens by itself. Blocks: not for async tasks.
    ///
    /// # Errors
    /// As [`Store::commit`]; what was done stays done.
    pub fn maintain(&self) -> Result<()> {
        compaction::maintain(self.shared())
    }

    /// Walks the whole log, checking checksums, names of bodies and the chain. Takes as long as reading it;
    /// compaction waits meanwhile. Blocks: not for async tasks.
    ///
    /// # Errors
    /// If the disk fails. What is wrong with the log is in the answer.
    pub fn verify(&self) -> Result<Verification> {
        verify(self.shared())
    }

    /// The end of the log as it is on disk.
    pub fn head(&self) -> Head {
        heads::head(self.shared())
    }

    /// Whether a head that somebody remembers is one of this log. Reads a segment at most. Blocks: not for async
    /// tasks.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn compare(&self, remembered: Head) -> Result<Comparison> {
        heads::compare(self.shared(), remembered)
    }

    /// Ends the threads after what is queued is on disk; later commits get [`Error::Closed`]. Reads go on.
    /// Blocks for the last flush.
    pub fn close(&self) {
        self.threads.close();
    }
}
