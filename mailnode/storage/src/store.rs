//! The store: this node's disk as the rest of the node sees it.

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::options::Options;
use crate::write::{Durability, Outcome, Write};
use bytes::Bytes;
use cluster::{BlobId, Bucket, Entry, EntryId, Fragment, Load, NodeId, UserId};

/// A handle; clones are one store.
#[derive(Clone)]
pub struct Store {}

/// What the start found.
#[derive(Debug, Clone, Default)]
pub struct Recovery {}

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metrics {}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default)]
pub struct Verification {}

impl Store {
    pub fn open(_disk: impl Disk, _index: impl Index, _options: Options) -> Result<(Self, Recovery)> {
        Err(Error::Closed)
    }
    /// Waits for room in the queue, then for the flush. Dropping the future does not take the commit back.
    pub async fn commit(&self, _writes: Vec<Write>, _durability: Durability) -> Result<Vec<Outcome>> {
        Err(Error::Closed)
    }
    pub fn entry(&self, _user: UserId, _entry: EntryId) -> Result<Option<Entry>> {
        Err(Error::Closed)
    }
    pub fn fragment(&self, _user: UserId) -> Result<Fragment> {
        Err(Error::Closed)
    }
    pub fn users(&self, _bucket: Bucket) -> Result<Vec<UserId>> {
        Err(Error::Closed)
    }
    /// None: not here (never was, garbage, or found corrupt); read another replica.
    pub async fn blob(&self, _id: BlobId) -> Result<Option<Bytes>> {
        Err(Error::Closed)
    }
    pub fn has_blob(&self, _id: BlobId) -> Result<bool> {
        Err(Error::Closed)
    }
    pub fn pending(
        &self,
        _peer: NodeId,
        _after: Option<(UserId, EntryId)>,
        _limit: usize,
    ) -> Result<Vec<Entry>> {
        Err(Error::Closed)
    }
    pub fn pending_count(&self, _peer: NodeId) -> u64 {
        0
    }
    pub fn pending_peers(&self) -> Vec<NodeId> {
        Vec::new()
    }
    pub fn record(&self, _key: &[u8]) -> Result<Option<Bytes>> {
        Err(Error::Closed)
    }
    /// Records whose keys start with `prefix`, after `after`, at most `limit`, in order of keys.
    pub fn records(
        &self,
        _prefix: &[u8],
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        Err(Error::Closed)
    }
    pub fn load(&self) -> Load {
        Load::default()
    }
    pub fn metrics(&self) -> Metrics {
        Metrics {}
    }
    /// Walks the whole log, checking checksums, names of bodies and the chain. Takes as long as reading it.
    pub fn verify(&self) -> Result<Verification> {
        Err(Error::Closed)
    }
    /// Ends the threads after what is queued is on disk; later commits get [`Error::Closed`].
    pub fn close(&self) {}
}
