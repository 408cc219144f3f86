//! Frames: the unit in which the transport, version [`TRANSPORT_VERSION`], talks over TLS.
//!
//! A frame is a header of [`HEADER`] bytes (length of the payload `u32`, kind `u8`, call `u64`; all integers are
//! big-endian) and a payload of at most [`MAX_PAYLOAD`] bytes, so that a long message never holds up a short one
//! for longer than one frame.
//!
//! | kind | from | payload |
//! | --- | --- | --- |
//! | Hello | both, once, first | see [`super::hello`] |
//! | Refusal | both, last | why, UTF-8 of at most [`MAX_REASON`] bytes |
//! | Request | caller | [`RequestStart`], then the first bytes of head and body |
//! | Response | server | [`ResponseStart`], then the first bytes of head and body |
//! | Data | both | the next bytes of head and body of the call |
//! | Finished | server | [`Finished`]: the call has ended and there is no response |
//! | Cancel | caller | nothing: the caller wants no response any more |
//! | Received | caller | nothing: a response above the small size has arrived, its credit is free again |
//! | Ping, Pong | both | a number, which comes back |
//! | Goodbye | server | nothing: no new calls on this connection, please; close it when those in flight are done |
//!
//! Every request is answered by one Response or Finished, unless it was cancelled. A message up to
//! [`crate::SMALL_MESSAGE`] is one frame. Anything else than the above closes the connection.

use std::time::Duration;

pub(crate) const TRANSPORT_VERSION: u16 = 1;
pub(crate) const HEADER: usize = 13;
pub(crate) const MAX_PAYLOAD: usize = 64 * 1024;
pub(crate) const MAX_HELLO: usize = 1024;
pub(crate) const MAX_REASON: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Hello = 1,
    Refusal = 2,
    Request = 3,
    Response = 4,
    Data = 5,
    Finished = 6,
    Cancel = 7,
    Received = 8,
    Ping = 9,
    Pong = 10,
    Goodbye = 11,
}

/// How a peer broke the protocol; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("unknown frame type {0}")]
    Kind(u8),
    #[error("{kind:?} frame of {length} bytes")]
    Length { kind: Kind, length: u32 },
    #[error("{0:?} frame out of place")]
    Place(Kind),
    #[error("{0:?} frame for a call that is not there")]
    Call(Kind),
    #[error("head or body above the agreed limit")]
    MessageSize,
    #[error("a message's frame does not fit its length")]
    FrameSize,
    #[error("more bytes in flight than agreed")]
    Window,
    #[error("unknown flag or code {0}")]
    Code(u8),
    #[error("hello not understood")]
    Hello,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) call: u64,
    pub(crate) length: usize,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Hello,
        Self::Refusal,
        Self::Request,
        Self::Response,
        Self::Data,
        Self::Finished,
        Self::Cancel,
        Self::Received,
        Self::Ping,
        Self::Pong,
        Self::Goodbye,
    ];

    /// Smallest and largest payload.
    const fn lengths(self) -> (usize, usize) {
        match self {
            Self::Hello => (1, MAX_HELLO),
            Self::Refusal => (0, MAX_REASON),
            Self::Request => (RequestStart::LENGTH, MAX_PAYLOAD),
            Self::Response => (ResponseStart::LENGTH, MAX_PAYLOAD),
            Self::Data => (1, MAX_PAYLOAD),
            Self::Finished => (Finished::LENGTH, Finished::LENGTH),
            Self::Cancel | Self::Received | Self::Goodbye => (0, 0),
            Self::Ping | Self::Pong => (8, 8),
        }
    }

    const fn is_about_a_call(self) -> bool {
        matches!(
            self,
            Self::Request | Self::Response | Self::Data | Self::Finished | Self::Cancel | Self::Received
        )
    }
}

impl Header {
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        // Payloads are at most MAX_PAYLOAD.
        out.extend_from_slice(&u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes());
        out.push(self.kind as u8);
        out.extend_from_slice(&self.call.to_be_bytes());
    }

    pub(crate) fn decode(bytes: [u8; HEADER]) -> Result<Self, Malformed> {
        let mut fields = Fields(&bytes);
        let (length, kind, call) = (fields.u32(), fields.u8(), fields.u64());
        let kind = Kind::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(Malformed::Kind(kind))?;
        let (least, most) = kind.lengths();
        if (call == 0) == kind.is_about_a_call() {
            return Err(Malformed::Call(kind));
        }
        match usize::try_from(length) {
            Ok(fits) if (least..=most).contains(&fits) => Ok(Self { kind, call, length: fits }),
            _ => Err(Malformed::Length { kind, length }),
        }
    }
}

/// Beginning of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestStart {
    pub(crate) one_way: bool,
    pub(crate) method: u16,
    /// Time left until the caller gives up; on the wire in microseconds, because clocks of nodes differ.
    pub(crate) remaining: Duration,
    pub(crate) trace_id: u64,
    pub(crate) load: u64,
    pub(crate) head: u32,
    pub(crate) body: u32,
}

