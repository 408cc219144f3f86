//! Cuts the client's byte stream into commands (RFC 9051 2.2.1, 4.3; RFC 7888).
//!
//! A command is text and literals in turn. Text is at most [`Limits::line`] bytes a command; literals are at most
//! [`Limits::literal`] bytes together, except those of an APPEND by a client that has logged in, which may be
//! [`Limits::append`] bytes. What is too large is refused, skipped if it comes unasked, and the stream goes on
//! behind it. A literal becomes one [`Bytes`] of the read buffer, without a copy.

use bytes::{Buf, Bytes, BytesMut};

/// What a client may send. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Text of one command, outside its literals.
    pub line: usize,
    /// Literals of one command together, unless it is an APPEND.
    pub literal: usize,
    /// Message of an APPEND; told to the client as APPENDLIMIT (RFC 7889).
    pub append: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { line: 64 * 1024, literal: 64 * 1024, append: 64 * 1024 * 1024 }
    }
}

/// A part of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A line without its end; with the `{n}` that announces the literal behind it, if there is one.
    Text(Bytes),
    Literal {
        bytes: Bytes,
        /// Sent as literal8 (RFC 9051 4.3), which may hold NUL.
        binary: bool,
    },
}

/// What came out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A complete command, not yet parsed.
    Command(Vec<Piece>),
    /// In line mode: one line, without its end.
    Line(Bytes),
    /// The client waits for `+` before it sends a literal.
    Continue,
    /// A command that was dropped; the stream goes on behind it.
    Refused { tag: Option<Bytes>, refusal: Refusal },
    /// The client sends so much that skipping it is not worth it. Nothing comes after this.
    Flood,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    LineTooLong,
    LiteralTooLong,
}

#[derive(Debug)]
enum State {
    Text,
    Literal { length: usize, binary: bool },
    Skip { remaining: u64 },
    Dead,
}

/// How much of the end of a line that is too long is kept, to see whether it announces a literal.
const TAIL: usize = 40;
const LARGEST_STEP: usize = 1024 * 1024;
const READ_SIZE: usize = 4096;

/// The incremental decoder. Feed [`Decoder::buffer`], then call [`Decoder::next`] until it returns `None`.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no LF.
    scanned: usize,
    state: State,
    pieces: Vec<Piece>,
    text_length: usize,
    literal_length: usize,
    line_mode: bool,
    append_allowed: bool,
    /// The command being read is to be refused, once it is over.
    refusal: Option<Refusal>,
    refused_tag: Option<Bytes>,
}

impl Decoder {
    pub fn new(limits: Limits) -> Decoder {
        Decoder {
            limits,
            buffer: BytesMut::new(),
            scanned: 0,
            state: State::Text,
            pieces: Vec::new(),
            text_length: 0,
            literal_length: 0,
            line_mode: false,
            append_allowed: false,
            refusal: None,
            refused_tag: None,
        }
    }

