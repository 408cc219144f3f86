//! A client's connection with what waits to be written to it. Chunks are written as they are, many in one system
//! call, and a client that does not take them is given up.

use super::listener::Stream;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// A client that takes nothing for so long is gone (RFC 5321 4.5.3.2.6 gives it three minutes).
const WRITE_LIMIT: Duration = Duration::from_secs(180);
/// Chunks in one system call.
const CHUNKS: usize = 64;
/// Room that a read finds, at least.
const READ: usize = 16 * 1024;

pub struct Socket {
    stream: Stream,
    queue: VecDeque<Bytes>,
}

impl Socket {
    pub fn new(stream: Stream) -> Self {
        Self { stream, queue: VecDeque::new() }
    }

    /// TLS from here on; what was queued is gone.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn upgrade(self, tls: &TlsAcceptor) -> io::Result<Self> {
        Ok(Self::new(self.stream.upgrade(tls).await?))
    }

    /// Reads what is there. 0: the client is gone.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        into.reserve(READ);
        self.stream.acknowledge_at_once();
        self.stream.read_buf(into).await
    }

    /// Queues a chunk.
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queue.push_back(bytes);
        }
    }

    /// Writes all that is queued.
    ///
    /// # Errors
    /// Of the connection, or if the client takes nothing for three minutes.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let parts: Vec<IoSlice<'_>> =
                self.queue.iter().take(CHUNKS).map(|chunk| IoSlice::new(chunk)).collect();
            let written = timeout(WRITE_LIMIT, self.stream.write_vectored(&parts)).await??;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        timeout(WRITE_LIMIT, self.stream.flush()).await?
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(chunk) = self.queue.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                return;
            }
            written -= chunk.len();
            self.queue.pop_front();
        }
    }

    /// Says goodbye to TLS and TCP.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn close(mut self) -> io::Result<()> {
        self.flush().await?;
        timeout(Duration::from_secs(5), self.stream.shutdown()).await?
    }
}

impl imap::Output for Socket {
    fn push(&mut self, bytes: Bytes) {
        Self::push(self, bytes);
    }

    async fn flush(&mut self) -> io::Result<()> {
        Self::flush(self).await
    }
}
