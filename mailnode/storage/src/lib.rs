//! A mail node's disk (DESIGN 7).

pub mod disk;
mod error;
pub mod index;
mod options;
mod store;
mod write;

pub use disk::{Disk, DiskFile, FileDisk, MemoryDisk, Space};
pub use error::{Error, Result};
pub use index::{FjallIndex, Index, MemoryIndex};
pub use options::{Clock, Options};
pub use store::{Metrics, Recovery, Store, Verification};
pub use write::{Durability, Outcome, Write};
