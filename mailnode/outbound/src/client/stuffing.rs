//! The message as DATA sends it: a dot before each dot at the beginning of a line (RFC 5321 4.5.2), and the lone dot
//! at the end.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the message that are put out at once, at most.
const WINDOW: usize = 64 * 1024;

/// A message on its way out, all of whose lines end with CRLF.
#[derive(Debug)]
pub struct Stuffing {
    rest: Bytes,
    at_line_start: bool,
    over: bool,
}

impl Stuffing {
    pub const fn new(message: Bytes) -> Self {
        Self { rest: message, at_line_start: true, over: false }
    }

    /// Puts the next window behind `output`. False after the last.
    pub fn proceed(&mut self, output: &mut BytesMut) -> bool {
        if self.over {
            return false;
        }
        let mut room = WINDOW;
        while room > 0 && !self.rest.is_empty() {
            if self.at_line_start && self.rest.starts_with(b".") {
                output.extend_from_slice(b".");
            }
            let window = self.rest.get(..room).unwrap_or(&self.rest);
            let length = memchr::memchr(b'\n', window).map_or(window.len(), |end| end + 1);
            let line = window.get(..length).unwrap_or_default();
            self.at_line_start = line.ends_with(b"\n");
            output.extend_from_slice(line);
            self.rest.advance(length);
            room -= length;
        }
        if self.rest.is_empty() {
            self.over = true;
            output.extend_from_slice(if self.at_line_start { b".\r\n" } else { b"\r\n.\r\n" });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(message: &[u8]) -> Vec<u8> {
        let mut stuffing = Stuffing::new(Bytes::copy_from_slice(message));
        let mut output = BytesMut::new();
        while stuffing.proceed(&mut output) {}
        output.to_vec()
    }

    #[test]
    fn only_dots_at_the_beginning_of_a_line_are_doubled() {
        assert_eq!(whole(b".a\r\n..b.\r\n.\r\nc.d\r\n"), b"..a\r\n...b.\r\n..\r\nc.d\r\n.\r\n");
        assert_eq!(whole(b""), b".\r\n");
        assert_eq!(whole(b"no end"), b"no end\r\n.\r\n");
    }

    #[test]
    fn windows_change_nothing() {
        let message = b".x\r\n".repeat(WINDOW);
        assert_eq!(whole(&message), [b"..x\r\n".repeat(WINDOW), b".\r\n".to_vec()].concat());
        let line = vec![b'.'; 3 * WINDOW];
        assert_eq!(whole(&line), [b".".to_vec(), line, b"\r\n.\r\n".to_vec()].concat());
    }
}
