//! A message as a multi-line response (RFC 1939 3): dot-stuffed and ended, as pieces of the message itself.

use bytes::Bytes;
use memchr::memmem;

/// The pieces of a response, in order.
#[derive(Clone, Debug)]
pub struct Stuffing {
    rest: Bytes,
    state: State,
    /// The last piece of the message ended with CRLF, or there was none.
    line_ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    InLine,
    Over,
}

impl Stuffing {
    pub fn new(message: Bytes) -> Self {
        Self {
            line_ended: message.is_empty() || message.ends_with(b"\r\n"),
            rest: message,
            state: State::LineStart,
        }
    }
}

impl Iterator for Stuffing {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.state == State::Over {
            return None;
        }
        if self.rest.is_empty() {
            self.state = State::Over;
            return Some(Bytes::from_static(if self.line_ended { b".\r\n" } else { b"\r\n.\r\n" }));
        }
        if self.state == State::LineStart {
            self.state = State::InLine;
            if self.rest.starts_with(b".") {
                return Some(Bytes::from_static(b"."));
            }
        }
        // Up to the next line that begins with a dot.
        Some(match memmem::find(&self.rest, b"\r\n.") {
            Some(position) => {
                self.state = State::LineStart;
                self.rest.split_to(position + 2)
            }
            None => std::mem::take(&mut self.rest),
        })
    }
}

/// The header, the empty line, and so many lines of the body (TOP, RFC 1939 7). Here LF alone ends a line, too:
/// broken messages should not show more than was asked for.
pub fn top(message: &Bytes, lines: u32) -> Bytes {
    let mut end = 0;
    let mut left = None;
    while left != Some(0) {
        let rest = message.get(end..).unwrap_or_default();
        let Some(length) = memchr::memchr(b'\n', rest).map(|position| position + 1) else {
            return message.clone();
        };
        end += length;
        left = match left {
            Some(more) => Some(more - 1),
            None => matches!(rest.get(..length), Some(b"\n" | b"\r\n")).then_some(lines),
        };
    }
    message.slice(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client does.
    fn unstuff(wire: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = wire;
        loop {
            if rest == b".\r\n" {
                return out;
            }
            let line_end = memmem::find(rest, b"\r\n").expect("ended too early") + 2;
            let (line, after) = rest.split_at(line_end);
            assert_ne!(line, b".\r\n", "ended too early");
            out.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            rest = after;
        }
    }

    #[test]
    fn any_message_comes_back() {
        let mut seed = 1u64;
        let mut below = |bound: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        for _ in 0..20_000 {
            let length = below(24);
            let message: Vec<u8> =
                (0..length).map(|_| [b'.', b'\r', b'\n', b'x', 0, 255][below(6) as usize]).collect();
            let wire: Vec<u8> = Stuffing::new(message.clone().into()).flatten().collect();
            let mut expected = message;
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            assert_eq!(unstuff(&wire), expected);
        }
    }

    #[test]
    fn a_message_without_dots_is_one_piece_and_not_copied() {
        let message = Bytes::from(vec![b'x'; 100_000]);
        let mut pieces = Stuffing::new(message.clone());
        assert_eq!(pieces.next().unwrap().as_ptr(), message.as_ptr());
        assert_eq!(pieces.next().as_deref(), Some(&b"\r\n.\r\n"[..]));
        assert_eq!(pieces.next(), None);
    }

    #[test]
    fn top_cuts_behind_the_lines_asked_for() {
        let message = Bytes::from_static(b"A: b\r\nC: d\r\n\r\none\r\ntwo\r\n");
        assert_eq!(&top(&message, 0)[..], b"A: b\r\nC: d\r\n\r\n");
        assert_eq!(&top(&message, 1)[..], b"A: b\r\nC: d\r\n\r\none\r\n");
        assert_eq!(top(&message, 2), message);
        assert_eq!(top(&message, u32::MAX), message);
        assert_eq!(&top(&Bytes::from_static(b"A: b\n\none\ntwo"), 1)[..], b"A: b\n\none\n");
        assert_eq!(&top(&Bytes::from_static(b"no end"), 0)[..], b"no end");
        assert_eq!(&top(&Bytes::new(), 0)[..], b"");
    }
}