    /// Where to read into: has spare room, fitted to what is expected next.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let wanted = match self.state {
            // Room grows with what has come, so that an announcement alone costs little memory.
            State::Literal { length, .. } => {
                let missing = length.saturating_sub(self.buffer.len()) + TAIL;
                missing.min(self.buffer.len().max(LARGEST_STEP))
            }
            _ => READ_SIZE,
        };
        if self.buffer.capacity() - self.buffer.len() < wanted.min(READ_SIZE / 2) || wanted > READ_SIZE {
            self.buffer.reserve(wanted);
        }
        &mut self.buffer
    }

    /// How many bytes were read but not yet used.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Adds bytes by copying them: for tests and small inputs.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the next line is not a command but an answer: of AUTHENTICATE, or the end of IDLE.
    pub fn set_line_mode(&mut self, line_mode: bool) {
        self.line_mode = line_mode;
    }

    /// Whether APPEND may have its large literals: after login.
    pub fn allow_append(&mut self) {
        self.append_allowed = true;
    }

    /// Forgets everything that was read: after STARTTLS, what came in clear text must not be taken for
    /// something the peer sent under TLS (RFC 9051 6.2.1).
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.scanned = 0;
        self.finish();
    }

    fn finish(&mut self) -> Vec<Piece> {
        self.text_length = 0;
        self.literal_length = 0;
        self.refusal = None;
        self.refused_tag = None;
        self.state = State::Text;
        std::mem::take(&mut self.pieces)
    }

    /// The next thing the bytes so far hold, or `None` if more are needed.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Input> {
        loop {
            match self.state {
                State::Dead => return None,
                State::Literal { length, binary } => {
                    if self.buffer.len() < length {
                        return None;
                    }
                    let bytes = self.buffer.split_to(length).freeze();
                    self.pieces.push(Piece::Literal { bytes, binary });
                    self.state = State::Text;
                }
                State::Skip { remaining } => {
                    let skipped = (self.buffer.len() as u64).min(remaining);
                    self.buffer.advance(skipped as usize);
                    if skipped < remaining {
                        self.state = State::Skip { remaining: remaining - skipped };
                        return None;
                    }
                    self.state = State::Text;
                }
                State::Text => {
                    let line = self.line()?;
                    if let Some(input) = self.text(line) {
                        return Some(input);
                    }
                }
            }
        }
    }

    /// One line without its end; CRLF, or LF alone. Of a line that is too long, its last bytes.
    fn line(&mut self) -> Option<Bytes> {
        let unseen = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(end) = memchr::memchr(b'\n', unseen).map(|position| position + self.scanned) else {
            self.scanned = self.buffer.len();
            if self.text_length + self.buffer.len() > self.limits.line {
                self.refuse(Refusal::LineTooLong);
                self.buffer.advance(self.buffer.len().saturating_sub(TAIL));
                self.scanned = self.buffer.len();
            }
            return None;
        };
        self.scanned = 0;
        if self.text_length + end > self.limits.line {
            self.refuse(Refusal::LineTooLong);
        }
        let mut line = self.buffer.split_to(end + 1);
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        Some(line.freeze())
    }

    fn refuse(&mut self, refusal: Refusal) {
        if self.refusal.is_none() {
            self.refusal = Some(refusal);
            let first = match self.pieces.first() {
                Some(Piece::Text(text)) => text.clone(),
                _ => {
                    Bytes::copy_from_slice(self.buffer.get(..self.buffer.len().min(TAIL)).unwrap_or_default())
                }
            };
            let end = first.iter().position(|byte| *byte == b' ');
            self.refused_tag = end.map(|end| Bytes::copy_from_slice(first.get(..end).unwrap_or_default()));
        }
        self.pieces.clear();
        self.text_length = 0;
    }

    fn text(&mut self, line: Bytes) -> Option<Input> {
        if self.line_mode && self.pieces.is_empty() {
            let refused = self.refusal;
            self.finish();
            return Some(match refused {
                Some(refusal) => Input::Refused { tag: None, refusal },
                None => Input::Line(line),
            });
        }
        let announced = announced_literal(&line);
        self.text_length += line.len();
        self.pieces.push(Piece::Text(line));
        let Some(literal) = announced else {
            let (refusal, tag) = (self.refusal, self.refused_tag.take());
            let pieces = self.finish();
            return Some(match refusal {
                Some(refusal) => Input::Refused { tag, refusal },
                None => Input::Command(pieces),
            });
        };
        let total = (self.literal_length as u64).saturating_add(literal.length);
        if self.refusal.is_none() && total > self.literal_limit() {
            self.refuse(Refusal::LiteralTooLong);
        }
        match self.refusal {
            // The client waits for us, so it sends nothing more of this command (RFC 9051 4.3).
            Some(refusal) if literal.synchronizing => {
                let tag = self.refused_tag.take();
                self.finish();
                Some(Input::Refused { tag, refusal })
            }
            Some(_) => {
                self.pieces.clear();
                self.text_length = 0;
                if literal.length > self.skip_limit() {
                    self.state = State::Dead;
                    return Some(Input::Flood);
                }
                self.state = State::Skip { remaining: literal.length };
                None
            }
            None => {
                self.literal_length = total as usize;
                self.state = State::Literal { length: literal.length as usize, binary: literal.binary };
                literal.synchronizing.then_some(Input::Continue)
            }
        }
    }

    fn is_append(&self) -> bool {
        let Some(Piece::Text(text)) = self.pieces.first() else { return false };
        text.split(|byte| *byte == b' ').nth(1).is_some_and(|word| word.eq_ignore_ascii_case(b"APPEND"))
    }

    fn literal_limit(&self) -> u64 {
        if self.append_allowed && self.is_append() {
            u64::from(self.limits.append).saturating_add(if self.pieces.len() > 1 { 4096 } else { 0 })
        } else {
            self.limits.literal as u64
        }
    }

    fn skip_limit(&self) -> u64 {
        if self.append_allowed { u64::from(self.limits.append).saturating_mul(4) } else { 1024 * 1024 }
    }
}

struct Announced {
    length: u64,
    synchronizing: bool,
    binary: bool,
}

