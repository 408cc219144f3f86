//! The few calls through which all durable bytes go, narrow enough for a simulator to stand in.
//!
//! Contract, which [`FileDisk`] gets from a POSIX file system and [`MemoryDisk`] imitates, faults included:
//! - Written bytes survive a crash once [`DiskFile::sync`] returned; before that any part of them may.
//! - A file's name (after create, rename, remove) survives a crash once [`Disk::sync_directory`] returned.
//! - After a failed write or sync nothing is known about the bytes concerned.

mod file;
mod memory;

pub use file::FileDisk;
pub use memory::{Crash, Fault, MemoryDisk};

use std::io::{IoSlice, Result};
use std::sync::Arc;

/// Size of the file system, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What may still be written.
    pub available: u64,
}

/// One flat directory of files, used by one process.
pub trait Disk: Send + Sync + 'static {
    /// Makes a new, empty file. Fails if the name is taken.
    fn create(&self, name: &str) -> Result<Arc<dyn DiskFile>>;
    /// Opens a file for reading and writing. Fails with `NotFound` if there is none.
    fn open(&self, name: &str) -> Result<Arc<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Files that are open stay readable.
    fn remove(&self, name: &str) -> Result<()>;
    /// The names of all files, in any order.
    fn list(&self) -> Result<Vec<String>>;
    fn sync_directory(&self) -> Result<()>;
    fn space(&self) -> Result<Space>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    fn length(&self) -> Result<u64>;
    /// Writes all parts at `offset`, which may be at or below the end.
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> Result<()>;
    /// Reads up to `into.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize>;
    /// Like `read_at` if that needs no wait for the disk, else None.
    fn read_now(&self, offset: u64, into: &mut [u8]) -> Option<Result<usize>>;
    fn truncate(&self, length: u64) -> Result<()>;
    fn sync(&self) -> Result<()>;
}
