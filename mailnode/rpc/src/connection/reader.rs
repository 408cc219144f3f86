//! Takes frames off a connection, through one buffer of bounded size; long payloads go past it, straight to
//! where they belong.

use super::Ended;
use super::liveness::Heard;
use crate::metrics::{Metrics, add};
use crate::protocol::assembly::Assembly;
use crate::protocol::frame::{HEADER, Header, MAX_REASON, Malformed};
use bytes::{Buf, BufMut, BytesMut};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

const BUFFER: usize = 32 * 1024;
/// Payloads of at least this many bytes are not buffered.
const DIRECT: usize = 8 * 1024;
/// After this many bytes writing gets its turn.
const TURN: usize = 256 * 1024;

pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    heard: Arc<Heard>,
    metrics: Arc<Metrics>,
    turn: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R, heard: Arc<Heard>, metrics: Arc<Metrics>) -> Self {
        Self { stream, buffer: BytesMut::new(), heard, metrics, turn: 0 }
    }

    /// The next frame's header. Its payload must be taken before the next call.
    pub(super) async fn header(&mut self) -> Result<Header, Ended> {
        if self.buffer.is_empty() && !self.fill().await? {
            return Err(Ended::Closed);
        }
        Ok(Header::decode(self.fixed::<HEADER>().await?)?)
    }

    /// A part of the payload with a fixed length.
    pub(super) async fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Ended> {
        while self.buffer.len() < N {
            self.fill_more().await?;
        }
        let mut field = [0; N];
        self.buffer.copy_to_slice(&mut field);
        Ok(field)
    }

    /// Part of a message.
    pub(super) async fn data(&mut self, message: &mut Assembly, mut length: usize) -> Result<(), Ended> {
        if length > message.missing() {
            return Err(Malformed::FrameSize.into());
        }
        while length > 0 {
            let (part, wanted) = message.next(length);
            if self.buffer.is_empty() && wanted >= DIRECT {
                let read = self.stream.read_buf(&mut part.limit(wanted)).await?;
                if read == 0 {
                    return Err(cut_off());
                }
                length -= read;
                self.account(read).await;
                continue;
            }
            if self.buffer.is_empty() {
                self.fill_more().await?;
            }
            let now = wanted.min(self.buffer.len());
            part.extend_from_slice(self.buffer.get(..now).unwrap_or_default());
            self.buffer.advance(now);
            length -= now;
        }
        Ok(())
    }

    /// A payload that nobody wants any more.
    pub(super) async fn skip(&mut self, mut length: usize) -> Result<(), Ended> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.fill_more().await?;
            }
            let now = length.min(self.buffer.len());
            self.buffer.advance(now);
            length -= now;
        }
        Ok(())
    }

    /// The payload of a Refusal.
    pub(super) async fn reason(&mut self, length: usize) -> Result<String, Ended> {
        let length = length.min(MAX_REASON);
        while self.buffer.len() < length {
            self.fill_more().await?;
        }
        Ok(printable(&self.buffer.split_to(length)))
    }

    async fn fill_more(&mut self) -> Result<(), Ended> {
        if self.fill().await? { Ok(()) } else { Err(cut_off()) }
    }

    /// False at the end of the stream.
    async fn fill(&mut self) -> Result<bool, Ended> {
        self.buffer.reserve(BUFFER);
        let read = self.stream.read_buf(&mut (&mut self.buffer).limit(BUFFER)).await?;
        self.account(read).await;
        Ok(read > 0)
    }

    async fn account(&mut self, read: usize) {
        self.heard.now();
        add(&self.metrics.bytes_received, read as u64);
        self.turn += read;
        if self.turn >= TURN {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
    }
}

fn cut_off() -> Ended {
    Ended::Network(io::ErrorKind::UnexpectedEof.into())
}

/// A peer's text, safe to log.
pub(super) fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::Kind;

    fn reader(bytes: &[u8]) -> FrameReader<&[u8]> {
        FrameReader::new(bytes, Arc::new(Heard::new()), Arc::default())
    }

    #[tokio::test]
    async fn a_stream_that_ends_between_frames_is_closed_and_within_one_is_cut_off() {
        let mut frame = Vec::new();
        Header { kind: Kind::Cancel, call: 3, length: 0 }.encode(&mut frame);
        let mut whole = reader(&frame);
        assert_eq!(whole.header().await.unwrap().call, 3);
        assert!(matches!(whole.header().await, Err(Ended::Closed)));
        frame.pop();
        assert!(matches!(reader(&frame).header().await, Err(Ended::Network(_))));
    }

    #[tokio::test]
    async fn payloads_of_all_sizes_arrive_whole_past_or_through_the_buffer() {
        for size in [0, 1, DIRECT - 1, DIRECT, BUFFER, BUFFER + 1, 200_000] {
            let bytes: Vec<u8> = (0..size + 3).map(|i| i as u8).collect();
            let mut reader = reader(&bytes);
            let start = reader.fixed::<3>().await.unwrap();
            let mut message = Assembly::new(size / 3, size - size / 3);
            reader.data(&mut message, size).await.unwrap();
            let (head, body) = message.finish();
            assert_eq!([&start[..], &head, &body].concat(), bytes, "{size}");
        }
    }

    #[tokio::test]
    async fn more_data_than_the_message_claimed_is_refused() {
        let mut message = Assembly::new(0, 3);
        let error = reader(&[0; 4]).data(&mut message, 4).await.unwrap_err();
        assert!(matches!(error, Ended::Malformed(Malformed::FrameSize)));
    }
}