/// `{n}`, `{n+}`, `~{n}` or `~{n+}` at the end of a line (RFC 9051 section 9, `literal`; RFC 7888; RFC 3516).
fn announced_literal(line: &[u8]) -> Option<Announced> {
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner.get(inner.len().saturating_sub(TAIL)..)?)?
        + inner.len().saturating_sub(TAIL);
    let number = inner.get(open + 1..)?;
    let (number, synchronizing) = match number.strip_suffix(b"+") {
        Some(number) => (number, false),
        None => (number, true),
    };
    if number.is_empty() || number.len() > 19 || !number.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length = number.iter().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let binary = open > 0 && line.get(open - 1) == Some(&b'~');
    Some(Announced { length, synchronizing, binary })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder() -> Decoder {
        Decoder::new(Limits { line: 100, literal: 50, append: 1000 })
    }

    fn all(decoder: &mut Decoder) -> Vec<Input> {
        std::iter::from_fn(|| decoder.next()).collect()
    }

    fn text(text: &str) -> Piece {
        Piece::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn literal(text: &str) -> Piece {
        Piece::Literal { bytes: Bytes::copy_from_slice(text.as_bytes()), binary: false }
    }

    fn refused(tag: &'static str, refusal: Refusal) -> Input {
        Input::Refused { tag: Some(Bytes::from_static(tag.as_bytes())), refusal }
    }

    #[test]
    fn a_stream_gives_the_same_commands_however_it_is_cut() {
        let stream = b"a LOGIN {3}\r\nfoo {4+}\r\nb\r\nr\r\nb NOOP\nc APPEND x ~{2+}\r\n\0\0\r\n";
        let expected = vec![
            Input::Continue,
            Input::Command(vec![
                text("a LOGIN {3}"),
                literal("foo"),
                text(" {4+}"),
                literal("b\r\nr"),
                text(""),
            ]),
            Input::Command(vec![text("b NOOP")]),
            Input::Command(vec![
                text("c APPEND x ~{2+}"),
                Piece::Literal { bytes: Bytes::from_static(b"\0\0"), binary: true },
                text(""),
            ]),
        ];
        for step in 1..stream.len() {
            let mut decoder = decoder();
            let mut found = Vec::new();
            for chunk in stream.chunks(step) {
                decoder.push(chunk);
                found.extend(all(&mut decoder));
            }
            assert_eq!(found, expected, "step {step}");
        }
    }

    #[test]
    fn a_synchronizing_literal_that_is_too_long_is_refused_at_once() {
        let mut decoder = decoder();
        decoder.push(b"a LOGIN {51}\r\n");
        assert_eq!(all(&mut decoder), [refused("a", Refusal::LiteralTooLong)]);
        decoder.push(b"b NOOP\r\n");
        assert_eq!(all(&mut decoder), [Input::Command(vec![text("b NOOP")])]);
    }

    #[test]
    fn a_literal_sent_unasked_that_is_too_long_is_skipped() {
        let mut decoder = decoder();
        decoder.push(b"a LOGIN {60+}\r\n");
        decoder.push(&[b'x'; 30]);
        assert_eq!(all(&mut decoder), []);
        decoder.push(&[b'\n'; 30]);
        decoder.push(b" {3+}\r\nabc more\r\nb NOOP\r\n");
        assert_eq!(
            all(&mut decoder),
            [refused("a", Refusal::LiteralTooLong), Input::Command(vec![text("b NOOP")])]
        );
    }

    #[test]
    fn a_flood_ends_the_stream() {
        let mut decoder = decoder();
        decoder.push(b"a LOGIN {99999999999+}\r\nb NOOP\r\n");
        assert_eq!(all(&mut decoder), [Input::Flood]);
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_costs_bounded_memory() {
        let mut decoder = decoder();
        decoder.push(b"tag SEARCH ");
        for _ in 0..1000 {
            decoder.push(&[b'x'; 100]);
            assert_eq!(all(&mut decoder), []);
            assert!(decoder.buffer.len() <= 200);
        }
        decoder.push(b"\r\nb NOOP\r\n");
        assert_eq!(
            all(&mut decoder),
            [refused("tag", Refusal::LineTooLong), Input::Command(vec![text("b NOOP")])]
        );
    }

    #[test]
    fn only_an_append_after_login_may_be_large() {
        let mut decoder = decoder();
        decoder.push(b"a APPEND x {999}\r\n");
        assert_eq!(all(&mut decoder), [refused("a", Refusal::LiteralTooLong)]);
        decoder.allow_append();
        decoder.push(b"a APPEND x {999}\r\n");
        assert_eq!(all(&mut decoder), [Input::Continue]);
        decoder.push(&[b'y'; 999]);
        decoder.push(b"\r\na APPEND x {1001}\r\n");
        assert!(matches!(all(&mut decoder)[..], [Input::Command(_), Input::Refused { .. }]));
    }

    #[test]
    fn line_mode_takes_no_literals() {
        let mut decoder = decoder();
        decoder.set_line_mode(true);
        decoder.push(b"abc {5}\r\n*\r\n");
        assert_eq!(
            all(&mut decoder),
            [Input::Line(Bytes::from_static(b"abc {5}")), Input::Line(Bytes::from_static(b"*"))]
        );
    }

    #[test]
    fn a_large_literal_passes_without_a_copy_of_its_own() {
        let mut decoder = Decoder::new(Limits::default());
        decoder.allow_append();
        decoder.push(b"a APPEND x {3000000}\r\n");
        assert_eq!(all(&mut decoder), [Input::Continue]);
        while decoder.buffer.len() < 3_000_000 {
            let room = decoder.buffer();
            let step = (room.capacity() - room.len()).min(3_000_000 - room.len());
            assert!(step > 0);
            let length = room.len();
            room.resize(length + step, b'z');
        }
        let start = decoder.buffer.as_ptr();
        decoder.push(b"\r\n");
        let Some(Input::Command(pieces)) = decoder.next() else { panic!("no command") };
        let Some(Piece::Literal { bytes, .. }) = pieces.get(1) else { panic!("no literal") };
        assert_eq!((bytes.len(), bytes.as_ptr()), (3_000_000, start));
    }
}
