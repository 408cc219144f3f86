//! What belongs to a queued message besides its bytes: sender and recipients (RFC 5321 2.3.1). It is stored in front
//! of the message in one blob, so that both have the same copies.
//!
//! ```text
//! "PQ" version:1 length:4 (big endian) envelope (postcard) message
//! ```
//! A field is never added to [`Envelope`]: another layout gets another version, and the old one stays readable.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Recipients of one queued message, at most; a message for more is queued several times.
pub const RECIPIENTS: usize = 1_000;
/// An envelope that claims to be longer is damaged.
const LONGEST: usize = 1 << 20;
const MAGIC: &[u8; 3] = b"PQ\x01";
const HEAD: usize = MAGIC.len() + 4;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Where it is reported to if it cannot be delivered; None is the null path `<>`, to which nothing is.
    pub sender: Option<String>,
    /// In the order in which outcomes are numbered.
    pub recipients: Vec<String>,
    /// The client asked for SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// The transaction's id, as in the logs and in the `Received:` line.
    pub id: String,
    /// Unix seconds.
    pub arrived: i64,
}

/// A blob that is no queued message. It cannot be sent, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("written by a newer version; update this node")]
    Newer,
    #[error("damaged envelope")]
    Damaged,
}

impl Envelope {
    /// The envelope and the message behind it.
    ///
    /// # Errors
    /// [`EnvelopeError::Damaged`] if the recipients are more than [`RECIPIENTS`].
    pub fn seal(&self, message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        if self.recipients.len() > RECIPIENTS {
            return Err(EnvelopeError::Damaged);
        }
        let coded = postcard::to_stdvec(self).map_err(|_| EnvelopeError::Damaged)?;
        let length = u32::try_from(coded.len()).map_err(|_| EnvelopeError::Damaged)?;
        let mut whole = Vec::with_capacity(HEAD + coded.len() + message.len());
        whole.extend_from_slice(MAGIC);
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&coded);
        whole.extend_from_slice(message);
        Ok(whole)
    }

    /// The reverse of [`Envelope::seal`].
    ///
    /// # Errors
    /// In the terms of [`EnvelopeError`].
    pub fn open(mut whole: Bytes) -> Result<(Self, Bytes), EnvelopeError> {
        let head = whole.get(..HEAD).ok_or(EnvelopeError::Damaged)?;
        let (magic, length) = head.split_at(MAGIC.len());
        match magic {
            magic if magic == MAGIC => {}
            [b'P', b'Q', _] => return Err(EnvelopeError::Newer),
            _ => return Err(EnvelopeError::Damaged),
        }
        let length = length.try_into().map(u32::from_be_bytes).map_err(|_| EnvelopeError::Damaged)? as usize;
        if length > LONGEST || whole.len() < HEAD + length {
            return Err(EnvelopeError::Damaged);
        }
        let message = whole.split_off(HEAD + length);
        let coded = whole.get(HEAD..).unwrap_or_default();
        let envelope: Self = postcard::from_bytes(coded).map_err(|_| EnvelopeError::Damaged)?;
        if envelope.recipients.len() > RECIPIENTS {
            return Err(EnvelopeError::Damaged);
        }
        Ok((envelope, message))
    }
}

/// The message with CRLF at the end of each line and nowhere a CR or LF alone (RFC 5321 2.3.8), as DATA needs it: to
/// some servers a bare LF ends a line, so what is behind it could be taken for the end of the message.
pub fn with_line_ends(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 2);
    let mut rest = message;
    while let Some(at) = memchr::memchr2(b'\r', b'\n', rest) {
        let (line, ends) = rest.split_at(at);
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        let length = if ends.starts_with(b"\r\n") { 2 } else { 1 };
        rest = ends.get(length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        out.extend_from_slice(rest);
        out.extend_from_slice(b"\r\n");
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            sender: Some("a@example.org".into()),
            recipients: vec!["b@example.net".into(), "c@example.com".into()],
            utf8: false,
            id: "7.1".into(),
            arrived: 1_700_000_000,
        }
    }

    #[test]
    fn envelope_and_message_survive() {
        let sealed = envelope().seal(b"Subject: x\r\n\r\nhello\r\n").unwrap();
        let (opened, message) = Envelope::open(Bytes::from(sealed)).unwrap();
        assert_eq!(opened, envelope());
        assert_eq!(&message[..], b"Subject: x\r\n\r\nhello\r\n");
    }

    #[test]
    fn what_is_no_envelope_is_an_error_and_nothing_worse() {
        let sealed = envelope().seal(b"x").unwrap();
        for end in 0..sealed.len() - 1 {
            assert_eq!(Envelope::open(Bytes::copy_from_slice(&sealed[..end])), Err(EnvelopeError::Damaged));
        }
        let mut newer = sealed.clone();
        newer[2] = 2;
        assert_eq!(Envelope::open(Bytes::from(newer)), Err(EnvelopeError::Newer));
        let mut long = sealed;
        long[3..7].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Envelope::open(Bytes::from(long)), Err(EnvelopeError::Damaged));
    }

    #[test]
    fn every_line_ends_with_crlf_and_nothing_else_does() {
        assert_eq!(&with_line_ends(b"a\r\nb\nc\rd\r\r\n\n.\n")[..], b"a\r\nb\r\nc\r\nd\r\n\r\n\r\n.\r\n");
        assert_eq!(&with_line_ends(b"no end")[..], b"no end\r\n");
        assert_eq!(&with_line_ends(b"")[..], b"");
        let good = b"Subject: x\r\n\r\nhello\r\n";
        assert_eq!(&with_line_ends(good)[..], good);
    }
}
