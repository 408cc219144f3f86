//! What was read and not yet understood: cuts it into command lines of bounded length.
//!
//! A command line ends with CRLF; LF alone is taken, too, for people who type. That is safe, because no line is
//! looked for while a message is read.

use bytes::{Buf, BytesMut};

/// RFC 5321 4.5.3.1.4 asks for 512 octets; addresses and parameters of extensions need more.
const COMMAND_LINE: usize = 4_096;
/// RFC 4954 4.
const AUTH_LINE: usize = 12_288;
/// Skipped of one line that is too long, before the client is given up.
const LONGEST_SKIP: usize = 1024 * 1024;

#[derive(Debug, Default)]
pub struct Input {
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no LF.
    scanned: usize,
    /// Bytes skipped so far of a line that is too long.
    skipped: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its end.
    Complete(BytesMut),
    TooLong,
    /// So long that skipping it is not worth it.
    Flood,
    /// Not all there yet.
    Partial,
}

impl Input {
    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub fn consume(&mut self, count: usize) {
        self.buffer.advance(count.min(self.buffer.len()));
        self.scanned = 0;
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next command line. `auth` says that it is an answer to a challenge.
    pub fn line(&mut self, auth: bool) -> Line {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let end = memchr::memchr(b'\n', unseen).map(|position| position + self.scanned);
        let limit = if auth || self.starts_with(b"AUTH ") { AUTH_LINE } else { COMMAND_LINE };
        match end {
            Some(end) => {
                let mut line = self.buffer.split_to(end + 1);
                self.scanned = 0;
                if self.skipped.take().is_some() || line.len() > limit {
                    return Line::TooLong;
                }
                let end = if line.ends_with(b"\r\n") { end - 1 } else { end };
                line.truncate(end);
                Line::Complete(line)
            }
            None => {
                self.scanned = self.buffer.len();
                if self.skipped.is_some() || self.buffer.len() > limit {
                    let skipped = self.skipped.unwrap_or(0) + self.buffer.len();
                    self.skipped = Some(skipped);
                    self.consume(self.buffer.len());
                    if skipped > LONGEST_SKIP {
                        return Line::Flood;
                    }
                }
                Line::Partial
            }
        }
    }

    /// Whether a whole line is there that begins with this word.
    pub fn has_line(&self, word: &[u8]) -> bool {
        self.skipped.is_none() && self.starts_with(word) && memchr::memchr(b'\n', &self.buffer).is_some()
    }

    fn starts_with(&self, word: &[u8]) -> bool {
        self.buffer.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(bytes: &[u8]) -> Input {
        let mut input = Input::default();
        input.buffer().extend_from_slice(bytes);
        input
    }

    #[test]
    fn lines_end_with_crlf_or_lf() {
        let mut lines = input(b"NOOP\r\nRSET\n\r\nQU");
        for expected in [&b"NOOP"[..], b"RSET", b""] {
            assert_eq!(lines.line(false), Line::Complete(BytesMut::from(expected)));
        }
        assert_eq!(lines.line(false), Line::Partial);
        lines.buffer().extend_from_slice(b"IT\r\n");
        assert_eq!(lines.line(false), Line::Complete(BytesMut::from(&b"QUIT"[..])));
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_without_being_kept() {
        let mut lines = Input::default();
        for _ in 0..100 {
            lines.buffer().extend_from_slice(&[b'x'; 1000]);
            assert_eq!(lines.line(false), Line::Partial);
            assert!(lines.bytes().len() <= COMMAND_LINE);
        }
        lines.buffer().extend_from_slice(b"x\r\nNOOP\r\n");
        assert_eq!(lines.line(false), Line::TooLong);
        assert_eq!(lines.line(false), Line::Complete(BytesMut::from(&b"NOOP"[..])));
        assert_eq!(input(&[&[b'x'; 5000][..], b"\r\n"].concat()).line(false), Line::TooLong);
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut lines = Input::default();
        let gave_up = (0..1000).any(|_| {
            lines.buffer().extend_from_slice(&[b'x'; 4096]);
            lines.line(false) == Line::Flood
        });
        assert!(gave_up);
    }

    #[test]
    fn auth_may_be_longer() {
        let line = [b"AUTH PLAIN ", &[b'x'; 12_000][..], b"\r\n"].concat();
        assert!(matches!(input(&line).line(false), Line::Complete(_)));
        assert!(matches!(input(&[&[b'x'; 12_000][..], b"\r\n"].concat()).line(true), Line::Complete(_)));
    }
}
