//! Writes what waits in the outbox, as many frames at a time as there are, so that small calls under load share
//! TLS records and system calls.

use super::outbox::Outbox;
use crate::endpoint::EndpointInner;
use crate::metrics::add;
use crate::protocol::outgoing::Batch;
use std::io::{self, IoSlice};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Runs until the connection breaks.
pub(super) async fn run<W: AsyncWrite + Unpin>(
    writer: &mut W,
    outbox: &Outbox,
    endpoint: &EndpointInner,
) -> io::Error {
    loop {
        if let Err(error) = write_queued(writer, outbox, endpoint).await {
            return error;
        }
        if outbox.is_closed() {
            return io::Error::other("more is queued than the protocol allows");
        }
        outbox.filled().await;
    }
}

/// Writes all that is queued, and flushes.
pub(super) async fn write_queued<W: AsyncWrite + Unpin>(
    writer: &mut W,
    outbox: &Outbox,
    endpoint: &EndpointInner,
) -> io::Result<()> {
    let mut batch = Batch::default();
    while outbox.fill(endpoint.load(), &mut batch) {
        write_batch(writer, &batch).await?;
        add(&endpoint.metrics.bytes_sent, batch.length as u64);
        batch.clear();
        // Reading is the same task's.
        tokio::task::yield_now().await;
    }
    writer.flush().await
}

async fn write_batch<W: AsyncWrite + Unpin>(writer: &mut W, batch: &Batch) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = batch.slices().map(IoSlice::new).collect();
    let (mut rest, mut left) = (&mut slices[..], batch.length);
    while left > 0 {
        let written = writer.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
        left -= written;
    }
    Ok(())
}
