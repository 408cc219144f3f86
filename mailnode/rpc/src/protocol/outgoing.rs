//! A message on its way out, cut into frames without copying more than small pieces of it.

use super::frame::{Header, Kind, MAX_PAYLOAD, RequestStart, ResponseStart};
use bytes::Bytes;
use std::ops::Range;
use tokio::time::Instant;

/// Pieces up to this size are copied beside the headers: cheaper than a slice of their own, in bytes.
const COPIED: usize = 1024;

/// A request or response that is queued, or partly sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) call: u64,
    start: Start,
    head: Bytes,
    body: Bytes,
    started: bool,
}

#[derive(Debug)]
pub(crate) enum Start {
    Request { one_way: bool, method: u16, deadline: Instant, trace_id: u64 },
    Response { status: u16 },
}

/// Frames that are written together: runs of copied bytes, and slices of messages between them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) copied: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
    /// Bytes of all pieces.
    pub(crate) length: usize,
    /// Where the run of copied bytes that is being added to begins.
    run: usize,
}

#[derive(Debug)]
pub(crate) enum Piece {
    Copied(Range<usize>),
    Shared(Bytes),
}

impl Outgoing {
    pub(crate) fn new(call: u64, start: Start, head: Bytes, body: Bytes) -> Self {
        Self { call, start, head, body, started: false }
    }

    pub(crate) fn left(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Some of it was sent.
    pub(crate) const fn is_started(&self) -> bool {
        self.started
    }

    /// Adds the next frame to the batch; true if it was the last. `load` is this node's load report.
    pub(crate) fn next_frame(&mut self, load: u64, batch: &mut Batch) -> bool {
        let (kind, fields) = match (self.started, &self.start) {
            (true, _) => (Kind::Data, 0),
            (false, Start::Request { .. }) => (Kind::Request, RequestStart::LENGTH),
            (false, Start::Response { .. }) => (Kind::Response, ResponseStart::LENGTH),
        };
        let data = self.left().min(MAX_PAYLOAD - fields);
        batch.header(Header { kind, call: self.call, length: fields + data });
        if !self.started {
            self.encode_start(load, &mut batch.copied);
            self.started = true;
        }
        let from_head = self.head.len().min(data);
        batch.push(self.head.split_to(from_head));
        batch.push(self.body.split_to(data - from_head));
        self.left() == 0
    }

    fn encode_start(&self, load: u64, out: &mut Vec<u8>) {
        // Both are below 4 GiB: the limits are 32 bits.
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (head, body) = (length(&self.head), length(&self.body));
        match self.start {
            Start::Request { one_way, method, deadline, trace_id } => {
                let remaining = deadline.saturating_duration_since(Instant::now());
                RequestStart { one_way, method, remaining, trace_id, load, head, body }.encode(out);
            }
            Start::Response { status } => ResponseStart { status, load, head, body }.encode(out),
        }
    }
}

impl Batch {
    pub(crate) fn header(&mut self, header: Header) {
        header.encode(&mut self.copied);
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED {
            self.copied.extend_from_slice(&bytes);
        } else {
            self.end_run();
            self.length += bytes.len();
            self.pieces.push(Piece::Shared(bytes));
        }
    }

    /// Bytes added so far, the unfinished run of copied ones included.
    pub(crate) const fn size(&self) -> usize {
        self.length + self.copied.len() - self.run
    }

    /// Call when nothing more is added.
    pub(crate) fn end_run(&mut self) {
        if self.run < self.copied.len() {
            self.length += self.copied.len() - self.run;
            self.pieces.push(Piece::Copied(self.run..self.copied.len()));
            self.run = self.copied.len();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.copied.clear();
        self.pieces.clear();
        (self.length, self.run) = (0, 0);
    }

    /// The pieces in order.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Copied(range) => self.copied.get(range.clone()).unwrap_or_default(),
            Piece::Shared(bytes) => bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::HEADER;
    use super::*;

    /// Kinds and payloads of the frames in a batch.
    fn frames(batch: &mut Batch) -> Vec<(Kind, Vec<u8>)> {
        batch.end_run();
        let bytes: Vec<u8> = batch.slices().flatten().copied().collect();
        assert_eq!(bytes.len(), batch.length);
        let (mut rest, mut found) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let header = Header::decode(rest[..HEADER].try_into().unwrap()).unwrap();
            found.push((header.kind, rest[HEADER..HEADER + header.length].to_vec()));
            rest = &rest[HEADER + header.length..];
        }
        found
    }

    #[test]
    fn a_long_message_is_cut_into_frames_that_put_together_give_the_message() {
        let head = Bytes::from(vec![1; 70_000]);
        let body = Bytes::from((0..200_000_u32).map(|i| i as u8).collect::<Vec<_>>());
        let mut out = Outgoing::new(5, Start::Response { status: 9 }, head.clone(), body.clone());
        let mut batch = Batch::default();
        while !out.next_frame(77, &mut batch) {}
        let frames = frames(&mut batch);
        assert_eq!(frames[0].0, Kind::Response);
        assert!(frames[1..].iter().all(|(kind, _)| *kind == Kind::Data));
        let start = ResponseStart::decode(frames[0].1[..ResponseStart::LENGTH].try_into().unwrap());
        assert_eq!(start, ResponseStart { status: 9, load: 77, head: 70_000, body: 200_000 });
        let mut data = frames[0].1[ResponseStart::LENGTH..].to_vec();
        frames[1..].iter().for_each(|(_, payload)| data.extend_from_slice(payload));
        assert_eq!(data, [&head[..], &body[..]].concat());
    }

    #[test]
    fn long_pieces_are_slices_of_the_message_and_short_ones_are_copied() {
        let body = Bytes::from(vec![7; 5000]);
        let start = Start::Response { status: 0 };
        let mut batch = Batch::default();
        assert!(Outgoing::new(1, start, Bytes::from_static(b"h"), body.clone()).next_frame(0, &mut batch));
        batch.end_run();
        let shared: Vec<_> = batch.pieces.iter().filter(|piece| matches!(piece, Piece::Shared(_))).collect();
        assert!(matches!(shared[..], [Piece::Shared(piece)] if piece.as_ptr() == body.as_ptr()));
    }

    #[test]
    fn an_empty_message_is_one_frame() {
        let mut batch = Batch::default();
        let start = Start::Request { one_way: false, method: 1, deadline: Instant::now(), trace_id: 0 };
        assert!(Outgoing::new(1, start, Bytes::new(), Bytes::new()).next_frame(0, &mut batch));
        let frames = frames(&mut batch);
        assert_eq!((frames.len(), frames[0].0), (1, Kind::Request));
    }
}
