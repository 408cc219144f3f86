//! The index over the log: soft state, rebuilt from the log when lost.
//!
//! A sorted map of bytes. A batch is applied whole or not at all, also in a crash, and a crash may take back
//! the newest batches but never one from the middle: so the log position that every batch carries as a row of
//! its own never claims more than the index has. Nothing has to be durable: what is gone is replayed.

mod fjall;
mod memory;

pub use self::fjall::FjallIndex;
pub use memory::MemoryIndex;

use crate::error::Result;
use bytes::Bytes;

/// A row to put, or to delete if the value is None.
pub type Change = (Bytes, Option<Bytes>);

pub trait Index: Send + Sync + 'static {
    /// Applies all changes at once; reads that begin after it see them.
    fn apply(&self, changes: &mut dyn Iterator<Item = Change>) -> Result<()>;
    fn read(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Calls `visit` with the rows from `from` (inclusive) on whose keys start with `prefix`, in order of keys,
    /// until it returns false.
    fn scan(&self, prefix: &[u8], from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()>;
    /// Removes all rows.
    fn clear(&self) -> Result<()>;
    /// Makes what was applied durable, so that the next start replays less. For an orderly end.
    fn persist(&self) -> Result<()>;
}
