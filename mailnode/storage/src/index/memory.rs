//! A `BTreeMap`, for simulators and tests.

use super::{Change, Index};
use crate::error::Result;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// Clones are one index.
#[derive(Debug, Clone, Default)]
pub struct MemoryIndex {
    rows: Arc<RwLock<BTreeMap<Bytes, Bytes>>>,
}

impl MemoryIndex {
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> RwLockReadGuard<'_, BTreeMap<Bytes, Bytes>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy that goes its own way: the index as it is now, for a later crash to bring back.
    pub fn copy(&self) -> Self {
        Self { rows: Arc::new(RwLock::new(self.rows().clone())) }
    }
}

impl Index for MemoryIndex {
    fn apply(&self, changes: &mut dyn Iterator<Item = Change>) -> Result<()> {
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        Ok(())
    }

    fn read(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows().get(key).cloned())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        let begin = prefix.max(from);
        for (key, value) in self.rows().range::<[u8], _>((Bound::Included(begin), Bound::Unbounded)) {
            if !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }

    fn persist(&self) -> Result<()> {
        Ok(())
    }
}