impl RequestStart {
    pub(crate) const LENGTH: usize = 35;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let micros = u64::try_from(self.remaining.as_micros()).unwrap_or(u64::MAX);
        out.push(u8::from(self.one_way));
        out.extend_from_slice(&self.method.to_be_bytes());
        for number in [micros, self.trace_id, self.load] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&self.head.to_be_bytes());
        out.extend_from_slice(&self.body.to_be_bytes());
    }

    pub(crate) fn decode(bytes: [u8; Self::LENGTH]) -> Result<Self, Malformed> {
        let mut fields = Fields(&bytes);
        let one_way = match fields.u8() {
            0 => false,
            1 => true,
            other => return Err(Malformed::Code(other)),
        };
        Ok(Self {
            one_way,
            method: fields.u16(),
            remaining: Duration::from_micros(fields.u64()),
            trace_id: fields.u64(),
            load: fields.u64(),
            head: fields.u32(),
            body: fields.u32(),
        })
    }
}

/// Beginning of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseStart {
    pub(crate) status: u16,
    pub(crate) load: u64,
    pub(crate) head: u32,
    pub(crate) body: u32,
}

impl ResponseStart {
    pub(crate) const LENGTH: usize = 18;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.status.to_be_bytes());
        out.extend_from_slice(&self.load.to_be_bytes());
        out.extend_from_slice(&self.head.to_be_bytes());
        out.extend_from_slice(&self.body.to_be_bytes());
    }

    pub(crate) fn decode(bytes: [u8; Self::LENGTH]) -> Self {
        let mut fields = Fields(&bytes);
        Self { status: fields.u16(), load: fields.u64(), head: fields.u32(), body: fields.u32() }
    }
}

/// Why a call ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A one-way request was handled.
    Handled = 0,
    /// The handler panicked, or its answer was above the limits.
    Failed = 1,
    /// The deadline passed.
    Expired = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    pub(crate) load: u64,
}

impl Finished {
    pub(crate) const LENGTH: usize = 9;

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        out.push(self.outcome as u8);
        out.extend_from_slice(&self.load.to_be_bytes());
    }

    pub(crate) fn decode(bytes: [u8; Self::LENGTH]) -> Result<Self, Malformed> {
        let mut fields = Fields(&bytes);
        let outcome = match fields.u8() {
            0 => Outcome::Handled,
            1 => Outcome::Failed,
            2 => Outcome::Expired,
            other => return Err(Malformed::Code(other)),
        };
        Ok(Self { outcome, load: fields.u64() })
    }
}

/// Takes big-endian integers off the front of a slice whose length the caller knows; past its end there are zeros.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, call: u64, length: u32) -> Result<Header, Malformed> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(&call.to_be_bytes());
        Header::decode(bytes.try_into().unwrap())
    }

    #[test]
    fn headers_of_all_kinds_come_back_as_they_were() {
        for kind in Kind::ALL {
            let call = if kind.is_about_a_call() { u64::MAX } else { 0 };
            for length in [kind.lengths().0, kind.lengths().1] {
                let mut out = Vec::new();
                Header { kind, call, length }.encode(&mut out);
                assert_eq!(Header::decode(out.try_into().unwrap()), Ok(Header { kind, call, length }));
            }
        }
    }

    #[test]
    fn a_wrong_kind_length_or_call_is_refused_before_anything_is_read() {
        assert_eq!(header(0, 1, 0), Err(Malformed::Kind(0)));
        assert_eq!(header(99, 1, 0), Err(Malformed::Kind(99)));
        let data = Kind::Data;
        assert_eq!(header(data as u8, 1, 0), Err(Malformed::Length { kind: data, length: 0 }));
        assert_eq!(header(data as u8, 1, u32::MAX), Err(Malformed::Length { kind: data, length: u32::MAX }));
        assert_eq!(header(Kind::Request as u8, 1, 34).unwrap_err(), {
            Malformed::Length { kind: Kind::Request, length: 34 }
        });
        assert_eq!(header(data as u8, 0, 1), Err(Malformed::Call(data)));
        assert_eq!(header(Kind::Ping as u8, 1, 8), Err(Malformed::Call(Kind::Ping)));
    }

    #[test]
    fn the_beginnings_of_messages_come_back_as_they_were_and_have_the_length_they_say() {
        let request = RequestStart {
            one_way: true,
            method: 0x0102,
            remaining: Duration::from_micros(1_234_567),
            trace_id: u64::MAX,
            load: 7,
            head: u32::MAX,
            body: 3,
        };
        let mut out = Vec::new();
        request.encode(&mut out);
        assert_eq!(RequestStart::decode(out.try_into().unwrap()), Ok(request));

        let response = ResponseStart { status: 500, load: u64::MAX - 1, head: 1, body: 2 };
        let mut out = Vec::new();
        response.encode(&mut out);
        assert_eq!(ResponseStart::decode(out.try_into().unwrap()), response);

        for outcome in [Outcome::Handled, Outcome::Failed, Outcome::Expired] {
            let mut out = Vec::new();
            Finished { outcome, load: 9 }.encode(&mut out);
            assert_eq!(Finished::decode(out.try_into().unwrap()), Ok(Finished { outcome, load: 9 }));
        }
    }

    #[test]
    fn unknown_flags_and_codes_are_refused() {
        let mut request = [0; RequestStart::LENGTH];
        request[0] = 2;
        assert_eq!(RequestStart::decode(request), Err(Malformed::Code(2)));
        assert_eq!(Finished::decode([3; Finished::LENGTH]), Err(Malformed::Code(3)));
    }
}
