//! Where responses go: a sink of byte chunks with back-pressure.
//!
//! The session never builds a large response in memory. It pushes chunks, message bodies among them as the very
//! [`Bytes`] the backend returned, and flushes whenever about [`FLUSH_AT`] bytes are waiting.

use std::future::Future;
use std::io;

use bytes::Bytes;

/// A session flushes after at most about this many bytes (one chunk more if that chunk is larger).
pub const FLUSH_AT: usize = 64 * 1024;

/// The client's side of the connection, as the session sees it.
pub trait Output: Send {
    /// Queues `bytes` behind what was pushed before. Does no I/O and keeps the chunk as it is.
    fn push(&mut self, bytes: Bytes);

    /// Writes everything that was pushed, waiting for a slow client. Errors end the session.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// Collects everything in memory: for tests and tools.
impl Output for Vec<u8> {
    fn push(&mut self, bytes: Bytes) {
        self.extend_from_slice(&bytes);
    }

    async fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
