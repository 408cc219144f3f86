//! What was read and not yet understood: cuts it into command lines of bounded length.

use bytes::{Buf, BytesMut};

/// RFC 2449 4 allows 255 octets; responses of AUTH (RFC 5034 4) are longer.
const LONGEST: usize = 4_096;

#[derive(Debug, Default)]
pub struct Input {
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no LF.
    scanned: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its end.
    Complete(BytesMut),
    /// Nothing after it can be trusted to be a command.
    TooLong,
    /// Not all there yet.
    Partial,
}

impl Input {
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next line, ended by CRLF; LF alone is taken, too, for people who type.
    pub fn line(&mut self) -> Line {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', unseen).map(|position| position + self.scanned) else {
            self.scanned = self.buffer.len();
            if self.buffer.len() > LONGEST {
                self.buffer.advance(self.buffer.len());
                self.scanned = 0;
                return Line::TooLong;
            }
            return Line::Partial;
        };
        let mut line = self.buffer.split_to(end + 1);
        self.scanned = 0;
        if line.len() > LONGEST {
            return Line::TooLong;
        }
        line.truncate(if line.ends_with(b"\r\n") { end - 1 } else { end });
        Line::Complete(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_bounded() {
        let mut input = Input::default();
        input.buffer().extend_from_slice(b"NOOP\r\n\nQU");
        assert_eq!(input.line(), Line::Complete(BytesMut::from(&b"NOOP"[..])));
        assert_eq!(input.line(), Line::Complete(BytesMut::new()));
        assert_eq!(input.line(), Line::Partial);
        input.buffer().extend_from_slice(b"IT\r\n");
        assert_eq!(input.line(), Line::Complete(BytesMut::from(&b"QUIT"[..])));
        input.buffer().extend_from_slice(&[b'x'; 5000]);
        assert_eq!(input.line(), Line::TooLong);
        assert!(input.buffer().is_empty());
    }
}
