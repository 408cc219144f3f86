//! The index in fjall 3, a log-structured merge tree (docs/decisions/storage-engine.md says why).
//!
//! One keyspace holds all rows, because only within one keyspace is what survives a crash a prefix of what was
//! applied: a memtable is flushed whole, and its journal is flushed before the next one begins.

use super::{Change, Index};
use crate::error::{Error, Result};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::ops::Bound;
use std::path::Path;

pub struct FjallIndex {
    database: Database,
    rows: Keyspace,
}

impl FjallIndex {
    /// Opens the index in its own directory; one that cannot be read is removed and begun anew, as the log has
    /// it all. `cache_bytes` is for blocks read.
    ///
    /// # Errors
    /// If the directory cannot be made, or another process has it.
    pub fn open(path: impl AsRef<Path>, cache_bytes: u64) -> Result<Self> {
        let path = path.as_ref();
        match Self::try_open(path, cache_bytes) {
            Ok(index) => Ok(index),
            Err(fjall::Error::Locked) => {
                Err(Error::Open(format!("the index {} is in use by another process", path.display())))
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "index is unreadable; building a new one");
                std::fs::remove_dir_all(path).map_err(Error::index)?;
                Self::try_open(path, cache_bytes).map_err(Error::index)
            }
        }
    }

    fn try_open(path: &Path, cache_bytes: u64) -> fjall::Result<Self> {
        let database = Database::builder(path).cache_size(cache_bytes).worker_threads(1).open()?;
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
        Ok(Self { database, rows })
    }
}

impl Index for FjallIndex {
    fn apply(&self, changes: &mut dyn Iterator<Item = Change>) -> Result<()> {
        let mut batch = self.database.batch();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.rows, &key[..], &value[..]),
                None => batch.remove(&self.rows, &key[..]),
            }
        }
        batch.commit().map_err(Error::index)
    }

    fn read(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.rows.get(key).map_err(Error::index)?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        let begin = prefix.max(from);
        let end = after_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for row in self.rows.range::<&[u8], _>((Bound::Included(begin), end)) {
            let (key, value) = row.into_inner().map_err(Error::index)?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.rows.clear().map_err(Error::index)
    }

    fn persist(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(Error::index)
    }
}

/// The first key after all keys with this prefix; None if there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte < u8::MAX)?;
    let mut after = prefix.get(..=last)?.to_vec();
    *after.last_mut()? += 1;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::super::MemoryIndex;
    use super::*;

    fn put(key: &'static [u8], value: &'static [u8]) -> Change {
        (Bytes::from_static(key), Some(Bytes::from_static(value)))
    }

    fn keys(index: &dyn Index, prefix: &[u8], from: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        index
            .scan(prefix, from, &mut |key, _| {
                keys.push(key.to_vec());
                keys.len() < limit
            })
            .unwrap();
        keys
    }

    fn check(index: &dyn Index) {
        let rows =
            [put(b"a", b"0"), put(b"b1", b"1"), put(b"b2", b"2"), put(b"b\xff", b"3"), put(b"c", b"4")];
        index.apply(&mut rows.into_iter()).unwrap();
        assert_eq!(index.read(b"b2").unwrap().unwrap(), "2");
        assert_eq!(keys(index, b"b", b"", 9), [&b"b1"[..], b"b2", b"b\xff"]);
        assert_eq!(keys(index, b"b", b"b2", 9), [&b"b2"[..], b"b\xff"]);
        assert_eq!(keys(index, b"b", b"", 1), [b"b1"]);
        assert_eq!(keys(index, b"", b"", 9).len(), 5);
        index.apply(&mut [(Bytes::from_static(b"b2"), None)].into_iter()).unwrap();
        assert_eq!(index.read(b"b2").unwrap(), None);
        index.clear().unwrap();
        assert!(keys(index, b"", b"", 9).is_empty());
        index.apply(&mut [put(b"a", b"5")].into_iter()).unwrap();
        assert_eq!(index.read(b"a").unwrap().unwrap(), "5");
    }

    #[test]
    fn both_engines_are_the_same_sorted_map() {
        check(&MemoryIndex::new());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = FjallIndex::open(&path, 1 << 20).unwrap();
        check(&index);
        index.persist().unwrap();
        drop(index);
        let index = FjallIndex::open(&path, 1 << 20).unwrap();
        assert_eq!(index.read(b"a").unwrap().unwrap(), "5");
    }

    #[test]
    fn an_unreadable_index_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = FjallIndex::open(&path, 1 << 20).unwrap();
        index.apply(&mut [put(b"a", b"1")].into_iter()).unwrap();
        drop(index);
        std::fs::write(path.join("version"), b"not what fjall wrote").unwrap();
        let index = FjallIndex::open(&path, 1 << 20).unwrap();
        assert_eq!(index.read(b"a").unwrap(), None);
    }
}
