//! What can go wrong, and what to do about it.

use std::io;
use std::sync::Arc;

/// Cheap to clone: one failed flush answers a whole group of commits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Permanent until the process is restarted: a write or flush failed, and what reached the disk is not
    /// known. The commit may or may not survive; nothing later is accepted. Reads go on.
    #[error("storage is read-only since a failure: {0}; check the disk, then restart the node")]
    ReadOnly(Arc<str>),
    /// Temporary: no space left. Nothing of the commit was kept. Goes away when compaction or an operator frees
    /// space.
    #[error("the disk is full")]
    Full,
    /// Bad input: the body's hash is not its name. Nothing of the commit was kept.
    #[error("body does not match its name {0}")]
    WrongName(String),
    /// Bad input: a commit or one of its parts is larger than the format or the options allow.
    #[error("{what} of {size} bytes is over the limit of {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    /// The store was closed; the commit was not begun.
    #[error("storage is closed")]
    Closed,
    /// The directory cannot be opened as a store; the text says why and what to do.
    #[error("cannot open storage: {0}")]
    Open(String),
    /// A read failed. Try another replica.
    #[error("cannot read: {0}")]
    Read(Arc<io::Error>),
    /// The index engine failed. It is soft state: a restart rebuilds it from the log.
    #[error("the index failed: {0}; restart the node to rebuild it from the log")]
    Index(Arc<str>),
}

impl Error {
    pub(crate) fn read(error: io::Error) -> Self {
        Self::Read(Arc::new(error))
    }

    pub(crate) fn index(error: impl std::fmt::Display) -> Self {
        Self::Index(error.to_string().into())
    }

    /// True if the same commit may succeed later on this node.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Full | Self::Read(_))
    }
}

pub type Result<T> = std::result::Result<T, Error>;
