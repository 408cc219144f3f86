//! A mail node's disk (DESIGN 7): one log of segment files is the truth, an index over it is soft state.
//!
//! What must hold:
//! - What a commit was answered with is on disk; a commit is there whole or not at all ([`writer`]).
//! - The log alone is enough: the index may be lost, older or of another log ([`recovery`]).
//! - A torn tail is cut, damage elsewhere is reported and costs only what is damaged ([`recovery`]).
//! - After a failed write or flush nothing more is written ([`writer`]).
//! - A body is checked against its name once, when it comes ([`prepare`]), and by its checksum at each read.
//! - Nothing alive is lost by compaction, whenever it is interrupted ([`compaction`]).
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`disk`], [`index`] | the two things below, as traits: files, and a sorted map |
//! | [`record`] | the format of the log: its specification |
//! | [`rows`] | the rows of the index |
//! | [`store`] | the handle: commits and reads |
//! | [`prepare`], [`queue`], [`writer`] | the way of a commit: checks, batching, disk |
//! | [`evaluate`], [`staging`] | what a commit does to log and index; replay is the same |
//! | [`scan`], [`recovery`], [`verify`] | reading the log back |
//! | [`compaction`], [`collect`] | getting rid of what is dead |
//! | [`heads`] | what others remember of this log, and whether it is still so |
//! | [`dump`] | the log as a person reads it |
//! | [`parts`] | MIME parts, which live by leases |
//! | [`healing`] | what anti-entropy, re-replication and scrubbing ask |

mod collect;
mod compaction;
pub mod disk;
mod dump;
mod error;
mod evaluate;
mod heads;
mod healing;
pub mod index;
mod options;
mod parts;
mod prepare;
mod queue;
mod read;
mod record;
mod recovery;
mod rows;
mod scan;
mod segments;
mod shared;
mod staging;
mod store;
#[cfg(test)]
mod tests;
mod threads;
mod verify;
mod write;
mod writer;

pub use disk::{Disk, DiskFile, FileDisk, MemoryDisk, Space};
pub use dump::dump;
pub use error::{Error, Result};
pub use heads::{Comparison, Head};
pub use index::{FjallIndex, Index, MemoryIndex};
pub use options::{Clock, Options};
pub use parts::{PartCursor, PartPage, PartTotals};
pub use recovery::Recovery;
pub use store::{Metrics, Store};
pub use verify::{Seen, Verification, verify_files};
pub use write::{Durability, Outcome, Write};
